"""The CUDA engine: nvdiffrast's rasteriser, ids only (it is imported with this module, so only where it is asked for).

Its vertices are snapped to 1/16 pixel for coverage, so a few per cent of the cells differ from the exact engines along
edges of faces (97 % equal on a 32 x 84 map of one-pixel faces); weights are recomputed exactly like everyone's.
Everything else - interpolation, gradients - stays in torch: nvdiffrast's interpolation is slow for many channels and
not needed.
"""

from functools import cache

import nvdiffrast.torch as dr
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from nvsm_lightning.render.clip_space import clip_positions
from nvsm_lightning.render.raster_torch import rasterize_torch

CHUNK = 512  # pictures a call: about 2 MB of internal buffers each


@cache
def _context(device: torch.device) -> "dr.RasterizeCudaContext":
    """One rasteriser a device; making it is slow and it owns large buffers."""
    return dr.RasterizeCudaContext(device)


def rasterize_nvdiffrast(
    uvz: Float[Tensor, "batch vertex 3"], faces: Int[Tensor, "face 3"], size: tuple[int, int], cull: bool = False
) -> Int32[Tensor, "batch {size[0]} {size[1]}"]:
    """Face id seen in every cell, -1 for none; arguments and rules of :func:`.raster_torch.rasterize_torch`. CUDA only;
    ``cull`` is of no use to it.

    nvdiffrast clips faces that reach behind the camera where the rule is to drop them, and knows no invalid numbers:
    the (rare) pictures with such a vertex are drawn by the torch engine.
    """
    points = uvz.detach().float().contiguous()
    triangles = faces.to(points.device, torch.int32).contiguous()
    regular = ((points[..., 2] > 0) & points.isfinite().all(-1)).all(-1)
    if not regular.all():
        face_id = torch.empty(len(points), *size, dtype=torch.int32, device=points.device)
        face_id[~regular] = rasterize_torch(points[~regular], faces, size)
        if regular.any():
            face_id[regular] = rasterize_nvdiffrast(points[regular], faces, size)
        return face_id
    return torch.cat([_draw(part, triangles, size) for part in points.split(CHUNK)])


def _draw(points: Tensor, triangles: Tensor, size: tuple[int, int]) -> Tensor:
    """One call of nvdiffrast, whose first row is the lowest: :func:`clip_positions` is made for that."""
    raster, _ = dr.rasterize(_context(points.device), clip_positions(points, size), triangles, size, grad_db=False)
    return raster[..., 3].int() - 1  # 1 + face id, as a float that is exact up to 2^24; 0 where nothing is seen
