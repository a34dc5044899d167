"""Augmentation of a crop together with its camera and viewpoint, a few milliseconds a picture."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional

from nvsm_lightning.data.crops import FILL
from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera, mirror_camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint

# Rec. 601 luma, and the chroma axes I and Q: a turn of hue is a rotation in the plane of I and Q.
RGB_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
YIQ_TO_RGB = torch.linalg.inv(RGB_TO_YIQ)

# (picture, camera, viewpoint, generator) -> the picture with something pasted on it
Occluder = Callable[[UInt8[Tensor, "3 height width"], Camera, Float[Tensor, "3"], Generator], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training picture; all zero (and ``mirror`` of the data off) leaves it as it is.

    Args:
        mirror: probability of a left-right mirror, used only if the category is symmetric (``--data.mirror``).
        brightness: factor drawn from 1 +- this.
        contrast: factor drawn from 1 +- this.
        saturation: factor drawn from 1 +- this.
        hue_deg: hue turned by up to this many degrees either way.
        grayscale: probability of a grey picture.
        scale: resize factor drawn from 1 +- this, camera included.
        shift: shift in pixels of up to this much either way along both axes, camera included.
        erase: probability that a rectangle of 2-15 % of the picture is covered by noise.
        paste: probability that a piece of another training picture, 5-35 % of the object's area, covers some of the
            object.
    """

    mirror: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue_deg: float = 10.0
    grayscale: float = 0.1
    scale: float = 0.15
    shift: float = 8.0
    erase: float = 0.2
    paste: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mirror", "grayscale", "erase", "paste", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} must lie in 0..1; got {getattr(self, name)}.")
        if not 0 <= self.scale < 1 or self.shift < 0 or self.hue_deg < 0:
            raise ConfigError(f"augment: scale must lie in 0..1, shift and hue_deg must not be negative; got {self}.")


def augment(
    crop: UInt8[Tensor, "3 height width"],
    camera: Camera,
    viewpoint: Float[Tensor, "3"],
    settings: Augmentation,
    generator: Generator,
    symmetric: bool,
    occluder: Occluder | None = None,
) -> tuple[Float[Tensor, "3 height width"], Camera, Float[Tensor, "3"]]:
    """A changed copy in 0..1, with the camera and viewpoint (radians) of what is now seen; all draws from
    ``generator``.

    Args:
        crop: the picture.
        camera: its camera, length 1.
        viewpoint: its label.
        settings: how much to change.
        generator: its state alone decides the result.
        symmetric: whether the object is left-right symmetric, so that it may be mirrored.
        occluder: pastes a piece of another picture; without it nothing is pasted.
    """
    # One draw for all decisions: the stream does not depend on which of them are used.
    u = torch.rand(16, generator=generator)
    if symmetric and u[0] < settings.mirror:
        crop, camera, viewpoint = crop.flip(-1), mirror_camera(camera, crop.shape[-1]), mirror_viewpoint(viewpoint)
    if occluder is not None and u[14] < settings.paste:
        crop = occluder(crop, camera, viewpoint, generator)
    signed = 2 * u - 1
    picture, camera = _zoom(
        crop,
        camera,
        1 + settings.scale * signed[1].item(),
        settings.shift * signed[2].item(),
        settings.shift * signed[3].item(),
    )
    matrix, offset = _colour(picture, settings, signed[4:8], bool(u[8] < settings.grayscale))
    picture = torch.addmm(offset[:, None], matrix, picture.flatten(1)).clamp_(0, 1).view_as(picture)
    if u[9] < settings.erase:
        _erase(picture, u[10:14], generator)
    return picture, camera, viewpoint


def _zoom(
    crop: UInt8[Tensor, "3 height width"], camera: Camera, scale: float, shift_u: float, shift_v: float
) -> tuple[Float[Tensor, "3 height width"], Camera]:
    """Resize about the principal point by ``scale`` and shift by pixels; what comes in from outside has the fill
    colour."""
    height, width = crop.shape[1:]
    fill = torch.tensor(FILL, dtype=torch.float32).view(3, 1, 1)
    picture = crop.float() - fill  # so that grid_sample's zero padding is the fill colour
    if scale != 1 or shift_u or shift_v:
        # New pixel p shows old pixel (p - c - shift) / scale + c; grid_sample counts from -1 to 1 over the picture's
        # outer edges.
        centre = camera.principal[0]
        offset_u = 2 / width * (centre[0] - (centre[0] + shift_u) / scale) + 1 / scale - 1
        offset_v = 2 / height * (centre[1] - (centre[1] + shift_v) / scale) + 1 / scale - 1
        theta = torch.tensor([[[1 / scale, 0, offset_u], [0, 1 / scale, offset_v]]])
        grid = functional.affine_grid(theta, [1, 3, height, width], align_corners=False)
        picture = functional.grid_sample(picture[None], grid, align_corners=False)[0]
        shift = torch.tensor([shift_u, shift_v])
        box, frame = (
            (edges - centre.repeat(2)) * scale + (centre + shift).repeat(2) for edges in camera.tensors()[-2:]
        )
        camera = Camera(camera.distance, camera.focal * scale, camera.principal + shift, box, frame)
    return (picture + fill).div_(255), camera


def _colour(
    picture: Float[Tensor, "3 height width"], settings: Augmentation, signed: Float[Tensor, "4"], grey: bool
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Brightness, contrast, saturation and hue as one affine map of colours: matrix and offset."""
    brightness = 1 + settings.brightness * signed[0]
    contrast = 1 + settings.contrast * signed[1]
    saturation = torch.zeros(()) if grey else 1 + settings.saturation * signed[2]
    angle = math.radians(settings.hue_deg) * signed[3]
    cos, sin, zero, one = angle.cos() * saturation, angle.sin() * saturation, torch.zeros(()), torch.ones(())
    turn = torch.stack((one, zero, zero, zero, cos, -sin, zero, sin, cos)).view(3, 3)
    mean = RGB_TO_YIQ[0] @ picture.mean((1, 2)) * brightness
    matrix = brightness * contrast * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ)
    return matrix, ((1 - contrast) * mean).expand(3)


def _erase(picture: Float[Tensor, "3 height width"], u: Float[Tensor, "4"], generator: Generator) -> None:
    """Cover a rectangle of 2-15 % of the picture, aspect 1/3..3, by noise, in place (random erasing, Zhong et al.
    2020)."""
    height, width = picture.shape[1:]
    area = height * width * (0.02 + 0.13 * u[0].item())
    aspect = 3 ** (2 * u[1].item() - 1)
    h, w = min(height, round(math.sqrt(area * aspect))), min(width, round(math.sqrt(area / aspect)))
    top, left = int(u[2].item() * (height - h + 1)), int(u[3].item() * (width - w + 1))
    picture[:, top : top + h, left : left + w] = torch.rand((3, h, w), generator=generator)
