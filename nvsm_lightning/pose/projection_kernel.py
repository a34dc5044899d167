"""Compiled projection of a mesh at one pose, and the way back of its gradient to the pose.

The same formulas as :func:`nvsm_lightning.geometry.viewpoints.rotation_from_viewpoint` and
:func:`nvsm_lightning.geometry.cameras.project`, with three parameters more: log distance factor, shift u, shift v. All
arrays of one float type, float32 in the solver and float64 in its tests.
"""

from math import cos, exp, sin
from typing import no_type_check

import numpy as np

from nvsm_lightning.render.compiling import Array, compiled

# columns of a camera row: distance, focal, principal u and v, box (x1, y1, x2, y2) or NaN
DISTANCE, FOCAL, PRINCIPAL, BOX = 0, 1, 2, 4


@compiled
@no_type_check
def turn(pose: Array, rotation: Array, slope: Array):
    """Fill ``rotation`` [3, 3] and its derivatives by azimuth, elevation and theta, ``slope`` [3, 3, 3]."""
    ca, sa, ce, se, ct, st = cos(pose[0]), sin(pose[0]), cos(pose[1]), sin(pose[1]), cos(pose[2]), sin(pose[2])
    right = (ca, sa, 0.0)
    up = (-se * sa, se * ca, ce)
    away = (-ce * sa, ce * ca, -se)
    right_a = (-sa, ca, 0.0)
    up_a = (-se * ca, -se * sa, 0.0)
    away_a = (-ce * ca, -ce * sa, 0.0)
    up_e = (-ce * sa, ce * ca, -se)
    away_e = (se * sa, -se * ca, -ce)
    for k in range(3):
        rotation[0, k] = ct * right[k] - st * up[k]
        rotation[1, k] = -st * right[k] - ct * up[k]
        rotation[2, k] = away[k]
        slope[0, 0, k], slope[0, 1, k], slope[0, 2, k] = (
            ct * right_a[k] - st * up_a[k], -st * right_a[k] - ct * up_a[k], away_a[k],
        )  # fmt: skip
        slope[1, 0, k], slope[1, 1, k], slope[1, 2, k] = -st * up_e[k], -ct * up_e[k], away_e[k]
        slope[2, 0, k], slope[2, 1, k], slope[2, 2, k] = rotation[1, k], -rotation[0, k], 0.0


@compiled
@no_type_check
def place(pose: Array, camera: Array, points: Array, rotation: Array, slope: Array, corner: Array):
    """Fill ``corner`` [vertex, 4] with (u, v, depth, 1 / depth) of ``points`` [vertex, 3] at ``pose`` [6].

    Returns the stretch of the box camera (low u, low v, size u, size v, all in the plane at depth 1), zeros for none.
    """
    number = corner.dtype.type
    turn(pose, rotation, slope)
    distance, least, one = number(camera[DISTANCE] * exp(pose[3])), number(1e-3), number(1)
    for vertex in range(points.shape[0]):
        x, y, z = points[vertex, 0], points[vertex, 1], points[vertex, 2]
        depth = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2] * z + distance
        inverse = one / max(depth, least)
        corner[vertex, 0] = (rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2] * z) * inverse
        corner[vertex, 1] = (rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2] * z) * inverse
        corner[vertex, 2] = depth
        corner[vertex, 3] = one / depth
    shift_u, shift_v = number(pose[4]), number(pose[5])
    if not np.isfinite(camera[BOX] + camera[BOX + 1] + camera[BOX + 2] + camera[BOX + 3]):
        focal = camera[FOCAL]
        offset_u, offset_v = camera[PRINCIPAL] + shift_u, camera[PRINCIPAL + 1] + shift_v
        for vertex in range(points.shape[0]):
            corner[vertex, 0] = offset_u + focal * corner[vertex, 0]
            corner[vertex, 1] = offset_v + focal * corner[vertex, 1]
        return number(0), number(0), number(0), number(0)
    low_u, low_v = corner[:, 0].min(), corner[:, 1].min()
    size_u, size_v = max(corner[:, 0].max() - low_u, number(1e-9)), max(corner[:, 1].max() - low_v, number(1e-9))
    scale_u, scale_v = (camera[BOX + 2] - camera[BOX]) / size_u, (camera[BOX + 3] - camera[BOX + 1]) / size_v
    offset_u, offset_v = camera[BOX] + shift_u, camera[BOX + 1] + shift_v
    for vertex in range(points.shape[0]):
        corner[vertex, 0] = offset_u + (corner[vertex, 0] - low_u) * scale_u
        corner[vertex, 1] = offset_v + (corner[vertex, 1] - low_v) * scale_v
    return low_u, low_v, size_u, size_v


