"""CPU time of rival ways of doing one thing, measured in turns so that a busy machine harms all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nvsm_lightning.bench.speed_rows import Row

LEAST = 3  # rounds, whatever they take
MOST = 200


@dataclass(frozen=True)
class Times:
    """CPU seconds of a call, all threads of the process together: median, quartiles, and that of the first call, which
    compiles and allocates and does not count.
    """

    median: float
    low: float
    high: float
    first: float
    rounds: int


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU time of one call, seconds."""
    start = time.process_time()
    action()
    return time.process_time() - start


def threads_used() -> str:
    """The threads of this process, in words, for what a row is about."""
    return f"{torch.get_num_threads()} thread(s)"


def in_turns(actions: Mapping[str, Callable[[], object]], budget_s: float, least: int = LEAST) -> dict[str, Times]:
    """Each action once, then all of them in turns until ``budget_s`` seconds (of CPU time) are over; at least ``least``
    rounds.
    """
    first = {name: cpu_seconds(action) for name, action in actions.items()}
    found: dict[str, list[float]] = {name: [] for name in actions}
    start, rounds = time.process_time(), 0
    while rounds < least or (time.process_time() - start < budget_s and rounds < MOST):
        for name, action in actions.items():
            found[name].append(cpu_seconds(action))
        rounds += 1
    return {name: _summary(values, first[name]) for name, values in found.items()}


def _summary(values: list[float], first: float) -> Times:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
    return Times(median, low, high, first, len(values))


def per_item(
    name: str, what: str, times: Times, items: int, unit: str = "ms/picture", against: Row | None = None, note: str = ""
) -> Row:
    """A row in milliseconds an item; ``ratio`` is how many times less time than the row ``against`` it takes."""
    scale = 1000 / items
    value = times.median * scale
    ratio = against.value / value if against else None
    baseline = against.name if against else ""
    return Row(name, what, value, unit, baseline, ratio, (times.low * scale, times.high * scale), note)
