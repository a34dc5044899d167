"""What is seen in each cell: three vertices and their perspective-correct weights, differentiable in the vertices."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor


@dataclass(frozen=True)
class Fragments:
    """A rasterised map.

    Attributes:
        vertex: the vertices of the face seen in a cell (0 where none is).
        weight: their barycentric weights on the face itself, sum 1 (0 where no face is seen). Any vertex attribute
            ``f`` is seen as ``(weight[..., None] * f[vertex]).sum(-2)``.
        mask: where a face is seen.
    """

    vertex: Int64[Tensor, "batch height width 3"]
    weight: Float[Tensor, "batch height width 3"]
    mask: Bool[Tensor, "batch height width"]


def fragments(
    uvz: Float[Tensor, "batch vertex 3"],
    faces: Int[Tensor, "face 3"],
    face_id: Int32[Tensor, "batch height width"],
) -> Fragments:
    """Vertices and weights of the seen faces; gradients reach ``uvz`` through the weights, not through the outline.

    The outline's own contribution is left out on purpose: measured, the gradient so defined points to the true pose at
    least as well as the full one.
    """
    mask = face_id >= 0
    batch, row, column = mask.nonzero(as_tuple=True)
    vertex, weight = covered(uvz, faces, face_id, (batch, row, column))
    dense_vertex = torch.zeros(*mask.shape, 3, dtype=torch.int64, device=uvz.device)
    dense_vertex[mask] = vertex
    dense_weight = uvz.new_zeros(*mask.shape, 3).masked_scatter(mask[..., None], weight)
    return Fragments(dense_vertex, dense_weight, mask)


def covered(
    uvz: Float[Tensor, "batch vertex 3"],
    faces: Int[Tensor, "face 3"],
    face_id: Int32[Tensor, "batch height width"],
    cell: tuple[Int64[Tensor, " cell"], Int64[Tensor, " cell"], Int64[Tensor, " cell"]],
) -> tuple[Int64[Tensor, "cell 3"], Float[Tensor, "cell 3"]]:
    """Vertices and weights for a list of covered cells only (batch, row, column): what the pose solver runs on.

    ``w_k ~ E_k / z_k`` with the edge functions ``E_k`` of the centre, normalised: affine weights in the picture,
    divided by depth.
    """
    batch, row, column = cell
    vertex = faces.long().index_select(0, face_id[cell].long())
    centre = torch.stack((column, row), -1).to(uvz.dtype) + 0.5
    # One flat index instead of (batch, vertex): the gather is the slowest step here, and so twice as fast.
    line = (vertex + batch[:, None] * uvz.shape[1]).flatten()
    corners = uvz.flatten(0, 1).index_select(0, line).unflatten(0, (-1, 3))
    return vertex, perspective_weights(corners, centre)


def perspective_weights(
    corners: Float[Tensor, "*batch 3 3"], point: Float[Tensor, "*batch 2"]
) -> Float[Tensor, "*batch 3"]:
    """Barycentric weights, on the face in space, of the face's points seen at picture points.

    Args:
        corners: (u, v, depth) of the three vertices.
        point: (u, v). Outside the triangle a weight stops at -0.001 before the sum is made 1 again: engines that snap
            vertices to a sub-pixel grid report thin faces for centres just beside them, where the exact weights would
            be anything.
    """
    # Number by number: arithmetic along a last dimension of three is slower, forwards and backwards.
    (au, bu, cu), (av, bv, cv), (az, bz, cz) = (part.unbind(-1) for part in corners.unbind(-1))
    u, v = point.unbind(-1)
    au, bu, cu, av, bv, cv = au - u, bu - u, cu - u, av - v, bv - v, cv - v
    weight = [(bu * cv - bv * cu) / az, (cu * av - cv * au) / bz, (au * bv - av * bu) / cz]
    total = weight[0] + weight[1] + weight[2]
    total = torch.where(total == 0, 1, total)  # 0 only for a face seen exactly edge-on
    weight = [(each / total).clamp_min(-1e-3) for each in weight]
    total = (weight[0] + weight[1] + weight[2]).clamp_min(1e-3)
    return torch.stack([each / total for each in weight], -1)
