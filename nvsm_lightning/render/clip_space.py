"""Homogeneous clip-space positions for OpenGL-style rasterisers."""

import torch
from jaxtyping import Float
from torch import Tensor


def clip_positions(uvz: Float[Tensor, "batch vertex 3"], size: tuple[int, int]) -> Float[Tensor, "batch vertex 4"]:
    """Clip-space (x, y, z, w) of projected vertices, for rasterisers whose first row is the lowest.

    **Convention**: ``x / w = 2 u / W - 1`` and ``y / w = 2 v / H - 1``: v grows downwards in the picture and upwards
    for the rasteriser, so its rows come out top row first and nothing has to be flipped. ``w`` is the depth itself, in
    CAD units (the rasteriser adds an absolute 1e-6 to homogeneous areas, negligible at that scale). ``z / w`` runs from
    -1 to 1 between two planes that enclose the batch.

    Args:
        uvz: (u, v, depth), pixels and CAD units, all depths positive.
        size: (height, width) of the map.
    """
    height, width = size
    u, v, depth = uvz.unbind(-1)
    near, far = 0.9 * depth.amin(), 1.1 * depth.amax()
    span = far - near
    z = (far + near) / span * depth - 2 * far * near / span
    return torch.stack(((2 * u / width - 1) * depth, (2 * v / height - 1) * depth, z, depth), -1).contiguous()
