"""One line of ``nvsm bench speed``, and the modules that measure them."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

# Parts of the bench in the order of the report: each a module with `measure(budget_s: float) -> list[Row]`.
PARTS = {
    "raster": "nvsm_lightning.bench.speed_raster",
    "pose": "nvsm_lightning.bench.speed_pose",
    "matching": "nvsm_lightning.bench.speed_matching",
    "training": "nvsm_lightning.bench.speed_training",
    "scaling": "nvsm_lightning.bench.speed_scaling",
    "predict": "nvsm_lightning.bench.speed_predict",
}


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        name: the path, short and unique within its part: ``"solve, fused, batch 8"``.
        what: sizes and conditions in words: pictures, poses, faces, map, channels, threads.
        value: the figure, a median where it is a time.
        unit: ``"ms/picture"``, ``"poses/s"``, ``"GFLOP/s"``, ``"MiB"``, ``"deg"``, ``"%"``, ...
        baseline: name of the row or machine limit it is compared with, "" for none.
        ratio: how many times better than the baseline (2.0 = twice as fast), None where there is none.
        spread: (lower, upper) quartile of the repeats in ``unit``, None for a single figure.
        note: what limits it, what was left out, or "not installed".
    """

    name: str
    what: str
    value: float
    unit: str
    baseline: str = ""
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""


def measurers() -> dict[str, Callable[[float], list[Row]]]:
    """``measure`` of every part that is installed, in the order of the report."""
    return {
        part: importlib.import_module(module).measure
        for part, module in PARTS.items()
        if importlib.util.find_spec(module) is not None
    }
