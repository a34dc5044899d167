"""The CPU engine: :mod:`.raster_kernel`, compiled by numba and spread over threads."""

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from nvsm_lightning.render.compiling import in_threads
from nvsm_lightning.render.raster_kernel import draw_batch


def rasterize_numba(
    uvz: Float[Tensor, "batch vertex 3"], faces: Int[Tensor, "face 3"], size: tuple[int, int], cull: bool = False
) -> Int32[Tensor, "batch {size[0]} {size[1]}"]:
    """Face id seen in every cell, -1 for none; arguments and rules of :func:`.raster_torch.rasterize_torch`. CPU only.

    Uses as many threads as torch may use (``torch.get_num_threads``), each for a share of the batch. With ``cull``,
    faces seen from behind are not drawn: right for closed meshes with outward winding
    (:func:`.culling.hides_its_back`) and a third faster.
    """
    points = np.ascontiguousarray(uvz.detach().numpy(), np.float32)
    triangles = np.ascontiguousarray(faces.numpy(), np.uint32)
    face_id = np.empty((len(points), *size), np.int32)

    def work(first: int, last: int) -> None:
        """Draw the meshes of one thread."""
        corner = np.empty((points.shape[1], 4), np.float32)
        bounds, listed = np.empty((len(triangles), 4), np.int32), np.empty(len(triangles) + 1, np.int32)
        key = np.empty(size[0] * size[1], np.int64)
        draw_batch(points[first:last], triangles, cull, corner, bounds, listed, key, face_id[first:last])

    in_threads(work, len(points), least=4)  # a thread costs about as much as one rendering
    return torch.from_numpy(face_id)
