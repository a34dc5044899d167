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

# (face, cell) candidates looked at together, each with about 60 bytes of temporaries: on a CPU few enough to stay in
# the caches, on other devices enough to fill them.
PAIRS = {"cpu": 1 << 16}
PAIRS_ELSEWHERE = 1 << 22
# Twice the area in cells below which the orientation of a face in the picture is not trusted.
EDGE_ON = 1e-4
SMALLEST = 3  # cells each way of the smallest window; the next ones are larger by half


def rasterize_torch(
    uvz: Float[Tensor, "batch vertex 3"], faces: Int[Tensor, "face 3"], size: tuple[int, int], cull: bool = False
) -> Int32[Tensor, "batch {size[0]} {size[1]}"]:
    """Face id seen in every cell, -1 for none.

    Every face is looked at in a square window of cells that holds its bounding box, faces of about one size together;
    the nearest (depth, id) a cell meets is kept by one ``scatter_reduce``.

    Args:
        uvz: projected vertices (u, v, depth), map pixels and CAD units, float32.
        faces: vertex indices of the triangles.
        size: (height, width) of the map in cells.
        cull: leave out faces seen from behind: the same picture of a closed mesh with outward winding, faster.
    """
    height, width = size
    # One row a coordinate, gathered in two dimensions only: index_select is seven times slower in three.
    split = uvz.detach().permute(2, 0, 1).flatten(0, 1)
    corners = torch.stack([split.index_select(1, faces[:, k]).view(3, -1) for k in range(3)])
    low, extent = _cell_bounds(corners, height, width)
    least = corners[:, 2].amin(0)
    drawable = (least > 0) & ((corners * 0).sum((0, 1)) == 0) & (extent > 0).all(0)  # 0 times infinity is not 0
    if cull:
        (bu, bv), (cu, cv) = (corners[k, :2] - corners[0, :2] for k in (1, 2))
        drawable &= bu * cv - bv * cu <= EDGE_ON  # v grows downwards: outward faces have a negative area
    # The nearest face of a cell: its depth (positive floats sort like their bits) above its id, in one integer.
    nearest = torch.full((len(uvz) * height * width,), torch.iinfo(torch.int64).max, device=uvz.device)
    drawn = drawable.nonzero()[:, 0]
    side = extent.index_select(1, drawn).amax(0)
    limit = PAIRS.get(uvz.device.type, PAIRS_ELSEWHERE)
    window = SMALLEST
    while len(drawn):
        fits = side <= window
        shape = min(window, height), min(window, width)
        for part in drawn[fits].split(max(1, limit // (shape[0] * shape[1]))):
            _draw(nearest, part, corners, low, extent, shape, len(faces), size)
        drawn, side, window = drawn[~fits], side[~fits], window + max(1, window // 2)
    seen = nearest != torch.iinfo(torch.int64).max
    return torch.where(seen, nearest & 0xFFFFFFFF, -1).int().view(len(uvz), height, width)


def _cell_bounds(
    corners: Float[Tensor, "3 3 face"], height: int, width: int
) -> tuple[Float[Tensor, "2 face"], Float[Tensor, "2 face"]]:
    """First cell (column, row) whose centre may lie in the box of each triangle, clipped to the map, and how many there
    are each way (none: 0 or less); whole numbers.
    """
    last = torch.tensor([[width - 1.0], [height - 1.0]], device=corners.device)
    # Clamped: a huge or NaN float has no cell.
    limit = 1.0 * max(height, width) + 1
    low = (corners[:, :2].amin(0) - 0.5).nan_to_num(limit).clamp(-1, limit).ceil().clamp_min(0)
    high = (corners[:, :2].amax(0) - 0.5).nan_to_num(-1.0).clamp(-1, limit).floor()
    return low, torch.minimum(high, last) - low + 1


def _draw(
    nearest: Tensor,
    item: Tensor,
    corners: Tensor,
    low: Tensor,
    extent: Tensor,
    window: tuple[int, int],
    n_faces: int,
    size: tuple[int, int],
) -> None:
    """Test the cells of some triangles' windows and lower ``nearest`` in place where one of them is hit."""
    height, width = size
    step = torch.arange(window[0] * window[1], device=item.device)[:, None]
    below, right = torch.div(step, window[1], rounding_mode="floor").float(), (step % window[1]).float()
    first, count = low.index_select(1, item), extent.index_select(1, item)
    # [corner, coordinate, face]; tensors of cells are [cell of the window, face]
    own = corners.flatten(0, 1).index_select(1, item).unflatten(0, (3, 3))
    pu, pv = first[0] + (right + 0.5), first[1] + (below + 0.5)
    (au, av), (bu, bv), (cu, cv) = ((own[k, 0] - pu, own[k, 1] - pv) for k in range(3))
    edge_a, edge_b, edge_c = bu * cv - bv * cu, cu * av - cv * au, au * bv - av * bu
    area = edge_a + edge_b + edge_c
    sign = area.sign()
    # One comparison of the least: comparisons are four times slower than arithmetic. The window may leave the map.
    least = torch.minimum(torch.minimum(edge_a * sign, edge_b * sign), edge_c * sign)
    least = torch.minimum(least, torch.minimum(count[0] - 1 - right, count[1] - 1 - below))
    found = (least >= 0).flatten().nonzero()[:, 0]
    step, face = torch.div(found, len(item), rounding_mode="floor"), found % len(item)
    # Depth is not affine in the picture, its inverse is.
    inverse = own[:, 2].reciprocal().index_select(1, face)
    edges = [edge.flatten().index_select(0, found) for edge in (edge_a, edge_b, edge_c)]
    total = edges[0] * inverse[0] + edges[1] * inverse[1] + edges[2] * inverse[2]
    area = area.flatten().index_select(0, found)
    depth = area / total
    column, row = (
        (first[k].index_select(0, face) + by[:, 0].index_select(0, step)).long() for k, by in ((0, right), (1, below))
    )
    face = item.index_select(0, face)
    key = (depth.view(torch.int32).long() << 32) | (face % n_faces)
    key = torch.where(area == 0, torch.iinfo(torch.int64).max, key)  # seen edge-on: never hit
    cell = (torch.div(face, n_faces, rounding_mode="floor") * height + row) * width + column
    nearest.scatter_reduce_(0, cell, key, "amin")
