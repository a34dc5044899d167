"""Which vertices of a mesh are seen: inside the frame and not hidden by the mesh itself."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.fragments import perspective_weights

# The z-buffer is this much finer than the map. Measured against the exact answer for cuboids of 600 and 1000 vertices,
# away from the silhouette: on 32 x 84 maps 98 % of the vertices agree at 1, 99.6 % at 2, 99.98 % at 4, 100 % at 8
# (three times the time); on 20 x 48 maps 95-96, 98-99, 99.7-99.9 and 99.99 %.
SUPERSAMPLE = 4
TOLERANCE = 0.01  # CAD units a vertex may lie behind the seen face; a third of the grid edge of a 1000-vertex cuboid


@torch.no_grad()
def visible_vertices(
    uvz: Float[Tensor, "batch vertex 3"],
    faces: Int[Tensor, "face 3"],
    size: tuple[int, int],
    engine: str = "auto",
    tolerance: float = TOLERANCE,
) -> Bool[Tensor, "batch vertex"]:
    """Vertices that project into the frame and have no face of the mesh in front of them.

    The face seen in a vertex's cell of a finer z-buffer is compared with the vertex at the vertex's own picture
    position, not at the cell's centre: there the depths of a sloping face differ by more than any useful tolerance. The
    position is first moved into that face (weights clamped), because the plane of a face seen at a grazing angle says
    nothing beyond its edge.

    Args:
        uvz: projected vertices (u, v, depth), map pixels and CAD units.
        faces: vertex indices of the triangles.
        size: (height, width) of the map in cells; the frame is ``0 <= u < width, 0 <= v < height``.
        engine: see :func:`.engines.rasterize`.
        tolerance: CAD units a vertex may lie behind the seen face and still be called visible.
    """
    height, width = size
    u, v, depth = uvz.unbind(-1)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth > 0)
    scale = uvz.new_tensor([SUPERSAMPLE, SUPERSAMPLE, 1])
    face_id = rasterize(uvz * scale, faces, (height * SUPERSAMPLE, width * SUPERSAMPLE), engine)
    batch, vertex = inside.nonzero(as_tuple=True)
    point = uvz[batch, vertex]
    column, row = (point[:, :2] * SUPERSAMPLE).long().unbind(-1)
    seen = face_id[batch, row.clamp_max(face_id.shape[1] - 1), column.clamp_max(face_id.shape[2] - 1)].long()
    corners = uvz[batch[:, None], faces.to(uvz.device).long()[seen.clamp_min(0)]]
    weight = perspective_weights(corners, point[:, :2]).clamp(0, 1)
    weight = weight / weight.sum(-1, keepdim=True)
    in_front = (weight * corners[..., 2]).sum(-1) < point[:, 2] - tolerance
    visible = torch.zeros_like(inside)
    visible[batch, vertex] = (seen < 0) | ~in_front
    return visible
