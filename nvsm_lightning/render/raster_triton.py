"""A CUDA engine without a licence of its own: Triton, which comes with torch on Linux. NOT YET RUN ON A GPU: it is
tested by Triton's interpreter only, and therefore never chosen by ``auto``.

The arithmetic and the packed keys (depth bits above face id) of :mod:`.raster_torch`. A program takes a block of faces
of one picture and walks through the cells of their bounding boxes together, all faces at once; the nearest key of a
cell is kept by an atomic minimum. Made for meshes with faces of about a cell each.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int, Int32
from torch import Tensor

from nvsm_lightning.render.raster_torch import EDGE_ON

BLOCK = 128  # faces a program
EMPTY = 2**63 - 1


@triton.jit
def _draw(points, faces, keys, vertices, count, height, width, cull, edge_on, BLOCK: tl.constexpr):
    item = tl.program_id(0).to(tl.int64)
    face = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = face < count
    base = points + item * vertices * 3
    a = base + 3 * tl.load(faces + 3 * face, mask=there, other=0)
    b = base + 3 * tl.load(faces + 3 * face + 1, mask=there, other=0)
    c = base + 3 * tl.load(faces + 3 * face + 2, mask=there, other=0)
    au, av, az = tl.load(a), tl.load(a + 1), tl.load(a + 2)
    bu, bv, bz = tl.load(b), tl.load(b + 1), tl.load(b + 2)
    cu, cv, cz = tl.load(c), tl.load(c + 1), tl.load(c + 2)
    total = au + av + az + bu + bv + bz + cu + cv + cz
    there &= (az > 0) & (bz > 0) & (cz > 0) & (total - total == 0)  # the last: all finite
    there &= (cull == 0) | ((bu - au) * (cv - av) - (bv - av) * (cu - au) <= edge_on)
    # clamped before the cast: an integer cast of a huge float is undefined
    left = tl.ceil(tl.clamp(tl.minimum(au, tl.minimum(bu, cu)) - 0.5, 0.0, width + 1.0)).to(tl.int32)
    right = tl.floor(tl.clamp(tl.maximum(au, tl.maximum(bu, cu)) - 0.5, -1.0, width - 1.0)).to(tl.int32)
    top = tl.ceil(tl.clamp(tl.minimum(av, tl.minimum(bv, cv)) - 0.5, 0.0, height + 1.0)).to(tl.int32)
    bottom = tl.floor(tl.clamp(tl.maximum(av, tl.maximum(bv, cv)) - 0.5, -1.0, height - 1.0)).to(tl.int32)
    columns, rows = tl.maximum(right - left + 1, 0), tl.maximum(bottom - top + 1, 0)
    cells = tl.where(there, columns * rows, 0)
    stride = tl.maximum(columns, 1)
    for step in range(tl.max(cells, 0)):
        row, column = top + step // stride, left + step % stride
        pu, pv = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
        aup, avp, bup, bvp, cup, cvp = au - pu, av - pv, bu - pu, bv - pv, cu - pu, cv - pv
        edge_a, edge_b, edge_c = bup * cvp - bvp * cup, cup * avp - cvp * aup, aup * bvp - avp * bup
        area = edge_a + edge_b + edge_c
        inside = (edge_a >= 0) & (edge_b >= 0) & (edge_c >= 0) | (edge_a <= 0) & (edge_b <= 0) & (edge_c <= 0)
        hit = (step < cells) & inside & (area != 0)
        depth = area / tl.where(hit, edge_a / az + edge_b / bz + edge_c / cz, 1.0)
        key = (depth.to(tl.int32, bitcast=True).to(tl.int64) << 32) | face.to(tl.int64)
        tl.atomic_min(keys + (item * height + row) * width + column, key, mask=hit)


def rasterize_triton(
    uvz: Float[Tensor, "batch vertex 3"], faces: Int[Tensor, "face 3"], size: tuple[int, int], cull: bool = False
) -> Int32[Tensor, "batch {size[0]} {size[1]}"]:
    """Face id seen in every cell, -1 for none; arguments and rules of :func:`.raster_torch.rasterize_torch`."""
    points = uvz.detach().float().contiguous()
    triangles = faces.to(points.device, torch.int32).contiguous()
    keys = torch.full((len(points), *size), EMPTY, dtype=torch.int64, device=points.device)
    programs = (len(points), triton.cdiv(len(triangles), BLOCK))
    # no fused multiply-add: it would round the edges of neighbouring faces differently and leave gaps
    _draw[programs](
        points, triangles, keys, points.shape[1], len(triangles), *size, int(cull), EDGE_ON, BLOCK=BLOCK,
        enable_fp_fusion=False,
    )  # fmt: skip
    return torch.where(keys != EMPTY, keys & 0xFFFFFFFF, -1).int()
