"""One picture and what is known of it: the common form into which every data set is read."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float, Int64
from torch import Tensor, int64, tensor

from nvsm_lightning.errors import DataError

Part = Literal["train", "val", "test", ""]


@dataclass(frozen=True)
class Record:
    """A picture on disk with its labels.

    Attributes:
        image: the picture file.
        key: stable name, the path below the data set's folder: label lists and checkpoints speak of keys.
        category: object category, such as ``car``.
        part: ``train``, ``val`` or ``test``; empty = decided after the labels are drawn (see ``PoseData``).
        viewpoint: (azimuth, elevation, theta) in radians, or None for a picture without label.
        distance: from the camera to the object's centre in CAD units. Without ``focal_px`` it is only assumed, and
            serves the box camera.
        focal_px: focal length in pixels of the stored picture, together with ``principal``.
        principal: pixel of the stored picture onto which the object's centre falls.
        box: (x1, y1, x2, y2) around the object in pixels of the stored picture.
        group: sequence or car id; for reports and for spreading the label draw, never for learning.
        turned: the stored picture is to be turned upright by its EXIF tag first (labels of data sets ignore the tag).
        warp: the picture is first turned by this homography (see ``turning``); ``principal`` is then a pixel of the
            turned picture.
        occlusion: what the data set says hides the object, such as ``partly occluded``; for tables of contents.
        subtype: ``cad_index``, the number from 1 of the CAD model nearest to the object; 0 = not known.
        source: name of the other data set that a picture of the pool comes from (``--data.extra_pool``).
    """

    image: Path
    key: str
    category: str
    part: Part
    viewpoint: tuple[float, float, float] | None = None
    distance: float | None = None
    focal_px: float | None = None
    principal: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    group: str = ""
    turned: bool = False
    warp: tuple[float, float, float, float, float, float, float, float] | None = None
    occlusion: str = ""
    subtype: int = 0
    source: str = ""

    @property
    def has_camera(self) -> bool:
        """Whether the picture's own camera is known."""
        return self.focal_px is not None


def viewpoints(records: Iterable[Record]) -> Float[Tensor, "record 3"]:
    """The labels of the records in radians, NaN where there is none."""
    rows = [record.viewpoint or (math.nan,) * 3 for record in records]
    return tensor(rows).reshape(-1, 3)


def subtypes(records: Iterable[Record]) -> Int64[Tensor, " record"]:
    """The subtypes of the records, 0 where there is none."""
    return tensor([record.subtype for record in records], dtype=int64)


def check_record(record: Record, where: str) -> None:
    """Raise a DataError that begins with ``where`` (file and row) if the labels of a record cannot be meant.

    Checks: angles are finite; elevation is within +-90 degrees; distance and focal length are positive; the camera is
        whole;
    the box has an area.
    """
    if record.viewpoint is not None:
        if not all(math.isfinite(angle) for angle in record.viewpoint):
            raise DataError(f"{where}: an angle is not a number ({record.viewpoint}); correct or remove this row.")
        if abs(record.viewpoint[1]) > math.pi / 2 + 1e-6:
            degrees = math.degrees(record.viewpoint[1])
            raise DataError(f"{where}: elevation {degrees:.1f} degrees is outside -90..90; correct this row.")
    if (record.focal_px is None) != (record.principal is None) or (record.has_camera and record.distance is None):
        raise DataError(
            f"{where}: a camera needs distance, focal length and principal point; give all of them or none."
        )
    numbers = [*(record.principal or ()), *(record.box or ())]
    numbers += [value for value in (record.distance, record.focal_px) if value is not None]
    if not all(math.isfinite(value) for value in numbers):
        raise DataError(f"{where}: a camera or box value is not a number; correct it or leave the fields empty.")
    for name, value in (("distance", record.distance), ("focal length", record.focal_px)):
        if value is not None and value <= 0:
            raise DataError(f"{where}: {name} {value} is not positive; correct it or leave the camera empty.")
    if record.box is not None and not (record.box[0] < record.box[2] and record.box[1] < record.box[3]):
        raise DataError(f"{where}: box {record.box} has no area; it must be x1, y1, x2, y2 with x1 < x2 and y1 < y2.")


def check_box_inside(record: Record, size: tuple[int, int], where: str, tolerance: float = 2.0) -> None:
    """Raise a DataError if the box leaves a picture of ``size`` (width, height) by more than ``tolerance`` pixels.

    The tolerance lets 1-based and rounded boxes pass; a box given as x, y, width, height or for a resized picture does
    not.
    """
    if record.box is None:
        return
    x1, y1, x2, y2 = record.box
    width, height = size
    if min(x1, y1) < -tolerance or x2 > width + tolerance or y2 > height + tolerance:
        raise DataError(
            f"{where}: box {record.box} lies outside the picture {record.image} of {width} x {height} pixels; "
            "boxes are x1, y1, x2, y2 in pixels of the stored picture."
        )
