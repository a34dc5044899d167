"""The plain-torch engine: the specification of all engines, on any device.

**Convention** (of every engine): cell (i, j) of the map has its centre at (u, v) = (j + 0.5, i + 0.5). A face covers a
cell if the centre is inside it or on its edge; of several faces the one nearest at the centre wins, and at equal depth
the lowest face id. Both sides of a face are drawn. A face with a vertex at depth <= 0 or not finite is dropped, as is a
face seen exactly edge-on.

Watertight by construction: the edge function of vertices a, b at centre p is ``(a-p)_u (b-p)_v - (a-p)_v (b-p)_u``,
which in floating point changes nothing but its sign when a and b change places, so that of two faces on an edge at
least one is hit.
"""

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

# (face, cell) candidates looked at together, each with about 150 bytes of temporaries: on a CPU few enough to stay in
# the caches (1.5 times as fast as a million), on other devices enough to fill them.
PAIRS = {"cpu": 1 << 17}
PAIRS_ELSEWHERE = 1 << 22
# Twice the area in cells below which the orientation of a face in the picture is not trusted.
EDGE_ON = 1e-4


def rasterize_torch(
    uvz: Float[Tensor, "batch vertex 3"], faces: Int[Tensor, "face 3"], size: tuple[int, int], cull: bool = False
) -> Int32[Tensor, "batch {size[0]} {size[1]}"]:
    """Face id seen in every cell, -1 for none.

    Every face is expanded to the cells of its bounding box; the nearest (depth, id) a cell meets is kept by one
    ``scatter_reduce``.

    Args:
        uvz: projected vertices (u, v, depth), map pixels and CAD units, float32.
        faces: vertex indices of the triangles.
        size: (height, width) of the map in cells.
        cull: leave out faces seen from behind: the same picture of a closed mesh with outward winding, faster.
    """
    height, width = size
    corners = uvz.detach()[:, faces].flatten(0, 1)  # [batch * face, vertex of the face, 3]
    low, high = _cell_bounds(corners, height, width)
    extent = (high - low + 1).clamp_min(0)
    drawable = (corners[..., 2] > 0).all(-1) & corners.isfinite().flatten(1).all(-1)
    if cull:
        (bu, bv), (cu, cv) = ((corners[:, k, :2] - corners[:, 0, :2]).unbind(-1) for k in (1, 2))
        drawable &= bu * cv - bv * cu <= EDGE_ON  # v grows downwards: outward faces have a negative area
    count = torch.where(drawable, extent[:, 0] * extent[:, 1], 0)
    # The nearest face of a cell: its depth (positive floats sort like their bits) above its id, in one integer.
    nearest = torch.full((len(uvz) * height * width,), torch.iinfo(torch.int64).max, device=uvz.device)
    occupied = count.nonzero()[:, 0]
    for part in _split(occupied, count[occupied]):
        _draw(nearest, part, corners[part], low[part], extent[part, 0], count[part], len(faces), size)
    seen = nearest != torch.iinfo(torch.int64).max
    return torch.where(seen, nearest & 0xFFFFFFFF, -1).int().view(len(uvz), height, width)


def _cell_bounds(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """First and last cell (column, row) whose centre may lie in the box of each triangle, clipped to the map."""
    last = torch.tensor([width - 1, height - 1], device=corners.device)
    # Clamped before the cast: an integer cast of a huge or NaN float is undefined.
    limit = 1.0 * max(height, width) + 1
    low = (corners[..., :2].amin(1) - 0.5).nan_to_num(limit).clamp(-1, limit).ceil().long().clamp_min(0)
    high = (corners[..., :2].amax(1) - 0.5).nan_to_num(-1.0).clamp(-1, limit).floor().long()
    return low, torch.minimum(high, last)


def _split(items: Tensor, count: Tensor) -> list[Tensor]:
    """``items`` in consecutive parts of about :data:`PAIRS` candidates."""
    limit = PAIRS.get(items.device.type, PAIRS_ELSEWHERE)
    if not len(items):
        return []
    part = (count.cumsum(0) - 1) // limit
    return list(items.split(torch.unique_consecutive(part, return_counts=True)[1].tolist()))


def _draw(
    nearest: Tensor,
    item: Tensor,
    corners: Tensor,
    low: Tensor,
    columns: Tensor,
    count: Tensor,
    n_faces: int,
    size: tuple[int, int],
) -> None:
    """Test the candidates of some triangles and lower ``nearest`` in place where one of them is hit."""
    height, width = size
    owner = torch.repeat_interleave(count)
    step = torch.arange(len(owner), device=count.device) - (count.cumsum(0) - count)[owner]
    row = torch.div(step, columns[owner], rounding_mode="floor")
    column = low[owner, 0] + step - row * columns[owner]
    row = low[owner, 1] + row
    centre = torch.stack((column, row), -1).to(corners.dtype) + 0.5
    (au, av), (bu, bv), (cu, cv) = ((corners[owner, k, :2] - centre).unbind(-1) for k in range(3))
    edge_a, edge_b, edge_c = bu * cv - bv * cu, cu * av - cv * au, au * bv - av * bu
    area = edge_a + edge_b + edge_c
    sign = area.sign()
    hit = (edge_a * sign >= 0) & (edge_b * sign >= 0) & (edge_c * sign >= 0) & (area != 0)
    # Depth is not affine in the picture, its inverse is.
    inverse = corners[..., 2].reciprocal()[owner]
    depth = area / (edge_a * inverse[:, 0] + edge_b * inverse[:, 1] + edge_c * inverse[:, 2])
    face = item[owner]
    key = (depth.view(torch.int32).long() << 32) | (face % n_faces)
    cell = (torch.div(face, n_faces, rounding_mode="floor") * height + row) * width + column
    nearest.scatter_reduce_(0, cell[hit], key[hit], "amin")
