"""Occluder pasting: a smooth piece of another training picture covers part of the object."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from nvsm_lightning.geometry.cameras import Camera, mirror_camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint

SHARE = (0.05, 0.35)  # area of a piece over that of the object
ASPECT = 2.0  # longest to shortest axis of a piece, at most
WAVES = (2, 3, 4)  # of the outline around the ellipse ...
HEIGHT = 0.15  # ... and how much of the radius each may add or take
CORNERS = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
SIDES = torch.tensor([[0, 1, 3, 2], [4, 5, 7, 6], [0, 1, 5, 4], [2, 3, 7, 6], [0, 2, 6, 4], [1, 3, 7, 5]])


def paste(
    crop: UInt8[Tensor, "3 height width"],
    camera: Camera,
    viewpoint: Float[Tensor, "3"],
    donor: UInt8[Tensor, "3 height width"],
    donor_camera: Camera,
    extent: tuple[float, float, float],
    generator: Generator,
) -> UInt8[Tensor, "3 height width"]:
    """A copy of ``crop`` on which a piece of ``donor`` covers some of the object; camera and pose stay what they are.

    The piece is an ellipse with a wavy outline; its area is evenly drawn from 5-35 % of the object's, its middle is the
    image of a random point of the object, and what it shows is a random place of the donor, mirrored or not, never the
    fill around its picture; the fill around ``crop`` stays, too.

    Args:
        crop: the picture.
        camera: its camera, length 1.
        viewpoint: its pose, radians.
        donor: the other picture.
        donor_camera: its camera, which tells where it shows a picture.
        extent: sides of the object's cuboid, CAD units.
        generator: its state alone decides the result.
    """
    u = torch.rand(9 + len(WAVES), generator=generator)
    area, middle = _object(camera, viewpoint, extent, u[:3])
    if u[3] < 0.5:
        donor, donor_camera = donor.flip(-1), mirror_camera(donor_camera, donor.shape[-1])
    share = SHARE[0] + (SHARE[1] - SHARE[0]) * u[4].item()
    rows, columns, opacity = _piece(share * area, middle, u[5:7], u[9:], _shown(camera, crop))
    shown = _shown(donor_camera, donor)
    places = (_place(rows, *shown[0], u[7].item()), _place(columns, *shown[1], u[8].item()))
    inside = [(place >= low) & (place < high) for place, (low, high) in zip(places, shown, strict=True)]
    opacity = opacity * (inside[0][:, None] & inside[1])
    part = donor[:, places[0].clamp(0, donor.shape[1] - 1)][:, :, places[1].clamp(0, donor.shape[2] - 1)]
    result = crop.clone()
    window = result[:, rows[:, None], columns].float()
    result[:, rows[:, None], columns] = (window + opacity * (part.float() - window)).round().to(torch.uint8)
    return result


def _object(
    camera: Camera, viewpoint: Float[Tensor, "3"], extent: tuple[float, float, float], u: Float[Tensor, "3"]
) -> tuple[float, tuple[float, float]]:
    """Area of the picture of the object's cuboid in pixels, and where (row, column) the point ``u`` of it is seen."""
    points = torch.cat((CORNERS, u[None] - 0.5)) * torch.tensor(extent)
    uv = project(points, rotation_from_viewpoint(viewpoint[None]), camera)[0, :, :2]
    # Every point of a convex body's picture is covered by two of its sides.
    side = uv[SIDES]
    following = side.roll(-1, 1)
    areas = (side[..., 0] * following[..., 1] - side[..., 1] * following[..., 0]).sum(1).abs() / 2
    return areas.sum().item() / 2, (uv[-1, 1].item(), uv[-1, 0].item())


def _piece(
    area: float,
    middle: tuple[float, float],
    shape: Float[Tensor, "2"],
    phases: Float[Tensor, " wave"],
    shown: list[tuple[int, int]],
) -> tuple[Tensor, Tensor, Float[Tensor, "row column"]]:
    """Rows, columns and opacity of a piece of that ``area`` (pixels), within what is shown; edges are a pixel soft."""
    radius = math.sqrt(area / math.pi / (1 + len(WAVES) * HEIGHT**2 / 2))
    stretch, angle = math.sqrt(ASPECT) ** shape[0].item(), math.pi * shape[1].item()
    reach = radius * stretch * (1 + len(WAVES) * HEIGHT) + 1
    rows, columns = (
        torch.arange(first := max(low, int(at - reach)), max(first, min(high, int(at + reach) + 1)))
        for at, (low, high) in zip(middle, shown, strict=True)
    )
    y, x = (rows + 0.5 - middle[0])[:, None], columns + 0.5 - middle[1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    along, across = along / stretch, across * stretch
    turn = torch.atan2(across, along)
    waves = [(wave * turn + 2 * math.pi * phase).cos() for wave, phase in zip(WAVES, phases.tolist(), strict=True)]
    outline = radius * (1 + HEIGHT * torch.stack(waves).sum(0))
    return rows, columns, (outline - along.hypot(across) + 0.5).clamp(0, 1)


def _shown(camera: Camera, crop: Tensor) -> list[tuple[int, int]]:
    """Rows and columns of a crop that lie wholly in the stored picture, each as (first, behind the last)."""
    x1, y1, x2, y2 = camera.tensors()[-1][0].tolist()
    return [
        (math.ceil(max(0.0, low)), math.floor(min(float(length), high)))
        for low, high, length in ((y1, y2, crop.shape[1]), (x1, x2, crop.shape[2]))
    ]


def _place(positions: Tensor, low: int, high: int, u: float) -> Tensor:
    """``positions`` moved to a random place between ``low`` and ``high``; around the middle where there is no room."""
    room = high - low - len(positions)
    start = low + int(u * (room + 1)) if room >= 0 else low + room // 2
    return torch.arange(len(positions)) + start
