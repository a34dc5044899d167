"""Pose metrics as pure functions of errors in radians, and of azimuths where a data set labels nothing else.

Convention: errors are geodesic angles in radians in [0, pi]
(:func:`nvsm_lightning.geometry.viewpoints.geodesic_error`), computed on viewpoints only; distance and translation play
no part. Accuracies are per cent of the pictures with an error *strictly* below the threshold, as in NeMo, NVSM and
PASCAL3D+; StarMap counts ``<=``.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.viewpoints import viewpoint_error, wrap_angle

FLIP = math.radians(150.0)  # an error above this is a front/back flip


def pose_error(predicted: Float[Tensor, "picture 3"], truth: Float[Tensor, "picture 3"]) -> Float[Tensor, " picture"]:
    """Error in radians of predicted against true viewpoints; NaN where the truth is unknown.

    Where only the azimuth of the truth is known (NaN elevation or theta), the error is the wrapped azimuth difference.
    A prediction that is not finite counts as pi, the largest error there is: it is never left out and never flattered
    (NeMo's code gives it pi/2).
    """
    known = truth.isfinite()
    filled = torch.where(known, truth, torch.where(predicted.isfinite(), predicted, 0.0))
    error = viewpoint_error(predicted.nan_to_num(0.0, 0.0, 0.0), filled)
    azimuth_only = wrap_angle(predicted[:, 0] - truth[:, 0]).abs()
    error = torch.where(known.all(-1), error, azimuth_only)
    error = torch.where(predicted.isfinite().all(-1), error, torch.full_like(error, math.pi))
    return torch.where(known[:, 0], error, torch.full_like(error, torch.nan))


def pose_metrics(error: Float[Tensor, " picture"]) -> dict[str, float]:
    """Accuracies, median and mean of errors in radians; NaN errors (unknown truth) are left out and not counted.

    Returns:
        ``acc_pi_6`` and ``acc_pi_18`` (per cent, strict), ``med_err_deg``, ``mean_err_deg``, ``flip_180_rate`` (share,
        0 to 1, of errors above 150 degrees) and ``n_images``. The median of an even count is the mean of the two middle
        values.

    Raises:
        DataError: if no error is known.
    """
    error = _known(error)
    return {
        "acc_pi_6": 100 * (error < math.pi / 6).double().mean().item(),
        "acc_pi_18": 100 * (error < math.pi / 18).double().mean().item(),
        "med_err_deg": math.degrees(error.quantile(0.5).item()),
        "mean_err_deg": math.degrees(error.mean().item()),
        "flip_180_rate": (error > FLIP).double().mean().item(),
        "n_images": len(error),
    }


def legacy_sqrt2_metrics(error: Float[Tensor, " picture"]) -> dict[str, float]:
    """Accuracies and median as older viewpoint toolboxes have them, for comparison with their tables alone.

    They take MATLAB's ``norm(logm(R)) / sqrt(2)``, which is the spectral norm where the Frobenius norm was meant, so
    that every error comes out sqrt(2) too small: 30 degrees count as 21.2, and ACC pi/6 is the share below 42.4
    degrees (Render for CNN and those who took over its code).

    Raises:
        DataError: if no error is known.
    """
    small = pose_metrics(error / math.sqrt(2))
    return {f"{name}_legacy_sqrt2": small[name] for name in ("acc_pi_6", "acc_pi_18", "med_err_deg")}


def azimuth_metrics(predicted: Float[Tensor, " picture"], truth: Float[Tensor, " picture"]) -> dict[str, float]:
    """``azimuth_mae_deg`` and ``azimuth_median_deg``: mean and median absolute azimuth difference, wrapped, in degrees.

    Azimuths are radians of any turn; a prediction that is not finite counts as 180 degrees, an unknown truth is left
    out.
    """
    difference = wrap_angle(predicted - truth).abs()
    difference = torch.where(predicted.isfinite(), difference, torch.full_like(difference, math.pi))
    error = _known(torch.where(truth.isfinite(), difference, torch.full_like(difference, torch.nan)))
    return {
        "azimuth_mae_deg": math.degrees(error.mean().item()),
        "azimuth_median_deg": math.degrees(error.quantile(0.5).item()),
    }


def _known(error: Float[Tensor, " picture"]) -> Float[Tensor, " known"]:
    known = error[~error.isnan()].double()
    if not len(known):
        raise DataError(
            f"None of the {len(error)} test pictures has a known pose, so there is nothing to measure. "
            "Give test pictures with angles, or use `nvsm predict`, which needs none."
        )
    return known
