"""What is said of the pose distribution of a picture: modes and their mass, entropy, flip mass, and, where the truth is
known, how probable it was. And the temperature, fitted on validation pictures.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint, viewpoint_error, wrap_angle
from nvsm_lightning.pose.posterior import pose_posterior
from nvsm_lightning.pose.solver import ScoredPoses

CIRCLE, SO3 = "circle", "SO(3)"
SPACES = {(0,): CIRCLE, (0, 1): "sphere", (0, 1, 2): SO3}
VOLUMES = {CIRCLE: 2 * math.pi, "sphere": 4 * math.pi, SO3: math.pi**2}
MODES = 3  # reported of every picture
NEAR = math.radians(30.0)  # mass this close belongs to a mode; modes are twice as far apart
FLIPPED = math.radians(150.0)  # mass further than this from the reported pose is ambiguity of front and back
AZIMUTHS = 120  # of the azimuth density
TEMPERATURES = (1e-5, 10.0)  # searched


def space_name(angles: Sequence[int]) -> str:
    """``circle`` (azimuth), ``sphere`` (azimuth, elevation), ``SO(3)``, or the list of the angles."""
    return SPACES.get(tuple(angles), " x ".join(("azimuth", "elevation", "theta")[angle] for angle in angles))


def log_volume(angles: Sequence[int]) -> float:
    """Log of the volume of a space: what a log density against the base measure of mass 1 loses to be one a radian.

    The circle has 2 pi, the sphere 4 pi, and SO(3) pi^2, as in Implicit-PDF (Murphy et al. 2021), where the uniform
    distribution therefore has a negative log-likelihood of 2.29; other products 1, as they have no custom.
    """
    return math.log(VOLUMES.get(space_name(angles), 1.0))


def _cosine(a: Float[Tensor, "batch many dim"], b: Float[Tensor, "batch few dim"]) -> Float[Tensor, "batch many few"]:
    """Cosine of the angles between what :meth:`Measured.embed` gives."""
    product = a @ b.transpose(-1, -2)
    return product if a.shape[-1] == 2 else (product - 1) / 2


@dataclass(frozen=True)
class Measured:
    """Which angles count: all that are free, or of data that label nothing else the azimuth alone."""

    free: Bool[Tensor, "3"]
    azimuth_only: bool = False

    @property
    def angles(self) -> tuple[int, ...]:
        """The angles by number: 0 azimuth, 1 elevation, 2 theta."""
        free = tuple(int(angle) for angle in self.free.nonzero()[:, 0])
        return free[:1] if self.azimuth_only else free

    def distance(self, a: Float[Tensor, "*#batch 3"], b: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch"]:
        """Angle in radians between viewpoints, in the space that counts."""
        if self.angles == (0,):
            return wrap_angle(a[..., 0] - b[..., 0]).abs()
        return viewpoint_error(a, b)

    def embed(self, viewpoint: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch dim"]:
        """Points whose inner product tells the angle (:func:`_cosine`): many pairs cost one matrix product."""
        if self.angles == (0,):
            return torch.stack((viewpoint[..., 0].cos(), viewpoint[..., 0].sin()), -1)
        return rotation_from_viewpoint(viewpoint).flatten(-2)


def describe_posterior(
    scored: ScoredPoses,
    best: Float[Tensor, "batch 3"],
    truth: Float[Tensor, "batch 3"],
    measured: Measured,
    temperature: float,
    count: int = 1024,
) -> dict[str, Float[Tensor, "batch ..."]]:
    """The numbers that are reported of each picture; masses are shares of ``count`` draws.

    Returns:
        ``entropy`` (nats, against :func:`log_volume`); ``flip_mass`` (further than 150 degrees from ``best``); ``mode``
        [batch, 3, 3] (``best``, then the next refined modes or grid poses at least 60 degrees apart, by mass; NaN where
        there is none) and ``mode_mass`` [batch, 3] (within 30 degrees of the mode); ``azimuth_density`` (a radian, at
        :data:`AZIMUTHS` azimuths); and of a known truth ``log_density`` with the temperature,
        ``log_density_uncalibrated`` with T = 1 (both against :func:`log_volume`) and ``level``, the mass of all that is
        denser than the truth, NaN where it is unknown.
    """
    posterior = pose_posterior(scored, measured.free, temperature)
    best, truth, angles = best.double(), truth.to(best.device).double(), measured.angles
    draws, volume = posterior.draws(count), log_volume(angles)
    density = posterior.log_density(draws, angles)
    seen = measured.embed(draws)
    away = _cosine(seen, measured.embed(best[:, None]))[..., 0]
    mode, mass = _modes(scored, best, seen, measured)
    known = truth[:, list(angles)].isfinite().all(-1)
    filled = torch.where(truth.isfinite(), truth, best)[:, None]
    at_truth = posterior.log_density(filled, angles)
    plain = pose_posterior(scored, measured.free, 1.0).log_density(filled, angles) if known.any() else at_truth
    azimuth = torch.arange(AZIMUTHS, device=best.device) * (2 * math.pi / AZIMUTHS)
    round_about = torch.stack((azimuth, *torch.zeros(2, AZIMUTHS).to(azimuth)), -1).expand(len(best), -1, -1)

    def if_known(value: Tensor) -> Tensor:
        """NaN where the truth is unknown."""
        return torch.where(known, value, torch.nan)

    return {
        "entropy": volume - density.mean(1),
        "flip_mass": (away < math.cos(FLIPPED)).double().mean(1),
        "mode": mode,
        "mode_mass": mass,
        "azimuth_density": posterior.log_density(round_about, (0,)).exp() / (2 * math.pi),
        "log_density": if_known(at_truth[:, 0] - volume),
        "log_density_uncalibrated": if_known(plain[:, 0] - volume),
        "level": if_known((density > at_truth).double().mean(1)),
    }  # fmt: skip


def _modes(
    scored: ScoredPoses, best: Float[Tensor, "batch 3"], draws: Float[Tensor, "batch draw dim"], measured: Measured
) -> tuple[Float[Tensor, "batch mode 3"], Float[Tensor, "batch mode"]]:
    """The reported pose and the best candidates that lie apart from it and from one another, with the share of the
    (embedded) draws around each.
    """
    candidates = torch.cat((scored.mode.double(), scored.grid.double().expand(len(best), -1, -1)), 1)
    # A refined mode beats all grid poses: those below it lie in its basin, or would have been refined themselves.
    loss = torch.cat((scored.mode_loss.double() - 1e6, scored.grid_loss.double()), 1).nan_to_num(torch.inf)
    places, chosen, rows = measured.embed(candidates), [best], torch.arange(len(best), device=best.device)
    for _ in range(MODES - 1):
        close = _cosine(places, measured.embed(chosen[-1][:, None]))[..., 0] > math.cos(2 * NEAR)
        loss = loss.masked_fill(close, torch.inf)
        place = loss.argmin(1)
        chosen.append(torch.where(loss[rows, place].isfinite()[:, None], candidates[rows, place], torch.nan))
    mode = torch.stack(chosen, 1)
    mass = (_cosine(draws, measured.embed(mode)) > math.cos(NEAR)).double().mean(1)
    by_mass = mass[:, 1:].sort(dim=1, descending=True, stable=True).indices
    order = torch.cat((torch.zeros_like(rows)[:, None], 1 + by_mass), 1)
    mode = mode.gather(1, order[..., None].expand(-1, -1, 3))
    mode[..., 0] %= 2 * math.pi
    return mode, mass.gather(1, order)


def negative_log_likelihood(
    scored: ScoredPoses, truth: Float[Tensor, "batch 3"], measured: Measured, temperature: float
) -> float:
    """Mean over the pictures, nats, against :func:`log_volume`."""
    density = pose_posterior(scored, measured.free, temperature).log_density(truth[:, None], measured.angles)
    return log_volume(measured.angles) - float(density.mean())


def fit_temperature(scored: ScoredPoses, truth: Float[Tensor, "batch 3"], measured: Measured) -> float:
    """The temperature of the smallest negative log-likelihood; ``truth`` must be known for every picture."""
    low, high = (math.log(temperature) for temperature in TEMPERATURES)
    return math.exp(minimise(lambda x: negative_log_likelihood(scored, truth, measured, math.exp(x)), low, high))


def minimise(function: Callable[[float], float], low: float, high: float, steps: int = 28) -> float:
    """Where a function of one number is smallest: the best of evenly spaced values, then Brent's method around it."""
    width = (high - low) / steps
    start = min((low + width * step for step in range(steps + 1)), key=function)
    bounds = (max(low, start - width), min(high, start + width))
    return float(minimize_scalar(function, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x)
