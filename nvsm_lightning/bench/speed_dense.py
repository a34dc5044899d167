"""The baseline of the pose search: NeMo's loop as it is published, on rendered feature maps.

144 starts scored on feature maps rendered beforehand, then 300 Adam steps on azimuth, elevation and theta, each of
which renders a map of all channels, compares it with the picture's cell by cell and goes back through it. The
rasteriser is the fastest engine at hand, so that only the way of comparing is compared.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.bench.speed_pictures import Pictures
from nvsm_lightning.geometry.cameras import project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.pose.space import paper_grid

STEPS, RATE, DECAY = 300, 0.05, 0.2


def dense_loss(
    pictures: Pictures, item: int, viewpoint: Float[Tensor, "pose 3"], rendered: Tensor | None = None
) -> Float[Tensor, " pose"]:
    """NeMo's loss ``1 - [mean_p max(s_obj, s_clu) - mean_p s_clu]`` with ``s_obj`` from a rendered map."""
    if rendered is None:
        camera = pictures.camera[item : item + 1].expanded(len(viewpoint))
        uvz = project(pictures.renderer.vertices, rotation_from_viewpoint(viewpoint), camera)
        rendered, _ = pictures.renderer.render(pictures.vertex, uvz)
    score = (rendered * pictures.maps[item]).sum(1)
    ground = torch.einsum("chw,c->hw", pictures.maps[item], pictures.clutter)
    return 1 - (torch.maximum(score, ground) - ground).mean((1, 2))


def rendered_starts(pictures: Pictures) -> tuple[Float[Tensor, "pose 3"], Float[Tensor, "pose dim h w"]]:
    """The 144 starts and their feature maps; pictures share a camera."""
    grid = paper_grid().grid()
    with torch.no_grad():
        camera = pictures.camera[:1].expanded(len(grid))
        uvz = project(pictures.renderer.vertices, rotation_from_viewpoint(grid), camera)
        maps = [pictures.renderer.render(pictures.vertex, part)[0] for part in uvz.split(8)]
    return grid, torch.cat(maps)


def dense_solve(pictures: Pictures, item: int, starts: tuple[Tensor, Tensor], steps: int = STEPS) -> Float[Tensor, "3"]:
    """Pose of one picture: best start, then Adam; the best iterate."""
    grid, maps = starts
    with torch.no_grad():
        start = grid[dense_loss(pictures, item, grid, maps).argmin()]
    pose = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([pose], lr=RATE, betas=(0.4, 0.6))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, STEPS // 3), DECAY)
    best, best_loss = start, torch.inf
    for _ in range(steps):
        loss = dense_loss(pictures, item, pose[None])[0]
        if loss.item() < best_loss:
            best, best_loss = pose.detach().clone(), loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return best
