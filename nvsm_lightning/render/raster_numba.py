"""The CPU engine: the same arithmetic as :mod:`.raster_torch`, one face after the other, compiled by numba.

The kernel is compiled once per machine (about 2 s, kept by ``cache=True``; numba itself moves to a user folder where
the package is read-only). It releases the interpreter lock and is spread over plain threads: numba's own parallel
layers neither survive a fork (data loader workers) nor allow two callers at a time.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

HALF = np.float32(0.5)


def _compiled(kernel: Callable) -> Callable:
    """The kernel compiled; without a cache where numba finds no folder at all to write one to."""
    try:
        return numba.njit(kernel, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:
        return numba.njit(kernel, nogil=True, error_model="numpy")


@_compiled
@no_type_check  # shape checkers must not wrap what numba compiles
def _rasterize(uvz, faces, inverse, nearest, face_id):
    """Fill ``face_id`` [batch, height, width]; ``nearest`` [height, width] is scratch. All float32 / int32, C order."""
    batch, height, width = face_id.shape
    for item in range(batch):
        nearest[:] = np.inf
        inverse[:] = np.float32(1) / uvz[item, :, 2]
        for face in range(faces.shape[0]):
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            au, av, az = uvz[item, a, 0], uvz[item, a, 1], uvz[item, a, 2]
            bu, bv, bz = uvz[item, b, 0], uvz[item, b, 1], uvz[item, b, 2]
            cu, cv, cz = uvz[item, c, 0], uvz[item, c, 1], uvz[item, c, 2]
            if not (0 < az < np.inf and 0 < bz < np.inf and 0 < cz < np.inf):
                continue
            left, right = np.ceil(min(au, bu, cu) - HALF), np.floor(max(au, bu, cu) - HALF)
            top, bottom = np.ceil(min(av, bv, cv) - HALF), np.floor(max(av, bv, cv) - HALF)
            if not (left < width and right >= 0 and top < height and bottom >= 0):
                continue
            if not np.isfinite(au + av + bu + bv + cu + cv):
                continue
            first, last = np.int64(max(left, 0)), np.int64(min(right, width - 1))
            for row in range(np.int64(max(top, 0)), np.int64(min(bottom, height - 1)) + 1):
                pv = np.float32(row) + HALF
                avp, bvp, cvp = av - pv, bv - pv, cv - pv
                for column in range(first, last + 1):
                    pu = np.float32(column) + HALF
                    aup, bup, cup = au - pu, bu - pu, cu - pu
                    edge_a = bup * cvp - bvp * cup
                    edge_b = cup * avp - cvp * aup
                    edge_c = aup * bvp - avp * bup
                    if min(edge_a, edge_b, edge_c) < 0 and max(edge_a, edge_b, edge_c) > 0:
                        continue
                    area = edge_a + edge_b + edge_c
                    if area == 0:
                        continue
                    depth = area / (edge_a * inverse[a] + edge_b * inverse[b] + edge_c * inverse[c])
                    if depth < nearest[row, column]:
                        nearest[row, column] = depth
                        face_id[item, row, column] = face


def rasterize_numba(
    uvz: Float[Tensor, "batch vertex 3"], faces: Int[Tensor, "face 3"], size: tuple[int, int]
) -> Int32[Tensor, "batch {size[0]} {size[1]}"]:
    """Face id seen in every cell, -1 for none; arguments and rules of :func:`.raster_torch.rasterize_torch`. CPU only.

    Uses as many threads as torch may use (``torch.get_num_threads``), each for a share of the batch.
    """
    points = np.ascontiguousarray(uvz.detach().numpy(), np.float32)
    triangles = np.ascontiguousarray(faces.numpy(), np.int32)
    face_id = np.full((len(points), *size), -1, np.int32)

    def work(part: slice) -> None:
        scratch = np.empty(points.shape[1], np.float32), np.empty(size, np.float32)
        _rasterize(points[part], triangles, *scratch, face_id[part])

    threads = min(torch.get_num_threads(), len(points) // 4)  # a thread costs about as much as one rendering
    if threads <= 1:
        work(slice(None))
    else:
        bounds = [len(points) * k // threads for k in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, map(slice, bounds[:-1], bounds[1:])))
    return torch.from_numpy(face_id)
