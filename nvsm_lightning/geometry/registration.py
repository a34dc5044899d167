"""Rotation from a map of surface coordinates: cells lifted to camera space, and a weighted similarity fit (StarMap)."""

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera

BOX_ROUNDS = 4  # repeats of the fit to a box camera, whose scale depends on the pose


def fit_rotation(
    canonical: Float[Tensor, "batch point 3"],
    seen: Float[Tensor, "batch point 3"],
    weight: Float[Tensor, "batch point"],
) -> tuple[Float[Tensor, "batch 3 3"], Float[Tensor, " batch"]]:
    """Rotation R of the similarity ``seen = s R canonical + t`` with the least weighted squares (Horn 1987, Umeyama
    1991; by roma), and the root of the weighted mean square that is left, in the units of ``seen``.
    """
    with torch.autocast(seen.device.type, enabled=False):  # double: the fit is a difference of large sums
        x, y, w = canonical.double(), seen.double(), weight.double()
        rotation, shift, scale = roma.rigid_points_registration(x, y, w, compute_scaling=True)
        left = scale[:, None, None] * x @ rotation.mT + shift[:, None] - y
        square = (w * left.square().sum(-1)).sum(-1) / w.sum(-1).clamp_min(1e-12)
    return rotation.to(seen), square.sqrt().to(seen)


def fit_map(
    canonical: Float[Tensor, "batch 3 h w"],
    depth: Float[Tensor, "batch h w"],
    weight: Float[Tensor, "batch h w"],
    camera: Camera,
    vertices: Float[Tensor, "vertex 3"],
) -> tuple[Float[Tensor, "batch 3 3"], Float[Tensor, " batch"]]:
    """Rotation, and what is left, from what each cell of a map shows.

    A known camera lifts a cell at (u, v) to ``((u - px) / f, (v - py) / f, 1) (distance + depth)``. A box camera
    stretches the projected mesh to the box, which depends on the pose: the fit begins with the one scale under which
    cells spread as far as the surface they show, and is repeated with the stretch of the pose found.

    Args:
        canonical: object coordinates of the surface seen in each cell, CAD units.
        depth: its distance along the optical axis beyond the object's centre, CAD units.
        weight: of each cell; not negative, and not all zero in a picture.
        camera: in map pixels.
        vertices: of the mesh that box cameras fit into their boxes.
    """
    points, depths, weights = canonical.flatten(2).mT, depth.flatten(1), weight.flatten(1)
    v, u = torch.meshgrid(*(torch.arange(n, device=depth.device) + 0.5 for n in depth.shape[-2:]), indexing="ij")
    uv = torch.stack((u, v), -1).flatten(0, 1).to(depth)
    boxed = camera.box.isfinite().all(-1)
    box = torch.where(boxed[:, None], camera.box, 0)
    corner, size = box[:, None, :2], box[:, None, 2:] - box[:, None, :2]
    away = (camera.distance[:, None] + depths)[..., None]

    def fit(plane: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation and what it leaves, from points in the plane at distance 1."""
        return fit_rotation(points, torch.cat((plane * away, depths[..., None]), -1), weights)

    pinhole = (uv - camera.principal[:, None]) / camera.focal[:, None, None]
    if not boxed.any():
        return fit(pinhole)
    scale = _spread(uv - corner, points, depths, weights) / camera.distance
    plane = (uv - corner - size / 2) * scale[:, None, None]
    rotation, left = fit(torch.where(boxed[:, None, None], plane, pinhole))
    for _ in range(BOX_ROUNDS):
        low, high = _extent(vertices, rotation, camera.distance)
        plane = low + (uv - corner) / size.clamp_min(1e-9) * (high - low)
        rotation, left = fit(torch.where(boxed[:, None, None], plane, pinhole))
    return rotation, left


def _spread(uv: Tensor, points: Tensor, depths: Tensor, weights: Tensor) -> Float[Tensor, " batch"]:
    """CAD units a map pixel: total variance in space = variance across the picture + variance in depth."""
    share = (weights / weights.sum(-1, keepdim=True).clamp_min(1e-12))[..., None]
    variance = [
        (share * (values - (share * values).sum(1, keepdim=True)).square()).sum((1, 2))
        for values in (points, depths[..., None], uv)
    ]
    across = (variance[0] - variance[1]).clamp_min(0.1 * variance[0])  # predictions need not agree with each other
    return (across / variance[2].clamp_min(1e-12)).sqrt()


def _extent(vertices: Tensor, rotation: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest coordinates of a mesh in the plane at depth 1, each ``[batch, 1, 2]``."""
    with torch.autocast(rotation.device.type, enabled=False):  # bf16 has 8 bits
        in_camera = vertices.to(rotation) @ rotation.mT
    plane = in_camera[..., :2] / (in_camera[..., 2] + distance[:, None]).clamp_min(1e-3)[..., None]
    return plane.amin(1, keepdim=True), plane.amax(1, keepdim=True)
