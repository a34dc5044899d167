"""The pose search in plain torch: the specification of :mod:`.fused`, and the engine of every device but the CPU."""

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence, shared_losses
from nvsm_lightning.render.renderer import FeatureRenderer


def grid_losses_torch(
    evidence: Evidence, grid: Float[Tensor, "pose 3"], renderer: FeatureRenderer, objective: str, chunk: int
) -> Float[Tensor, "batch pose"]:
    """Loss of every picture at every pose; see :func:`.solver.grid_losses`."""
    loss, batch = OBJECTIVES[objective], len(evidence)
    parts = grid.split(max(1, chunk // max(1, batch)))
    rows = (row.nan_to_num(nan=torch.inf) for row in evidence.camera.tensors()[:4])  # NaN: no box
    shared = batch > 0 and all(bool((row == row[:1]).all()) for row in rows)
    with torch.no_grad():
        if shared:
            return torch.cat([shared_losses(evidence, part, renderer, objective) for part in parts], 1)
        return torch.cat([loss(evidence, part.expand(batch, -1, -1), renderer) for part in parts], 1)


def refine_torch(
    evidence: Evidence,
    start: Float[Tensor, "batch mode 6"],
    renderer: FeatureRenderer,
    unit: Float[Tensor, "6"],
    steps: int,
    learning_rate: float,
    decay: float,
    objective: str,
) -> tuple[Float[Tensor, "batch mode 6"], Float[Tensor, "batch mode"]]:
    """Best iterate of Adam and its loss; see :func:`.solver.search`."""
    # Lightning tests under inference_mode, where no gradient can be taken: step out of it, with tensors that may be
    # used outside. No autocast: the backward pass of the projection would run in bf16.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(start.device.type, enabled=False):
        evidence, start, unit = evidence.usable(), start.clone(), unit.clone()
        placed = bool((unit[3:] != 0).any() or (start[..., 3:] != 0).any())
        best, best_loss = start, torch.full(start.shape[:2], torch.inf, device=start.device)
        offset = torch.zeros_like(start, requires_grad=True)
        optimizer = torch.optim.Adam([offset], lr=learning_rate, betas=(0.4, 0.6))
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, -(-steps // 3)), decay)
        for step in range(steps + 1):
            pose = start + offset * unit
            loss = OBJECTIVES[objective](evidence, pose[..., :3], renderer, pose[..., 3:] if placed else None)
            better = loss.detach() < best_loss
            best = torch.where(better[..., None], pose.detach(), best)
            best_loss = torch.where(better, loss.detach(), best_loss)
            if step < steps:
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
                schedule.step()
    return best, best_loss
