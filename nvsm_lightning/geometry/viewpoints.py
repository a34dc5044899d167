"""Viewpoints (azimuth, elevation, theta) and the rotations they stand for.

Convention (PASCAL3D+): object axes x = the object's left, y = its back, z = up; the front looks along -y.
At azimuth 0 the camera is in front of the object; azimuth grows as the camera moves to the object's left (+x).
Elevation is positive above the object. Theta turns the picture counter-clockwise.
A *viewpoint* is a tensor ``(..., 3)`` of (azimuth, elevation, theta) in RADIANS; degrees appear only in names ending in
``_deg``. A *rotation* takes object coordinates to the OpenCV camera frame (x right, y down, z forward) unless its name
says otherwise.
"""

import math

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotation_from_viewpoint(viewpoint: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Object-to-camera rotation, OpenCV frame: ``diag(1,-1,-1) Rz(theta) Rx(elevation - pi/2) Rz(-azimuth)``.

    Written out entry by entry: it is the innermost step of the pose solver, and a product of three matrices costs ten
    times as much. Source: PASCAL3D+ toolkit ``project_3d``; equality with the product is a test.

    Example: the front view ``(0, 0, 0)`` gives rows (1,0,0), (0,0,-1), (0,1,0).
    """
    azimuth, elevation, theta = viewpoint.unbind(-1)
    ca, sa = azimuth.cos(), azimuth.sin()
    ce, se = elevation.cos(), elevation.sin()
    ct, st = theta.cos(), theta.sin()
    # Rows of Rx(e - pi/2) Rz(-a): right (ca, sa, 0), up (-se sa, se ca, ce), towards the viewer (ce sa, -ce ca, se).
    up_x, up_y, up_z = -se * sa, se * ca, ce
    rows = (
        torch.stack((ct * ca - st * up_x, ct * sa - st * up_y, -st * up_z), -1),
        torch.stack((-st * ca - ct * up_x, -st * sa - ct * up_y, -ct * up_z), -1),
        torch.stack((-ce * sa, ce * ca, -se), -1),
    )
    return torch.stack(rows, -2)


def viewpoint_from_rotation(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of :func:`rotation_from_viewpoint`.

    Azimuth in [0, 2 pi), elevation in [-pi/2, pi/2], theta in (-pi, pi]. By atan2: the atan of NeMo's code fails
    at x = 0.
    """
    elevation = torch.asin((-rotation[..., 2, 2]).clamp(-1, 1))
    azimuth = torch.atan2(-rotation[..., 2, 0], rotation[..., 2, 1]) % (2 * math.pi)
    theta = torch.atan2(-rotation[..., 0, 2], -rotation[..., 1, 2])
    return torch.stack((azimuth, elevation, theta), -1)


def geodesic_error(
    rotation_a: Float[Tensor, "*#batch 3 3"], rotation_b: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Angle in radians between two rotations: the error of NeMo, NVSM and StarMap.

    Equal to ``||log(A^T B)||_F / sqrt(2)``. Computed by roma as ``2 asin(||A - B||_F / sqrt(8))``: exact near 0,
    where an arccos of the trace is not, and within the square root of the precision near pi (3e-4 in float32).
    """
    return roma.rotmat_geodesic_distance(rotation_a, rotation_b)


def viewpoint_error(
    viewpoint_a: Float[Tensor, "*#batch 3"], viewpoint_b: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch"]:
    """:func:`geodesic_error` in radians between two viewpoints."""
    return geodesic_error(rotation_from_viewpoint(viewpoint_a), rotation_from_viewpoint(viewpoint_b))


def mirror_viewpoint(viewpoint: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Viewpoint of the left-right mirrored picture of a left-right symmetric object: ``(-azimuth, elevation, -theta)``.

    The mirrored picture also has its principal point at ``width - px`` (see
    :func:`nvsm_lightning.geometry.cameras.mirror_camera`).
    """
    azimuth, elevation, theta = viewpoint.unbind(-1)
    return torch.stack(((-azimuth) % (2 * math.pi), elevation, -theta), -1)


def wrap_angle(angle: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The same angle in [-pi, pi), radians."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def only_azimuths(viewpoint: Float[Tensor, "entry 3"]) -> Float[Tensor, "entry 3"]:
    """NaN for elevation and theta."""
    return torch.cat((viewpoint[:, :1], torch.full_like(viewpoint[:, 1:], torch.nan)), 1)


def azimuth_bin(viewpoint: Float[Tensor, "entry 3"], bins: int) -> Int[Tensor, " entry"]:
    """Which of ``bins`` equal parts of the turn each azimuth lies in."""
    return (viewpoint[:, 0] % (2 * math.pi) / (2 * math.pi) * bins).long().clamp_max(bins - 1)
