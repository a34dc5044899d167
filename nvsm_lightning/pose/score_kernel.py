"""Compiled loss of one pose and its gradient by the projected vertices, from similarities of cells and vertices.

The objectives of :mod:`.likelihood` without a channel dimension: three similarities a covered cell. They are read from
a similarity table, or, where there is none yet, computed when first asked for and remembered: a search from a few
starts asks for one in fifty.
"""

from typing import no_type_check

import numpy as np

from nvsm_lightning.render.compiling import Array, compiled, compiled_sum
from nvsm_lightning.render.raster_kernel import EMPTY

LIKELIHOOD, AREA = 0, 1
SLOTS = 64  # similarities remembered of every cell: a power of two


@compiled_sum
@no_type_check
def dot(first: Array, second: Array):
    """Dot product of two vectors."""
    total = first.dtype.type(0)
    for k in range(first.shape[0]):
        total += first[k] * second[k]
    return total


@compiled
@no_type_check
def covered_cells(key: Array, cell: Array, face: Array):
    """Cells of a z-buffer in which a face is seen, and that face, into ``cell`` and ``face``; returns how many."""
    count = np.uint64(0)
    for place in range(key.shape[0]):
        cell[count], face[count] = place, np.int32(key[place] & 0xFFFFFFFF)
        count += np.uint64(key[place] != EMPTY)
    return count


@compiled
@no_type_check
def look_up(table: Array, faces: Array, cell: Array, face: Array, count: int, similarity: Array):
    """Fill ``similarity`` [covered, 3] from the ``table`` [cell, vertex]."""
    for place in range(count):
        for k in range(3):
            similarity[place, k] = table[cell[place], faces[face[place], k]]


@compiled
@no_type_check
def look_up_or_compute(
    cells: Array,
    features: Array,
    memo: Array,
    tag: Array,
    epoch: int,
    faces: Array,
    cell: Array,
    face: Array,
    count: int,
    similarity: Array,
):
    """As :func:`look_up`, from cell features [cell, dim] and vertex features [vertex, dim].

    ``memo`` [cell, slot] holds the last similarities, ``tag`` [cell, slot] int64 whose they are: the vertex, and the
    picture by its ``epoch``, so that nothing has to be cleared between pictures.
    """
    first = epoch * features.shape[0]
    for place in range(count):
        row = np.uint32(cell[place])
        for k in range(3):
            vertex = faces[face[place], k]
            slot = vertex & np.uint32(SLOTS - 1)
            name = first + np.int64(vertex)
            if tag[row, slot] != name:
                tag[row, slot] = name
                memo[row, slot] = dot(cells[row], features[vertex])
            similarity[place, k] = memo[row, slot]


@compiled
@no_type_check
def uncovered_loss(clutter: Array):
    """What all cells would add to the likelihood if no face covered any: the sum of ``max(0, s_clu) - s_clu``."""
    total = 0.0
    for place in range(clutter.shape[0]):
        total += max(-clutter[place], 0)
    return total


@compiled
@no_type_check
def score(
    objective: int,
    corner: Array,
    faces: Array,
    width: int,
    cell: Array,
    face: Array,
    count: int,
    similarity: Array,
    clutter: Array,
    bare: float,
    gradient: Array,
):
    """The loss of one pose; ``gradient`` [vertex, 3] by (u, v, depth) is set where it is not empty.

    Barycentric weights ``w_k = g_k / sum g`` with ``g_k = E_k / z_k`` and the edge functions E of the cell's centre;
    ``s_obj = sum_k w_k s_k``, hence ``ds/dg_k = (s_k - s_obj) / sum g``. No gradient through the outline (hard
    visibility). ``bare``: :func:`uncovered_loss` of the picture.
    """
    number = corner.dtype.type
    half, zero = number(0.5), number(0)
    wanted = gradient.shape[0] > 0
    gradient[:] = zero
    gain = bare if objective == LIKELIHOOD else 0.0
    unit = number(1.0 / clutter.shape[0] if objective == LIKELIHOOD else 1.0 / max(count, 1))
    for place in range(count):
        at = cell[place]
        row = at // width
        pu, pv = number(at - row * width) + half, number(row) + half
        a, b, c = faces[face[place], 0], faces[face[place], 1], faces[face[place], 2]
        au, av, aw = corner[a, 0] - pu, corner[a, 1] - pv, corner[a, 3]
        bu, bv, bw = corner[b, 0] - pu, corner[b, 1] - pv, corner[b, 3]
        cu, cv, cw = corner[c, 0] - pu, corner[c, 1] - pv, corner[c, 3]
        edge_a, edge_b, edge_c = bu * cv - bv * cu, cu * av - cv * au, au * bv - av * bu
        ga, gb, gc = edge_a * aw, edge_b * bw, edge_c * cw
        inverse = number(1) / (ga + gb + gc)
        sa, sb, sc = similarity[place, 0], similarity[place, 1], similarity[place, 2]
        found = (ga * sa + gb * sb + gc * sc) * inverse
        ground = clutter[at]
        slope = -unit
        if objective == LIKELIHOOD:
            gain += max(found - ground, zero) - max(-ground, zero)
            if found < ground:
                continue
            if found == ground:  # torch shares the gradient of a maximum between equals
                slope *= half
        else:
            gain += found - ground
        if not wanted:
            continue
        slope *= inverse
        ta, tb, tc = slope * (sa - found) * aw, slope * (sb - found) * bw, slope * (sc - found) * cw
        gradient[a, 0] += tc * bv - tb * cv
        gradient[a, 1] += tb * cu - tc * bu
        gradient[a, 2] -= ta * ga
        gradient[b, 0] += ta * cv - tc * av
        gradient[b, 1] += tc * au - ta * cu
        gradient[b, 2] -= tb * gb
        gradient[c, 0] += tb * av - ta * bv
        gradient[c, 1] += ta * bu - tb * au
        gradient[c, 2] -= tc * gc
    return 1.0 - gain * (1.0 / clutter.shape[0] if objective == LIKELIHOOD else 1.0 / max(count, 1))
