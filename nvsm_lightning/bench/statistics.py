"""Numbers of a bench row: mean and spread over label draws, bootstrap over test pictures, paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics.intervals import bootstrap_interval
from nvsm_lightning.metrics.pose import FLIP

# key: (heading, whether more is better)
METRICS = {
    "acc_pi_6": ("ACC pi/6, %", True),
    "acc_pi_18": ("ACC pi/18, %", True),
    "med_err_deg": ("median, deg", False),
    "mean_err_deg": ("mean, deg", False),
    "flip_180_rate": (">150 deg, %", False),
}
LEVEL = 0.95
Source = tuple[int, int, str]  # draw, fold, key of the picture


@dataclass(frozen=True)
class Cell:
    """One number of a table; None where there is none.

    Attributes:
        mean: over the draws.
        std: standard deviation over the draws (n - 1).
        worst: of the draws.
        low: of the 95 % bootstrap interval of the mean over the test pictures.
        high: see ``low``.
        draws_low: of the 95 % t interval of the mean over the draws.
        draws_high: see ``draws_low``.
    """

    mean: float
    std: float | None = None
    worst: float | None = None
    low: float | None = None
    high: float | None = None
    draws_low: float | None = None
    draws_high: float | None = None


@dataclass(frozen=True)
class Pictures:
    """Test pictures of all rows of a table in one order, so that rows can be compared picture by picture.

    An entry is a picture in a fold: with folds that overlap a picture has several, which share its weight of one.
    """

    entries: tuple[tuple[int, str], ...]
    number: Int[Tensor, " entry"]
    count: int

    @classmethod
    def of(cls, rows: Sequence[Mapping[Source, float]]) -> "Pictures":
        """Those of some rows of errors."""
        entries = tuple(sorted({(fold, key) for row in rows for _, fold, key in row}))
        keys = {key: number for number, key in enumerate(sorted({key for _, key in entries}))}
        return cls(entries, torch.tensor([keys[key] for _, key in entries], dtype=torch.long), len(keys))

    def errors(self, row: Mapping[Source, float], draws: Sequence[int]) -> Float[Tensor, "draw entry"]:
        """Errors in degrees of a row, NaN where a draw did not test a picture or its truth is not known."""
        return torch.tensor(
            [[row.get((draw, fold, key), math.nan) for fold, key in self.entries] for draw in draws],
            dtype=torch.double,
        )

    def once(self, error: Float[Tensor, "draw entry"]) -> Float[Tensor, "draw entry"]:
        """Weights with which every picture counts once in each draw, over the folds that tested it."""
        known = error.isfinite().double()
        times = torch.zeros(len(error), self.count, dtype=torch.double).index_add_(1, self.number, known)
        return known / times[:, self.number].clamp_min(1)

    def resampled(self, picture: Float[Tensor, "sample picture"]) -> Float[Tensor, "sample entry"]:
        """How often each entry is in each bootstrap sample of picture numbers."""
        times = torch.zeros(len(picture), self.count, dtype=torch.double)
        times.scatter_add_(1, picture.long(), torch.ones_like(picture, dtype=torch.double))
        return times[:, self.number]


def measure(
    key: str,
    error: Float[Tensor, "draw entry"],
    weight: Float[Tensor, "draw entry"],
    sample: Float[Tensor, "sample entry"],
) -> Float[Tensor, "sample draw"]:
    """A metric of errors in degrees, for each draw and each sample; definitions as in ``metrics.pose.pose_metrics``,
    with weights, and the flip rate in per cent."""
    known = error.isfinite()
    error = error.nan_to_num()
    total = sample @ weight.T
    if key == "med_err_deg":
        return torch.stack([_median(error[d], weight[d], sample, total[:, d]) for d in range(len(error))], 1)
    values = {
        "acc_pi_6": 100.0 * (error < 30),
        "acc_pi_18": 100.0 * (error < 10),
        "mean_err_deg": error,
        "flip_180_rate": 100.0 * (error > math.degrees(FLIP)),
    }[key]
    return sample @ (values * weight * known).T / total


def _median(
    error: Float[Tensor, " entry"],
    weight: Float[Tensor, " entry"],
    sample: Float[Tensor, "sample entry"],
    total: Float[Tensor, " sample"],
) -> Float[Tensor, " sample"]:
    """Weighted median; the mean of the two middle values where half the weight lies on each side."""
    order = error.argsort()
    order = order[weight[order] > 0]
    below = (sample[:, order] * weight[order]).cumsum(1)
    half, slack = total[:, None] / 2, 1e-9 * total[:, None]
    last = len(order) - 1
    lower = (below < half - slack).sum(1).clamp_max(last)
    upper = (below <= half + slack).sum(1).clamp_max(last)
    return torch.where(total > 0, (error[order][lower] + error[order][upper]) / 2, torch.nan)


def row_cells(pictures: Pictures, error: Float[Tensor, "draw entry"], seed: int = 0) -> dict[str, Cell]:
    """The cells of a method."""
    return _cells(pictures, [(1.0, error)], seed)


def difference_cells(
    pictures: Pictures, error: Float[Tensor, "draw entry"], base: Float[Tensor, "draw entry"], seed: int = 0
) -> dict[str, Cell]:
    """The cells of a method minus the base: each draw with the same draw, each picture with the same picture.

    Pictures that only one of the two tested are left out. ``worst`` is that of the draws' differences.
    """
    both = error.isfinite() & base.isfinite()
    nan = torch.full_like(error, math.nan)
    return _cells(pictures, [(1.0, torch.where(both, error, nan)), (-1.0, torch.where(both, base, nan))], seed)


def better_draws(values: Sequence[float], key: str = "acc_pi_6") -> int:
    """In how many draws a difference is to the better."""
    return sum(value > 0 if METRICS[key][1] else value < 0 for value in values)


def draw_values(pictures: Pictures, error: Float[Tensor, "draw entry"]) -> dict[str, list[float]]:
    """Every metric of every draw.

    Raises:
        DataError: a draw has no test picture whose pose is known.
    """
    weight = pictures.once(error)
    if not len(error) or bool((weight.sum(1) == 0).any()):
        raise DataError("A draw has no test picture of known pose, so there is nothing to measure.")
    all_once = torch.ones(1, len(pictures.entries), dtype=torch.double)
    return {key: measure(key, error, weight, all_once)[0].tolist() for key in METRICS}


def spread(values: Sequence[float], more_is_better: bool) -> Cell:
    """Mean, standard deviation, worst and t interval of the values of the draws."""
    mean = sum(values) / len(values)
    worst = min(values) if more_is_better else max(values)
    if len(values) < 2:
        return Cell(mean, None, worst)
    std = float(torch.tensor(values, dtype=torch.double).std())
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return Cell(mean, std, worst, draws_low=mean - half, draws_high=mean + half)


def _cells(pictures: Pictures, terms: list[tuple[float, Tensor]], seed: int) -> dict[str, Cell]:
    """Cells of a signed sum of rows; one bootstrap sample of pictures serves all of its terms."""
    cells = {}
    weighted = [(sign, error, pictures.once(error)) for sign, error in terms]
    points = [draw_values(pictures, error) for _, error in terms]
    numbers = torch.arange(pictures.count, dtype=torch.double)
    for key, (_, more_is_better) in METRICS.items():
        signs = [sign for sign, _ in terms]
        values = [
            sum(sign * point for sign, point in zip(signs, draw, strict=True))
            for draw in zip(*(point[key] for point in points), strict=True)
        ]

        def statistic(sample: Tensor, key: str = key) -> Tensor:
            """The metric, or the difference of two, over resampled pictures."""
            times = pictures.resampled(sample)
            parts = [sign * measure(key, error, weight, times).nanmean(1) for sign, error, weight in weighted]
            return torch.stack(parts).sum(0)

        low, high = bootstrap_interval(numbers, statistic, seed, level=LEVEL)
        over = spread(values, more_is_better)
        cells[key] = Cell(over.mean, over.std, over.worst, low, high, over.draws_low, over.draws_high)
    return cells
