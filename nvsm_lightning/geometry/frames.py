"""The other frames of the field, each converted to and from a viewpoint. One frame a section, each with its convention.

Object axes are always those of PASCAL3D+ (x = the object's left, y = its back, z = up) unless a convention says
otherwise. All angles are radians, viewpoints are (azimuth, elevation, theta) as in :mod:`.viewpoints`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint, viewpoint_from_rotation

# Vertices for PyTorch3D, (x, y, z) -> (x, z, -y): NeMo turns its meshes so that up is +y.
PYTORCH3D_FROM_PASCAL = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))


def camera_centre(
    viewpoint: Float[Tensor, "*batch 3"], distance: Float[Tensor, "*batch"] | float
) -> Float[Tensor, "*batch 3"]:
    """Camera position in the object frame, CAD units: ``d (cos e sin a, -cos e cos a, sin e)``.

    Example: azimuth 0 is in front (0, -d, 0), azimuth 90 degrees to the object's left (d, 0, 0).
    """
    azimuth, elevation, _ = viewpoint.unbind(-1)
    flat = elevation.cos()
    direction = torch.stack((flat * azimuth.sin(), -flat * azimuth.cos(), elevation.sin()), -1)
    return direction * torch.as_tensor(distance, dtype=viewpoint.dtype, device=viewpoint.device)[..., None]


# PASCAL3D+ ------------------------------------------------------------------------------------------------------------


def pascal_from_viewpoint(viewpoint: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation that the PASCAL3D+ metrics compare: ``Rz(theta) Rx(elevation - pi/2) Rz(-azimuth)``.

    **Convention**: object to camera, column vectors; camera x right, y up, z towards the viewer (OpenGL).
    """
    rotation = rotation_from_viewpoint(viewpoint)
    return rotation * rotation.new_tensor([1, -1, -1])[:, None]


def viewpoint_from_pascal(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of :func:`pascal_from_viewpoint`; ranges as :func:`.viewpoints.viewpoint_from_rotation`."""
    return viewpoint_from_rotation(rotation * rotation.new_tensor([1, -1, -1])[:, None])


# PyTorch3D ------------------------------------------------------------------------------------------------------------


def pytorch3d_from_viewpoint(
    viewpoint: Float[Tensor, "*batch 3"], distance: Float[Tensor, "*batch"] | float
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """PyTorch3D's (R, T) as NeMo's code uses it.

    **Convention**: row vectors, ``X_cam = X R + T``; camera x left, y up, z forward; ``X`` is the vertex turned to y
    up, :data:`PYTORCH3D_FROM_PASCAL`. A point falls on ``u = px - f x / z``, ``v = py - f y / z``. T = (0, 0,
    distance).
    """
    rotation = rotation_from_viewpoint(viewpoint)
    turn = rotation.new_tensor(PYTORCH3D_FROM_PASCAL)
    row_rotation = turn @ rotation.mT * rotation.new_tensor([-1, -1, 1])
    depth = torch.as_tensor(distance, dtype=rotation.dtype, device=rotation.device).expand(rotation.shape[:-2])
    return row_rotation, torch.stack((torch.zeros_like(depth), torch.zeros_like(depth), depth), -1)


def viewpoint_from_pytorch3d(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Viewpoint of PyTorch3D's R, inverse of :func:`pytorch3d_from_viewpoint`."""
    turn = rotation.new_tensor(PYTORCH3D_FROM_PASCAL)
    return viewpoint_from_rotation((turn.mT @ rotation * rotation.new_tensor([-1, -1, 1])).mT)


# OpenGL, NeRF ---------------------------------------------------------------------------------------------------------


def camera_to_world_from_viewpoint(
    viewpoint: Float[Tensor, "*batch 3"], distance: Float[Tensor, "*batch"] | float
) -> Float[Tensor, "*batch 4 4"]:
    """The camera's pose as NeRF's ``transforms.json`` stores it.

    **Convention**: camera to world, column vectors; the world is the object frame; camera x right, y up, z backwards.
    """
    pose = torch.zeros(*viewpoint.shape[:-1], 4, 4, dtype=viewpoint.dtype, device=viewpoint.device)
    pose[..., :3, :3] = pascal_from_viewpoint(viewpoint).mT
    pose[..., :3, 3] = camera_centre(viewpoint, distance)
    pose[..., 3, 3] = 1
    return pose


def viewpoint_from_camera_to_world(
    pose: Float[Tensor, "*batch 4 4"],
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch"]]:
    """Viewpoint and distance of a NeRF camera, inverse of :func:`camera_to_world_from_viewpoint`.

    The distance is the depth of the world's origin. A camera that does not look straight at the origin sees it away
    from its principal point, which neither number tells.
    """
    rotation = pose[..., :3, :3].mT
    depth = (rotation @ pose[..., :3, 3:])[..., 2, 0]
    return viewpoint_from_pascal(rotation), depth


# KITTI ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KittiView:
    """Where a KITTI camera stands as seen from an object, and where the object is in the picture.

    Attributes:
        viewpoint: (azimuth, elevation, 0), radians.
        distance: from the camera to the object, metres.
        principal: pixel onto which the object's centre projects.
    """

    viewpoint: Float[Tensor, "*batch 3"]
    distance: Float[Tensor, "*batch"]
    principal: Float[Tensor, "*batch 2"]


def azimuth_from_kitti_alpha(alpha: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Azimuth in [0, 2 pi) of KITTI's observation angle: ``alpha - pi / 2``.

    **Convention**: alpha = rotation_y - atan2(x, z). An object that faces the camera has alpha pi/2 and azimuth 0.
    """
    return (alpha - math.pi / 2) % (2 * math.pi)


def kitti_alpha_from_azimuth(azimuth: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """KITTI's observation angle in [-pi, pi), inverse of :func:`azimuth_from_kitti_alpha`."""
    return (azimuth + 1.5 * math.pi) % (2 * math.pi) - math.pi


def kitti_view(
    location: Float[Tensor, "*batch 3"],
    rotation_y: Float[Tensor, "*batch"],
    height: Float[Tensor, "*batch"],
    projection: Float[Tensor, "3 4"],
    legacy: bool = False,
) -> KittiView:
    """View of an object of a KITTI label file.

    **Convention**: ``location`` is the middle of the object's underside, metres, in the rectified camera frame (x
    right, y down, z forward); rotation_y turns its heading from +x towards -z. The centre is half a height further up.
    Theta is 0: the road is level.

    Args:
        location: label fields 12 to 14.
        rotation_y: label field 15, radians.
        height: label field 9, metres.
        projection: the file's P2.
        legacy: NeMo's numbers: distance to the underside instead of the centre, and elevation with the wrong sign.
    """
    x, y, z = location.unbind(-1)
    centre = torch.stack((x, y - height / 2, z), -1)
    azimuth = azimuth_from_kitti_alpha(rotation_y - torch.atan2(x, z))
    distance = (location if legacy else centre).norm(dim=-1)
    elevation = torch.asin(centre[..., 1] / distance) * (-1 if legacy else 1)
    pixel = centre @ projection[:, :3].mT + projection[:, 3]
    viewpoint = torch.stack((azimuth, elevation, torch.zeros_like(azimuth)), -1)
    return KittiView(viewpoint, distance, pixel[..., :2] / pixel[..., 2:])
