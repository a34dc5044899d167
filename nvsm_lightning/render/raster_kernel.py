"""The compiled rasteriser of one picture: two passes over the faces into a z-buffer of packed keys.

The first pass finds the cells of each face and drops faces that cover none, without a branch; the second tests the few
cells of those that are left. A key is the depth's bits (positive floats sort like their bits) above the face id, so
that one minimum decides by depth and then by id. Same arithmetic as :mod:`.raster_torch`.
"""

from typing import no_type_check

import numpy as np

from nvsm_lightning.render import raster_torch
from nvsm_lightning.render.compiling import Array, compiled

HALF = np.float32(0.5)
ZERO = np.float32(0)
ONE = np.float32(1)
INFINITY = np.float32(np.inf)
EMPTY = np.int64(np.iinfo(np.int64).max)
EDGE_ON = np.float32(raster_torch.EDGE_ON)


@compiled
@no_type_check
def find_cells(corner: Array, faces: Array, height: int, width: int, cull: bool, bounds: Array, listed: Array):
    """Cells (first and last column, first and last row) of every face, and which faces have any.

    corner [vertex, 4]: (u, v, depth, 1 / depth) float32; faces [face, 3] uint32 (unsigned: no wrap-around to check);
    cull: drop faces that are seen from behind; bounds [face, 4] int32; listed [face + 1] int32. Returns how many are
    listed.
    """
    right_end, bottom_end = np.float32(width - 1), np.float32(height - 1)
    count = np.uint64(0)
    for face in range(faces.shape[0]):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        au, av, az = corner[a, 0], corner[a, 1], corner[a, 2]
        bu, bv, bz = corner[b, 0], corner[b, 1], corner[b, 2]
        cu, cv, cz = corner[c, 0], corner[c, 1], corner[c, 2]
        left = max(np.ceil(min(au, min(bu, cu)) - HALF), ZERO)
        right = min(np.floor(max(au, max(bu, cu)) - HALF), right_end)
        top = max(np.ceil(min(av, min(bv, cv)) - HALF), ZERO)
        bottom = min(np.floor(max(av, max(bv, cv)) - HALF), bottom_end)
        seen = (left <= right) & (top <= bottom)
        seen &= (min(az, min(bz, cz)) > ZERO) & (max(az, max(bz, cz)) < INFINITY)
        seen &= np.isfinite(au + av + bu + bv + cu + cv)
        # v grows downwards: a face wound counter-clockwise as seen has a negative area
        seen &= (not cull) | ((bu - au) * (cv - av) - (bv - av) * (cu - au) <= EDGE_ON)
        if seen:
            bounds[face, 0], bounds[face, 1] = np.int32(left), np.int32(right)
            bounds[face, 2], bounds[face, 3] = np.int32(top), np.int32(bottom)
        listed[count] = face
        count += np.uint64(seen)
    return count


@compiled
@no_type_check
def draw(corner: Array, faces: Array, height: int, width: int, cull: bool, bounds: Array, listed: Array, key: Array):
    """Fill ``key`` [height * width] int64 with the nearest face of each cell; other arguments as :func:`find_cells`."""
    key[:] = EMPTY
    count = find_cells(corner, faces, height, width, cull, bounds, listed)
    for place in range(count):
        face = np.uint32(listed[place])
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        au, av, aw = corner[a, 0], corner[a, 1], corner[a, 3]
        bu, bv, bw = corner[b, 0], corner[b, 1], corner[b, 3]
        cu, cv, cw = corner[c, 0], corner[c, 1], corner[c, 3]
        for row in range(bounds[face, 2], bounds[face, 3] + 1):
            pv = np.float32(row) + HALF
            avp, bvp, cvp = av - pv, bv - pv, cv - pv
            for column in range(bounds[face, 0], bounds[face, 1] + 1):
                pu = np.float32(column) + HALF
                aup, bup, cup = au - pu, bu - pu, cu - pu
                edge_a, edge_b, edge_c = bup * cvp - bvp * cup, cup * avp - cvp * aup, aup * bvp - avp * bup
                area = edge_a + edge_b + edge_c
                inside = (min(edge_a, min(edge_b, edge_c)) >= ZERO) | (max(edge_a, max(edge_b, edge_c)) <= ZERO)
                # Depth is not affine in the picture, its inverse is.
                depth = area / (edge_a * aw + edge_b * bw + edge_c * cw)
                found = (np.int64(np.float32(depth).view(np.int32)) << 32) | np.int64(face)
                found = found if inside & (area != ZERO) else EMPTY
                cell = np.uint32(row * width + column)
                key[cell] = min(key[cell], found)


@compiled
@no_type_check
def draw_batch(
    uvz: Array, faces: Array, cull: bool, corner: Array, bounds: Array, listed: Array, key: Array, face_id: Array
):
    """Fill ``face_id`` [batch, height, width] int32, -1 where no face is, for ``uvz`` [batch, vertex, 3] float32."""
    batch, height, width = face_id.shape
    for item in range(batch):
        for vertex in range(uvz.shape[1]):
            corner[vertex, 0], corner[vertex, 1] = uvz[item, vertex, 0], uvz[item, vertex, 1]
            corner[vertex, 2], corner[vertex, 3] = uvz[item, vertex, 2], ONE / uvz[item, vertex, 2]
        draw(corner, faces, height, width, cull, bounds, listed, key)
        for row in range(height):
            for column in range(width):
                found = key[row * width + column]
                face_id[item, row, column] = -1 if found == EMPTY else np.int32(found & 0xFFFFFFFF)
