"""The compiled pose search: projection, z-buffer, loss, gradient and Adam step of a picture in one loop."""

from math import sqrt
from typing import NamedTuple, no_type_check

import numpy as np

from nvsm_lightning.pose.projection_kernel import place, pose_gradient
from nvsm_lightning.pose.score_kernel import (
    LIKELIHOOD,
    covered_cells,
    look_up,
    look_up_or_compute,
    score,
    uncovered_loss,
)
from nvsm_lightning.render.compiling import Array, compiled
from nvsm_lightning.render.raster_kernel import draw

BETA_1, BETA_2, EPSILON = 0.4, 0.6, 1e-8  # NeMo's near-sign betas; torch's epsilon


class Scene(NamedTuple):
    """What is the same for all poses of all pictures: mesh, map width and height, drawing and objective."""

    points: Array  # [vertex, 3] float32
    faces: Array  # [face, 3] uint32
    features: Array  # [vertex, dim] float32; empty where tables are given
    height: int
    width: int
    cull: bool
    objective: int


class Scratch(NamedTuple):
    """Buffers of one thread, used again for every pose."""

    rotation: Array
    slope: Array
    corner: Array
    bounds: Array
    listed: Array
    key: Array
    cell: Array
    face: Array
    similarity: Array
    gradient: Array
    memo: Array
    tag: Array


class Schedule(NamedTuple):
    """Adam's: how many steps, the first step size, its factor every third, and the unit of each of the 6 parameters
    (0: not free)."""

    steps: int
    rate: float
    decay: float
    unit: Array


@compiled
@no_type_check
def loss_at(
    pose: Array,
    camera: Array,
    table: Array,
    cells: Array,
    clutter: Array,
    bare: float,
    epoch: int,
    scene: Scene,
    scratch: Scratch,
    gradient: Array,
):
    """Loss of one picture at ``pose`` [6]; ``gradient`` [6] is filled where it is not empty.

    Args:
        pose: azimuth, elevation, theta, log of the distance factor, shift u, shift v; float64.
        camera: a row, see :mod:`.projection_kernel`.
        table: [cell, vertex], or empty: similarities are then computed from ``cells`` [cell, dim] when needed.
        clutter: similarity of every cell with the clutter feature.
        bare: :func:`.score_kernel.uncovered_loss` of the picture.
        epoch: a number no other picture had in this ``scratch``.
        scene: what pictures share.
        scratch: buffers.
        gradient: float64.
    """
    corner = scratch.corner
    stretch = place(pose, camera, scene.points, scratch.rotation, scratch.slope, corner)
    draw(corner, scene.faces, scene.height, scene.width, scene.cull, scratch.bounds, scratch.listed, scratch.key)
    count = covered_cells(scratch.key, scratch.cell, scratch.face)
    if table.shape[0] > 0:
        look_up(table, scene.faces, scratch.cell, scratch.face, count, scratch.similarity)
    else:
        look_up_or_compute(
            cells, scene.features, scratch.memo, scratch.tag, epoch,
            scene.faces, scratch.cell, scratch.face, count, scratch.similarity,
        )  # fmt: skip
    by_corner = scratch.gradient if gradient.shape[0] > 0 else scratch.gradient[:0]
    loss = score(
        scene.objective, corner, scene.faces, scene.width, scratch.cell, scratch.face, count,
        scratch.similarity, clutter, bare, by_corner,
    )  # fmt: skip
    if gradient.shape[0] > 0:
        pose_gradient(pose, camera, scene.points, scratch.rotation, scratch.slope, stretch, corner, by_corner, gradient)
    return loss


@compiled
@no_type_check
def descend(
    start: Array,
    camera: Array,
    table: Array,
    cells: Array,
    clutter: Array,
    epoch: int,
    scene: Scene,
    scratch: Scratch,
    schedule: Schedule,
    best: Array,
    best_loss: Array,
):
    """Adam from every ``start`` [mode, 6] of one picture; ``best`` [mode, 6] and ``best_loss`` [mode] are filled with
    the best iterate and its loss. Other arguments as :func:`loss_at`.
    """
    third = max(1, (schedule.steps + 2) // 3)
    gradient, none = np.zeros(6), np.zeros(0)
    mean, square, pose = np.zeros(6), np.zeros(6), np.zeros(6)
    bare = uncovered_loss(clutter) if scene.objective == LIKELIHOOD else 0.0
    for mode in range(start.shape[0]):
        mean[:], square[:], pose[:] = 0, 0, start[mode]
        best[mode], best_loss[mode] = start[mode], np.inf
        rate, decay_1, decay_2 = schedule.rate, 1.0, 1.0
        for step in range(schedule.steps + 1):
            wanted = gradient if step < schedule.steps else none
            loss = loss_at(pose, camera, table, cells, clutter, bare, epoch, scene, scratch, wanted)
            if loss < best_loss[mode]:
                best_loss[mode], best[mode] = loss, pose
            if step == schedule.steps:
                break
            if step and step % third == 0:
                rate *= schedule.decay
            decay_1, decay_2 = decay_1 * BETA_1, decay_2 * BETA_2
            for k in range(6):
                slope = gradient[k] * schedule.unit[k]
                mean[k] = BETA_1 * mean[k] + (1 - BETA_1) * slope
                square[k] = BETA_2 * square[k] + (1 - BETA_2) * slope * slope
                size = sqrt(square[k] / (1 - decay_2)) + EPSILON
                pose[k] -= schedule.unit[k] * rate * mean[k] / (1 - decay_1) / size


@compiled
@no_type_check
def descend_batch(
    starts: Array,
    cameras: Array,
    tables: Array,
    cells: Array,
    clutter: Array,
    epoch: int,
    scene: Scene,
    scratch: Scratch,
    schedule: Schedule,
    best: Array,
    best_loss: Array,
):
    """:func:`descend` for every picture; all arrays with a picture axis in front (``tables`` or ``cells`` empty)."""
    for item in range(starts.shape[0]):
        table = tables[item] if tables.shape[0] > 0 else tables.reshape(0, 0)
        own = cells[item] if cells.shape[0] > 0 else cells.reshape(0, 0)
        descend(
            starts[item], cameras[item], table, own, clutter[item], epoch + item, scene, scratch, schedule,
            best[item], best_loss[item],
        )  # fmt: skip
