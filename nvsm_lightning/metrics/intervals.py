"""Percentile bootstrap intervals over the test pictures."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.errors import DataError

CHUNK = 2_000_000  # resampled values held at a time, so that ten thousand pictures do not need gigabytes


def bootstrap_interval(
    values: Float[Tensor, " picture"],
    statistic: Callable[[Float[Tensor, "draw picture"]], Float[Tensor, " draw"]],
    seed: int = 0,
    n: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of ``statistic`` under resampling of the pictures with replacement (Efron 1979).

    It speaks of the choice of test pictures only: not of label draws, training seeds, or the few objects the pictures
    may show.

    Args:
        values: one finite number a picture.
        statistic: reduces the last axis, e.g. ``lambda x: x.mean(-1)``.
        seed: of the draws; the interval is a pure function of its arguments.
        n: number of draws.
        level: coverage, between 0 and 1.

    Raises:
        DataError: if there are no values, or some are not finite.
    """
    broken = int((~values.isfinite()).sum())
    if broken or not len(values):
        raise DataError(f"A bootstrap interval needs finite values; got {len(values)}, {broken} of them not finite.")
    values = values.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, CHUNK // len(values))
    statistics = []
    for start in range(0, n, rows):
        index = torch.randint(len(values), (min(rows, n - start), len(values)), generator=generator)
        statistics.append(statistic(values[index]))
    tail = (1 - level) / 2
    # without the samples that hold no picture of some draw
    low, high = torch.cat(statistics).nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
    return low, high


def mean(values: Float[Tensor, "draw picture"]) -> Float[Tensor, " draw"]:
    """Statistic for accuracies, rates and mean errors."""
    return values.mean(-1)


def median(values: Float[Tensor, "draw picture"]) -> Float[Tensor, " draw"]:
    """Statistic for median errors (mean of the two middle values for an even count)."""
    return values.quantile(0.5, dim=-1)
