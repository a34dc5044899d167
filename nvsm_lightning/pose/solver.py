"""Pose of a batch of pictures: score a grid of starts, refine the best distinct modes, keep the best iterate."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence
from nvsm_lightning.pose.reference import grid_losses_torch, refine_torch
from nvsm_lightning.pose.space import PoseSpace, paper_grid
from nvsm_lightning.render.engines import choose_engine
from nvsm_lightning.render.renderer import FeatureRenderer

# Unit of each parameter beside the three angles, so that one step size fits all: log of the distance factor, and the
# shifts (u, v) in map pixels.
PLACEMENT = {"distance": (0.5, 0.0, 0.0), "translation": (0.0, 20.0, 20.0), "sideways": (0.0, 20.0, 0.0)}


@dataclass
class SolverSettings:
    """How a pose is found.

    Attributes:
        name: "short" (grid of the pose space, a few modes, few Adam steps) or "paper" (NeMo: 144 starts, the best one,
            300 steps).
        objective: "likelihood" (NeMo's, over all cells) or "area" (likelihood ratio, mean over the covered cells).
        modes: distinct starts refined together (short only); the front/back twin of a car is one.
        steps: Adam steps (short only).
        learning_rate: first step size in radians (short only); multiplied by 0.3 every third of the steps.
        mode_distance_deg: two starts are distinct when at least this far apart.
        stride: the grid is scored in every stride-th cell of every stride-th row of the map (short only).
        free: what refinement may change beside the angles: "distance" (along the optical axis), "translation" (in the
            picture) or "sideways" (along its rows). Where the object's centre in the picture is known to a few pixels
            only, a centre held fast turns the object. The E-step holds it: the M-step reads features there.
    """

    name: str = "short"
    objective: str = "likelihood"
    modes: int = 2
    steps: int = 20
    learning_rate: float = 0.1
    mode_distance_deg: float = 30.0
    stride: int = 1
    free: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.name not in ("short", "paper"):
            raise ConfigError(f"Unknown solver {self.name!r}. Choose short or paper.")
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"Unknown objective {self.objective!r}. Choose one of {sorted(OBJECTIVES)}.")
        if unknown := set(self.free) - set(PLACEMENT):
            raise ConfigError(f"A solver frees {sorted(PLACEMENT)} beside the angles, not {sorted(unknown)}.")
        if self.stride < 1 or self.modes < 1:
            raise ConfigError(f"A solver needs stride >= 1 and modes >= 1; got {self}.")


@dataclass(frozen=True)
class PoseEstimate:
    """Best pose of each picture and its loss; ``start`` is the grid pose from which it was refined; ``scored`` is all
    that was scored on the way; ``placement``, where it was free, the log of the distance factor and the shift (u, v) in
    map pixels.
    """

    viewpoint: Float[Tensor, "batch 3"]
    loss: Float[Tensor, " batch"]
    start: Float[Tensor, "batch 3"]
    scored: "ScoredPoses"
    placement: Float[Tensor, "batch 3"] | None = None


@dataclass(frozen=True)
class ScoredPoses:
    """Losses of a batch at every pose of the start grid, and its refined modes with theirs."""

    grid: Float[Tensor, "pose 3"]
    grid_loss: Float[Tensor, "batch pose"]
    mode: Float[Tensor, "batch mode 3"]
    mode_loss: Float[Tensor, "batch mode"]


def fused(renderer: FeatureRenderer, device: torch.device) -> bool:
    """Whether the compiled CPU engine runs the search: wherever it draws."""
    return choose_engine(renderer.engine, device) == "numba"


def grid_losses(
    evidence: Evidence,
    grid: Float[Tensor, "pose 3"],
    renderer: FeatureRenderer,
    objective: str = "likelihood",
    chunk: int = 4096,
) -> Float[Tensor, "batch pose"]:
    """Loss (:class:`SolverSettings`) of every picture at every grid pose; plain torch takes ``chunk`` renderings at a
    time.
    """
    if fused(renderer, evidence.clutter.device):
        from nvsm_lightning.pose.fused import grid_losses_fused  # numba is optional at run time

        return grid_losses_fused(evidence, grid, renderer, objective)
    return grid_losses_torch(evidence, grid, renderer, objective, chunk)


def distinct_modes(
    loss: Float[Tensor, "batch pose"], grid: Float[Tensor, "pose 3"], modes: int, distance: float
) -> Float[Tensor, "batch mode 3"]:
    """The ``modes`` best grid poses of each picture that lie at least ``distance`` radians apart.

    Where the grid holds fewer such poses, the best one repeats.
    """
    return grid[_distinct(loss, viewpoint_error(grid[:, None], grid[None]) >= distance, modes)]


def _distinct(loss: Float[Tensor, "batch pose"], apart: Bool[Tensor, "pose pose"], modes: int) -> Tensor:
    """Positions in the grid of the modes: [batch, mode]."""
    left, chosen = loss, []
    for _ in range(modes):
        best = torch.where(left.isfinite().any(1), left.argmin(1), loss.argmin(1))
        chosen.append(best)
        if len(chosen) < modes:
            left = left.masked_fill(~apart[best], torch.inf)
    return torch.stack(chosen, 1)


def search(
    evidence: Evidence,
    start: Float[Tensor, "batch mode 6"],
    renderer: FeatureRenderer,
    unit: Float[Tensor, "6"],
    steps: int,
    learning_rate: float,
    decay: float,
    objective: str = "likelihood",
) -> tuple[Float[Tensor, "batch mode 6"], Float[Tensor, "batch mode"]]:
    """Adam with NeMo's near-sign betas (.4, .6) on poses (viewpoint and placement); step size times ``decay`` every
    third. Best iterate and its loss; NeMo's code returns the last iterate.

    ``unit`` is what a step of size 1 changes in each parameter, 0 for those that are not free.
    """
    if fused(renderer, start.device):
        from nvsm_lightning.pose.fused import refine_fused  # numba is optional at run time

        return refine_fused(evidence, start, renderer, unit, steps, learning_rate, decay, objective)
    return refine_torch(evidence, start, renderer, unit, steps, learning_rate, decay, objective)


def refine(
    evidence: Evidence,
    start: Float[Tensor, "batch mode 3"],
    renderer: FeatureRenderer,
    free: Tensor,
    steps: int,
    learning_rate: float,
    decay: float,
    objective: str = "likelihood",
) -> tuple[Float[Tensor, "batch mode 3"], Float[Tensor, "batch mode"]]:
    """:func:`search` over the ``free`` angles alone."""
    nothing = start.new_zeros(3)
    padded = torch.cat((start, torch.zeros_like(start)), -1)
    unit = torch.cat((free.to(start), nothing))
    best, loss = search(evidence, padded, renderer, unit, steps, learning_rate, decay, objective)
    return best[..., :3], loss


@lru_cache(maxsize=8)
def _starts(
    azimuths: int, elevations: tuple[float, ...], thetas: tuple[float, ...], distance: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The poses of a grid, and which of them are at least ``distance`` degrees apart."""
    with torch.inference_mode(False):
        grid = PoseSpace(azimuths, list(elevations), list(thetas)).grid().to(device)
        return grid, torch.rad2deg(viewpoint_error(grid[:, None], grid[None])) >= distance


def searched_space(space: PoseSpace, settings: SolverSettings) -> PoseSpace:
    """The space whose grid the solver starts from."""
    return paper_grid() if settings.name == "paper" else space


def start_losses(
    evidence: Evidence, space: PoseSpace, renderer: FeatureRenderer, settings: SolverSettings
) -> tuple[Float[Tensor, "pose 3"], Float[Tensor, "batch pose"], Bool[Tensor, "pose pose"]]:
    """The grid of starts, the loss of each picture at each, and which of them count as distinct."""
    searched, stride = searched_space(space, settings), 1 if settings.name == "paper" else settings.stride
    angles = searched.azimuths, tuple(searched.elevations_deg), tuple(searched.thetas_deg)
    grid, apart = _starts(*angles, settings.mode_distance_deg, evidence.clutter.device)
    seen, size = evidence.every(stride, renderer.size)
    return grid, grid_losses(seen, grid, renderer.resized(size), settings.objective), apart


def solve(
    evidence: Evidence,
    space: PoseSpace,
    renderer: FeatureRenderer,
    settings: SolverSettings,
    null: Float[Tensor, " pose"] | None = None,
) -> PoseEstimate:
    """Pose of each picture. A picture whose loss is not finite (no cell covered at any pose) keeps its best start.

    ``null``: what each start loses by itself, on whatever picture. It is taken off the losses, of a refined pose that
    of the start nearest to it, so that modes are compared by what tells this picture from others.
    """
    device = evidence.clutter.device
    modes, steps, rate, decay = (
        (1, 300, 0.05, 0.2) if settings.name == "paper"
        else (settings.modes, settings.steps, settings.learning_rate, 0.3)
    )  # fmt: skip
    if not fused(renderer, device):
        _ = evidence.table  # refinement needs the whole of it, so that the grid may read its part from it
    grid, loss, apart = start_losses(evidence, space, renderer, settings)
    if null is not None:
        loss = loss - null
    start = grid[_distinct(loss, apart, min(modes, len(grid)))]
    unit = _unit(space, settings).to(device)
    padded = torch.cat((start, torch.zeros_like(start)), -1)
    refined, refined_loss = search(evidence, padded, renderer, unit, steps, rate, decay, settings.objective)
    if null is not None:
        refined_loss = refined_loss - null[viewpoint_error(refined[..., None, :3], grid).argmin(-1)]
    winner = refined_loss.argmin(1)
    rows = torch.arange(len(winner), device=device)
    best = refined[rows, winner]
    viewpoint = torch.cat((best[:, :1] % (2 * torch.pi), best[:, 1:3]), 1)
    placement = best[:, 3:] if settings.free else None
    scored = ScoredPoses(grid, loss, refined[..., :3], refined_loss)
    return PoseEstimate(viewpoint, refined_loss[rows, winner], start[rows, winner], scored, placement)


def _unit(space: PoseSpace, settings: SolverSettings) -> Float[Tensor, "6"]:
    """What a step of size 1 changes: free angles by a radian, placement by :data:`PLACEMENT`."""
    placement = sum((torch.tensor(PLACEMENT[name]) for name in settings.free), torch.zeros(3))
    return torch.cat((space.free_mask().float(), placement))
