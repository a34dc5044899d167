"""How good a predicted distribution over poses is: likelihood of the truth, coverage of its regions, calibration error;
and the distributions it has to beat.

Log densities here are against the base measure of total mass 1 unless said otherwise: the uniform density is 0.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from nvsm_lightning.errors import DataError

CLOSE = math.pi / 6  # "right" of the calibration error: within 30 degrees
LEVELS = torch.arange(1, 20) / 20
CONCENTRATIONS = torch.logspace(-1, 3.5, 46, dtype=torch.double)
SHARES = torch.tensor([0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0], dtype=torch.double)


def point_log_density(
    error: Float[Tensor, "*batch"], concentration: Float[Tensor, "*#batch"], on_circle: bool
) -> Float[Tensor, "*batch"]:
    """Log density, at an angle of ``error`` radians from it, of a distribution around one pose that is the same in all
    directions: von Mises on the circle, matrix-Fisher ``exp(k tr(A^T R))`` on SO(3).

    With ``tr = 1 + 2 cos(error)`` the constant of the latter is ``e^k (I0(2k) - I1(2k))`` (Mohlin et al. 2020, for
    equal singular values).
    """
    error, concentration = error.double(), concentration.double()
    if on_circle:
        return concentration * (error.cos() - 1) - torch.special.i0e(concentration).log()
    twice = 2 * concentration
    return twice * (error.cos() - 1) - (torch.special.i0e(twice) - torch.special.i1e(twice)).log()


def mixture_log_density(
    error: Float[Tensor, "*batch"], concentration: float, share: float, on_circle: bool
) -> Float[Tensor, "*batch"]:
    """:func:`point_log_density` with probability ``1 - share``, uniform with probability ``share``."""
    point, shares = point_log_density(error, torch.tensor(concentration), on_circle), torch.tensor([1 - share, share])
    narrow, uniform = shares.double().log()
    return torch.logaddexp(narrow + point, uniform)  # in logs: narrow ones are as good as zero on the other side


def fit_point(error: Float[Tensor, " picture"], on_circle: bool, shares: Tensor = SHARES) -> tuple[float, float]:
    """(concentration, uniform share) that make errors in radians likeliest, of :data:`CONCENTRATIONS` and ``shares``.

    ``shares=torch.zeros(1)`` fits the concentration alone.
    """
    density = point_log_density(error[:, None], CONCENTRATIONS.to(error.device), on_circle).exp()
    shares = shares.to(density)[:, None]
    likelihood = ((1 - shares) * density[:, None] + shares).clamp_min(1e-300).log().mean(0)
    share, concentration = divmod(int(likelihood.argmax()), len(CONCENTRATIONS))
    return float(CONCENTRATIONS[concentration]), float(shares[share, 0])


def prior_log_density(
    distance: Float[Tensor, "picture label"], between: Float[Tensor, "label label"], on_circle: bool
) -> Float[Tensor, " picture"]:
    """The *prior only* row: an equal mixture of :func:`point_log_density` around the labelled poses, which looks at no
    picture; as wide as makes each labelled pose likeliest under the others.

    Args:
        distance: angles in radians between the true poses and the labelled ones.
        between: angles between the labelled poses.
    """
    count = between.shape[0]
    if count < 2:
        return torch.zeros(len(distance), dtype=torch.double)  # one label tells no width: uniform
    itself = torch.eye(count, dtype=torch.bool)
    left_out = [
        point_log_density(between, concentration, on_circle).masked_fill(itself, -torch.inf).logsumexp(1).mean()
        for concentration in CONCENTRATIONS  # one after the other: thousands of labels have millions of pairs
    ]
    best = CONCENTRATIONS[torch.stack(left_out).argmax()]
    return point_log_density(distance, best, on_circle).logsumexp(1) - math.log(count)


def posterior_metrics(
    log_density: Float[Tensor, " picture"],
    level: Float[Tensor, " picture"],
    mass: Float[Tensor, " picture"],
    error: Float[Tensor, " picture"],
) -> dict[str, float]:
    """Over the pictures whose truth is known.

    Args:
        log_density: of the truth, in any unit, which the result has too.
        level: mass of all poses that are denser than the truth.
        mass: claimed probability that the reported pose is within 30 degrees of the truth.
        error: its error in radians.

    Returns:
        ``nll`` (mean negative log density); ``coverage_50`` and ``coverage_90`` (per cent of the truths inside of the
        smallest region of 50 and 90 % mass; calibrated is 50 and 90); ``coverage_error`` (mean distance, in per cent,
        between coverage and mass of the regions of 5, 10 .. 95 %); ``ece`` (expected calibration error in per cent of
        ``mass`` as a forecast of errors below 30 degrees, 10 bins); ``n_images``.

    Raises:
        DataError: no truth is known.
    """
    known = ~(log_density.isnan() | error.isnan())
    if not known.any():
        raise DataError(f"None of the {len(log_density)} pictures has a known pose: a posterior cannot be judged.")
    level, mass, error = level[known], mass[known], error[known]
    covered = coverage(level)
    return {
        "nll": -float(log_density[known].double().mean()),
        "coverage_50": 100 * float((level < 0.5).double().mean()),
        "coverage_90": 100 * float((level < 0.9).double().mean()),
        "coverage_error": 100 * float((covered - LEVELS).abs().mean()),
        "ece": 100 * float(binary_calibration_error(mass.clamp(0, 1), (error < CLOSE).long(), n_bins=10)),
        "n_images": int(known.sum()),
    }


def coverage(level: Float[Tensor, " picture"]) -> Float[Tensor, " level"]:
    """Share of the pictures whose truth lies in the region of each mass of :data:`LEVELS`."""
    return (level[:, None] < LEVELS.to(level)).double().mean(0).to(LEVELS)