@compiled
@no_type_check
def through_box(axis: int, corner: Array, gradient: Array):
    """Turn the gradient by picture coordinate ``axis`` into one by the same coordinate before the box camera's
    stretch, scaled by the focal length: the vertices at the box's edges move all others.

    Where several vertices lie on an edge they share it evenly, as in torch's ``amin``.
    """
    low, high = corner[:, axis].min(), corner[:, axis].max()
    size = high - low
    by_low, by_high, on_low, on_high = 0.0, 0.0, 0, 0
    for vertex in range(corner.shape[0]):
        along = (corner[vertex, axis] - low) / size
        by_low += gradient[vertex, axis] * (along - 1)
        by_high -= gradient[vertex, axis] * along
        on_low += corner[vertex, axis] == low
        on_high += corner[vertex, axis] == high
    for vertex in range(corner.shape[0]):
        if corner[vertex, axis] == low:
            gradient[vertex, axis] += by_low / on_low
        if corner[vertex, axis] == high:
            gradient[vertex, axis] += by_high / on_high


@compiled
@no_type_check
def pose_gradient(
    pose: Array,
    camera: Array,
    points: Array,
    rotation: Array,
    slope: Array,
    stretch: tuple,
    corner: Array,
    gradient: Array,
    out: Array,
):
    """Fill ``out`` [6] with the gradient by the pose, from ``gradient`` [vertex, 3] by (u, v, depth), which is spoilt.

    ``rotation``, ``slope``, ``stretch`` and ``corner`` are what :func:`place` made of the same pose.
    """
    number = corner.dtype.type
    zero, least = number(0), number(1e-3)
    out[4], out[5] = gradient[:, 0].sum(), gradient[:, 1].sum()
    low_u, low_v, size_u, size_v = stretch
    boxed = size_u > zero
    if boxed:
        through_box(0, corner, gradient)
        through_box(1, corner, gradient)
        scale_u, scale_v = (camera[BOX + 2] - camera[BOX]) / size_u, (camera[BOX + 3] - camera[BOX + 1]) / size_v
        middle_u, middle_v = camera[BOX] + number(pose[4]), camera[BOX + 1] + number(pose[5])
    else:
        scale_u, scale_v = camera[FOCAL], camera[FOCAL]
        middle_u, middle_v = camera[PRINCIPAL] + number(pose[4]), camera[PRINCIPAL + 1] + number(pose[5])
    by_rotation = np.zeros((3, 3), corner.dtype)
    by_distance = zero
    for vertex in range(points.shape[0]):
        depth = corner[vertex, 2]
        inverse = number(1) / max(depth, least)
        by_x = gradient[vertex, 0] * scale_u * inverse
        by_y = gradient[vertex, 1] * scale_v * inverse
        plane_u = (corner[vertex, 0] - middle_u) / scale_u + low_u
        plane_v = (corner[vertex, 1] - middle_v) / scale_v + low_v
        by_z = gradient[vertex, 2]
        if depth > least:
            by_z -= by_x * plane_u + by_y * plane_v
        by_distance += by_z
        for k in range(3):
            by_rotation[0, k] += by_x * points[vertex, k]
            by_rotation[1, k] += by_y * points[vertex, k]
            by_rotation[2, k] += by_z * points[vertex, k]
    for angle in range(3):
        out[angle] = (by_rotation * slope[angle]).sum()
    out[3] = by_distance * camera[DISTANCE] * exp(pose[3])
