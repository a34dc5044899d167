"""Pictures to crops at canonical scale: the object's centre in the middle, a fixed number of pixels per CAD unit."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nvsm_lightning.data.record import Record
from nvsm_lightning.data.turning import edges_after, turn
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.cameras import Camera

# What is outside the picture becomes the mean colour of ImageNet, which a normalising backbone sees as zero.
FILL = (124, 116, 104)
CANONICAL_DISTANCE = 5.0  # CAD units, NeMo


@dataclass(frozen=True)
class CropSpec:
    """The shape and scale of the crops.

    Args:
        height: height of a crop in pixels.
        width: width of a crop in pixels.
        pixels_per_unit: pixels per CAD unit at the object's centre (NeMo: 600 with crops of 256 x 672; the default is
            about half of that, for CPUs).
        box_unit: CAD units that the shorter side of a bounding box is taken for, where only a box is known (0.33: the
            mean of a car's height and width).
        box_distance: distance in CAD units assumed for pictures of which only a box is known.
        camera: ``own`` keeps each picture's own distance; ``canonical`` says distance 5 for every picture (protocol of
            NeMo, exact only in the plane through the object's centre).
    """

    height: int = 160
    width: int = 384
    pixels_per_unit: float = 300.0
    box_unit: float = 0.33
    box_distance: float = 1.734
    camera: Literal["own", "canonical"] = "own"

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.pixels_per_unit, self.box_unit, self.box_distance) <= 0:
            raise ConfigError(f"Crop sizes and scales must be positive; got {self}.")


def picture_size(path: Path, turned: bool = False) -> tuple[int, int]:
    """(width, height) from the file's head, without decoding it, of a ``turned`` picture upright by its EXIF tag.
    Raises DataError if there is no readable picture."""
    with open_picture(path) as image:
        on_its_side = turned and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size[::-1] if on_its_side else image.size


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """A picture opened but not decoded. Raises DataError naming the file if it is missing or no picture, or if it
    cannot be decoded by what is done with it."""
    try:
        picture = Image.open(path)
    except FileNotFoundError as error:
        raise DataError(f"Picture {path} does not exist; restore it or take it off its list.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a picture that can be read; replace it or remove it.") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"Picture {path} cannot be opened ({error}); replace it or remove it.") from error
    with picture:
        try:
            yield picture
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"Picture {path} cannot be decoded ({error}); replace it or remove it.") from error


def canonical_crop(image: Path, record: Record, spec: CropSpec) -> tuple[UInt8[Tensor, "3 height width"], Camera]:
    """Cut and resize a picture to canonical scale; returns the crop (RGB) and its camera (length 1).

    Known camera: scale ``s = pixels_per_unit * distance / focal_px`` (NeMo: ``distance / 5`` for 600 px, focal 3000),
    window centred at the principal point. Box only (the whole picture if there is none): ``s = pixels_per_unit *
    box_unit / min(box height, box width)`` (NeMo: 224 / min), reduced until the box fits the window, window centred at
    the box. Only the needed region is resampled, with edges not rounded to whole pixels, so the camera is exact.

    Raises:
        DataError: the picture is missing, truncated or otherwise undecodable; the message names the file.
    """
    with open_picture(image) as picture:
        if record.turned:
            picture = ImageOps.exif_transpose(picture)
        edges = (0.0, 0.0, float(picture.size[0]), float(picture.size[1]))
        if record.warp is not None and record.principal is not None:
            edges = edges_after(picture.size, record.warp, record.principal)
            picture = turn(picture, record.warp, FILL)
        scale, centre, camera = _window(picture.size, record, spec)
        camera = replace(camera, frame=_frame(edges, scale, centre, spec))
        return _resample(picture, scale, centre, spec), camera


def _window(size: tuple[int, int], record: Record, spec: CropSpec) -> tuple[float, tuple[float, float], Camera]:
    """Scale, centre of the window in the stored picture, and the camera of the crop."""
    middle = torch.tensor([[spec.width / 2, spec.height / 2]])
    if record.focal_px is not None and record.distance is not None and record.principal is not None:
        distance = CANONICAL_DISTANCE if spec.camera == "canonical" else record.distance
        camera = Camera(
            distance=torch.tensor([distance]),
            focal=torch.tensor([distance * spec.pixels_per_unit]),
            principal=middle,
            box=torch.full((1, 4), torch.nan),
        )
        return spec.pixels_per_unit * record.distance / record.focal_px, record.principal, camera
    x1, y1, x2, y2 = record.box or (0.0, 0.0, *size)
    scale = spec.pixels_per_unit * spec.box_unit / min(x2 - x1, y2 - y1)
    scale = min(scale, spec.width / (x2 - x1), spec.height / (y2 - y1))
    half = torch.tensor([x2 - x1, y2 - y1]) * scale / 2
    camera = Camera(
        distance=torch.tensor([record.distance or spec.box_distance]),
        focal=torch.ones(1),
        principal=middle,
        box=torch.cat((middle - half, middle + half), -1),
    )
    return scale, ((x1 + x2) / 2, (y1 + y2) / 2), camera


def _frame(
    edges: tuple[float, float, float, float], scale: float, centre: tuple[float, float], spec: CropSpec
) -> Float[Tensor, "1 4"]:
    """Edges of the stored picture in crop pixels; beyond the window where it shows a part only."""
    x, y = spec.width / 2 - centre[0] * scale, spec.height / 2 - centre[1] * scale
    x1, y1, x2, y2 = (edge * scale for edge in edges)
    return torch.tensor([[x + x1, y + y1, x + x2, y + y2]])


def _resample(
    picture: Image.Image, scale: float, centre: tuple[float, float], spec: CropSpec
) -> UInt8[Tensor, "3 height width"]:
    """The window around ``centre``, antialiased bilinear, :data:`FILL` outside the picture.

    Crop pixel edge ``j`` shows stored column ``left + j / scale``; a border column not wholly inside the picture is
    filled.
    """
    full_width, full_height = picture.size
    left, top = centre[0] - spec.width / 2 / scale, centre[1] - spec.height / 2 / scale
    j0, j1 = max(0, math.ceil(-left * scale)), min(spec.width, math.floor((full_width - left) * scale))
    i0, i1 = max(0, math.ceil(-top * scale)), min(spec.height, math.floor((full_height - top) * scale))
    crop = np.full((spec.height, spec.width, 3), FILL, np.uint8)
    if j1 > j0 and i1 > i0:
        if scale < 0.5:  # a JPEG can be decoded at 1/2, 1/4 or 1/8 of its size in a fraction of the time
            picture.draft("RGB", (math.ceil(full_width * scale * 1.5), math.ceil(full_height * scale * 1.5)))
        shrink = 2 ** round(math.log2(full_width / picture.size[0]))
        region = np.array((left + j0 / scale, top + i0 / scale, left + j1 / scale, top + i1 / scale)) / shrink
        region = np.clip(region, 0, (*picture.size, *picture.size))
        part = colours(picture).resize(
            (j1 - j0, i1 - i0), Image.Resampling.BILINEAR, box=tuple(region), reducing_gap=3.0
        )
        crop[i0:i1, j0:j1] = np.asarray(part)
    else:
        picture.load()  # a damaged file is reported even where nothing of it is shown
    return torch.from_numpy(crop).permute(2, 0, 1).contiguous()


def colours(picture: Image.Image) -> Image.Image:
    """As RGB: 16 bits of grey as 8, and the fill where it is transparent."""
    if picture.mode.startswith("I"):  # of which Pillow makes white
        grey = np.asarray(picture).astype(np.float64)
        picture = Image.fromarray((grey / (257 if grey.max() > 255 else 1)).clip(0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture.convert("RGBA")
    rgb = Image.new("RGB", rgba.size, FILL)
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return rgb


def canonical_mask(
    mask: Bool[np.ndarray, "rows columns"], record: Record, spec: CropSpec
) -> Bool[Tensor, "height width"]:
    """A mask of the stored picture as :func:`canonical_crop` shows it; False outside the picture."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    scale, centre, _ = _window(picture.size, record, spec)
    return _resample(picture, scale, centre, spec)[0] > 127  # FILL is darker
