"""Pose of a batch of pictures: score a grid of starts, refine the best distinct modes, keep the best iterate."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence
from nvsm_lightning.pose.space import PoseSpace, paper_grid
from nvsm_lightning.render.renderer import FeatureRenderer


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
    """

    name: str = "short"
    objective: str = "likelihood"
    modes: int = 2
    steps: int = 20
    learning_rate: float = 0.1
    mode_distance_deg: float = 30.0

    def __post_init__(self) -> None:
        if self.name not in ("short", "paper"):
            raise ConfigError(f"Unknown solver {self.name!r}. Choose short or paper.")
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"Unknown objective {self.objective!r}. Choose one of {sorted(OBJECTIVES)}.")


@dataclass(frozen=True)
class PoseEstimate:
    """Best pose of each picture and its loss; ``start`` is the grid pose from which it was refined; ``scored`` is all
    that was scored on the way.
    """

    viewpoint: Float[Tensor, "batch 3"]
    loss: Float[Tensor, " batch"]
    start: Float[Tensor, "batch 3"]
    scored: "ScoredPoses | None" = None


@dataclass(frozen=True)
class ScoredPoses:
    """Losses of a batch at every pose of the start grid, and its refined modes with theirs."""

    grid: Float[Tensor, "pose 3"]
    grid_loss: Float[Tensor, "batch pose"]
    mode: Float[Tensor, "batch mode 3"]
    mode_loss: Float[Tensor, "batch mode"]


def grid_losses(
    evidence: Evidence,
    grid: Float[Tensor, "pose 3"],
    renderer: FeatureRenderer,
    objective: str = "likelihood",
    chunk: int = 4096,
) -> Float[Tensor, "batch pose"]:
    """Loss (:class:`SolverSettings`) of every picture at every grid pose, ``chunk`` renderings at a time."""
    loss = OBJECTIVES[objective]
    batch = len(evidence.table)
    per_chunk = max(1, chunk // batch)
    with torch.no_grad():
        parts = [loss(evidence, part.expand(batch, -1, -1), renderer) for part in grid.split(per_chunk)]
    return torch.cat(parts, 1)


def distinct_modes(
    loss: Float[Tensor, "batch pose"], grid: Float[Tensor, "pose 3"], modes: int, distance: float
) -> Float[Tensor, "batch mode 3"]:
    """The ``modes`` best grid poses of each picture that lie at least ``distance`` radians apart.

    Where the grid holds fewer such poses, the best one repeats.
    """
    apart = viewpoint_error(grid[:, None], grid[None]) >= distance
    left, chosen = loss.clone(), []
    for _ in range(modes):
        best = torch.where(left.isfinite().any(1), left.argmin(1), loss.argmin(1))
        chosen.append(grid[best])
        left = left.masked_fill(~apart[best], torch.inf)
    return torch.stack(chosen, 1)


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
    """Adam with NeMo's near-sign betas (.4, .6) on the viewpoints; step size times ``decay`` every third.
    Best iterate and its loss (A10).
    """
    # Lightning tests under inference_mode, where no gradient can be taken: step out of it, with tensors that may be
    # used outside. No autocast: the backward pass of the projection would run in bf16.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(start.device.type, enabled=False):
        evidence, start, free = evidence.usable(), start.clone(), free.clone()
        best, best_loss = start, torch.full(start.shape[:2], torch.inf, device=start.device)
        offset = torch.zeros_like(start, requires_grad=True)
        optimizer = torch.optim.Adam([offset], lr=learning_rate, betas=(0.4, 0.6))
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, -(-steps // 3)), decay)
        for step in range(steps + 1):
            viewpoint = start + offset * free
            loss = OBJECTIVES[objective](evidence, viewpoint, renderer)
            better = loss.detach() < best_loss
            best = torch.where(better[..., None], viewpoint.detach(), best)
            best_loss = torch.where(better, loss.detach(), best_loss)
            if step < steps:
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
                schedule.step()
    return best, best_loss


def solve(evidence: Evidence, space: PoseSpace, renderer: FeatureRenderer, settings: SolverSettings) -> PoseEstimate:
    """Pose of each picture. A picture whose loss is not finite (no cell covered at any pose) keeps its best start."""
    device = evidence.table.device
    free = space.free_mask().to(device)
    if settings.name == "paper":
        grid, modes, steps, rate, decay = paper_grid().grid().to(device), 1, 300, 0.05, 0.2
    else:
        grid, modes, steps, rate, decay = (
            space.grid().to(device), settings.modes, settings.steps, settings.learning_rate, 0.3,
        )  # fmt: skip
    loss = grid_losses(evidence, grid, renderer, settings.objective)
    start = distinct_modes(
        loss, grid, min(modes, len(grid)), torch.deg2rad(torch.tensor(settings.mode_distance_deg)).item()
    )
    refined, refined_loss = refine(evidence, start, renderer, free, steps, rate, decay, settings.objective)
    winner = refined_loss.argmin(1)
    rows = torch.arange(len(winner), device=device)
    viewpoint = refined[rows, winner]
    viewpoint[:, 0] %= 2 * torch.pi
    scored = ScoredPoses(grid, loss, refined, refined_loss)
    return PoseEstimate(viewpoint, refined_loss[rows, winner], start[rows, winner], scored)
