"""Cached rasterisations of a pose grid, ordered by map cell: what is seen in a cell at every pose of the grid.

Pictures with the same camera share a plan. Scoring a picture then goes through its cells one by one: the similarities
of a cell with the vertices that any pose shows in it are computed once and read by all poses, out of the nearest cache.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from nvsm_lightning.pose.descent_kernel import Scene, Scratch
from nvsm_lightning.pose.projection_kernel import place
from nvsm_lightning.pose.score_kernel import LIKELIHOOD, covered_cells, dot, uncovered_loss
from nvsm_lightning.render.compiling import Array, compiled
from nvsm_lightning.render.raster_kernel import draw


class Plan(NamedTuple):
    """The covered cells of some poses.

    Entries ``first[cell] .. first[cell + 1]`` belong to a cell: ``pose`` [entry], ``vertex`` [entry, 3] and barycentric
    ``weight`` [entry, 3]. ``area`` [pose] counts the covered cells of a pose.
    """

    first: Array
    pose: Array
    vertex: Array
    weight: Array
    area: Array


@compiled
@no_type_check
def draw_grid(grid: Array, camera: Array, scene: Scene, scratch: Scratch, corners: Array, seen: Array, area: Array):
    """Fill ``corners`` [pose, vertex, 4], ``seen`` [pose, cell] (face or -1) and ``area`` [pose] for ``grid``
    [pose, 6] and one camera row; returns how many cells are covered in all.
    """
    total = 0
    for pose in range(grid.shape[0]):
        place(grid[pose], camera, scene.points, scratch.rotation, scratch.slope, corners[pose])
        draw(
            corners[pose], scene.faces, scene.height, scene.width, scene.cull, scratch.bounds, scratch.listed,
            scratch.key,
        )  # fmt: skip
        count = covered_cells(scratch.key, scratch.cell, scratch.face)
        seen[pose] = -1
        for number in range(count):
            seen[pose, scratch.cell[number]] = scratch.face[number]
        area[pose] = count
        total += count
    return total


@compiled
@no_type_check
def sort_by_cell(corners: Array, seen: Array, scene: Scene, first: Array, pose: Array, vertex: Array, weight: Array):
    """Fill the arrays of a :class:`Plan` from what :func:`draw_grid` found."""
    half, one = np.float32(0.5), np.float32(1)
    entry = 0
    for cell in range(seen.shape[1]):
        first[cell] = entry
        row = cell // scene.width
        pu, pv = np.float32(cell - row * scene.width) + half, np.float32(row) + half
        for number in range(seen.shape[0]):
            face = seen[number, cell]
            if face < 0:
                continue
            a, b, c = scene.faces[face, 0], scene.faces[face, 1], scene.faces[face, 2]
            corner = corners[number]
            au, av, bu, bv = corner[a, 0] - pu, corner[a, 1] - pv, corner[b, 0] - pu, corner[b, 1] - pv
            cu, cv = corner[c, 0] - pu, corner[c, 1] - pv
            ga, gb = (bu * cv - bv * cu) * corner[a, 3], (cu * av - cv * au) * corner[b, 3]
            gc = (au * bv - av * bu) * corner[c, 3]
            scale = one / (ga + gb + gc)
            pose[entry] = number
            vertex[entry, 0], vertex[entry, 1], vertex[entry, 2] = a, b, c
            weight[entry, 0], weight[entry, 1], weight[entry, 2] = ga * scale, gb * scale, gc * scale
            entry += 1
    first[seen.shape[1]] = entry


@compiled
@no_type_check
def score_grid(
    plan: Plan,
    table: Array,
    cells: Array,
    clutter: Array,
    features: Array,
    objective: int,
    value: Array,
    owner: Array,
    gain: Array,
):
    """Fill ``gain`` [pose] with the loss of one picture at every pose of the plan.

    ``table`` [cell, vertex] or, where that is empty, ``cells`` [cell, dim] and ``features`` [vertex, dim].
    ``value`` [vertex] and ``owner`` [vertex] int32 are buffers.
    """
    gain[:], owner[:] = uncovered_loss(clutter) if objective == LIKELIHOOD else 0.0, -1
    zero = np.float32(0)
    for cell in range(clutter.shape[0]):
        ground = clutter[cell]
        bare = max(-ground, zero)
        for entry in range(plan.first[cell], plan.first[cell + 1]):
            found = zero
            for k in range(3):
                vertex = plan.vertex[entry, k]
                if owner[vertex] != cell:
                    owner[vertex] = cell
                    value[vertex] = table[cell, vertex] if table.shape[0] > 0 else dot(cells[cell], features[vertex])
                found += plan.weight[entry, k] * value[vertex]
            more = max(found - ground, zero) - bare if objective == LIKELIHOOD else found - ground
            gain[plan.pose[entry]] += more
    for pose in range(gain.shape[0]):
        gain[pose] = 1.0 - gain[pose] / (clutter.shape[0] if objective == LIKELIHOOD else max(plan.area[pose], 1))


@compiled
@no_type_check
def score_grid_batch(
    plan: Plan,
    tables: Array,
    cells: Array,
    clutter: Array,
    features: Array,
    objective: int,
    value: Array,
    owner: Array,
    loss: Array,
):
    """:func:`score_grid` for pictures of one camera; ``loss`` [picture, pose] float64."""
    for item in range(clutter.shape[0]):
        table = tables[item] if tables.shape[0] > 0 else tables.reshape(0, 0)
        own = cells[item] if cells.shape[0] > 0 else cells.reshape(0, 0)
        score_grid(plan, table, own, clutter[item], features, objective, value, owner, loss[item])
