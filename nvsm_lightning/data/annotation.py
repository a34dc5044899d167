"""The MATLAB annotations of PASCAL3D+ and ObjectNet3D: one ``record`` a picture, a struct an object."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from nvsm_lightning.data.published import checked, is_file
from nvsm_lightning.data.record import Part, Record
from nvsm_lightning.errors import DataError

EXTENSIONS = (".JPEG", ".jpeg", ".jpg", ".JPG", ".png", ".PNG")

VIEWPORT, FOCAL = 3000.0, 1.0  # of nearly every annotation; taken where the fields are absent
FIELDS = (
    "azimuth", "elevation", "theta", "distance", "px", "py", "focal", "viewport", "azimuth_coarse", "elevation_coarse",
)  # fmt: skip
FLAGS = ("truncated", "occluded", "difficult")
NO_VIEWPOINT = "without a viewpoint"
NO_CAMERA = "without a usable camera (distance or focal length 0, or no fine viewpoint)"


@dataclass(frozen=True)
class Item:
    """One annotated object.

    Attributes:
        category: its class.
        subtype: such as ``sedan``; empty if there is none.
        cad_index: number of its CAD model, from 1; 0 = none.
        viewpoint: the struct, {name: number}; empty if the object has none.
        box: (x1, y1, x2, y2) cut to the picture, or None.
        truncated: leaves the picture.
        occluded: something is in front of it.
        difficult: marked as hard to see.
    """

    category: str
    subtype: str
    cad_index: int
    viewpoint: dict[str, float]
    box: tuple[float, float, float, float] | None
    truncated: bool
    occluded: bool
    difficult: bool

    @property
    def state(self) -> str:
        """What hides it, in words."""
        return "truncated" if self.truncated else "occluded" if self.occluded else "whole"


@dataclass(frozen=True)
class View:
    """A label as a ``Record`` takes it: viewpoint in radians, and either the camera or a box."""

    viewpoint: tuple[float, float, float]
    distance: float | None = None
    focal_px: float | None = None
    principal: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None


def read_items(file: Path, most: int | None = None) -> list[Item]:
    """The objects of an annotation, in its order; with ``most`` the first ones, the others are not looked at.

    Raises:
        DataError: the file is missing, not a MATLAB file (an HTML page or a cut download, say), has no ``record``, or a
            field holds something else than the release has there.
    """
    if not file.is_file():
        raise DataError(f"Annotation {file} does not exist; restore it from the release or take it off the list.")
    try:
        content = loadmat(file, simplify_cells=True)
    except Exception as error:  # scipy raises a dozen types on damaged files (zlib.error, TypeError, ...)
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"Annotation {file} cannot be read ({reason}); unpack it again from the release.") from error
    record = content.get("record")
    if not isinstance(record, dict) or "objects" not in record:
        raise DataError(f"Annotation {file} has no `record.objects`; unpack it again from the release.")
    objects = record["objects"]
    listed = [objects] if isinstance(objects, dict) else list(np.atleast_1d(objects)) if _listed(objects) else None
    if listed is None or not all(isinstance(item, dict) for item in listed):
        raise DataError(f"Annotation {file}: `record.objects` is no list of structs; unpack it again from the release.")
    size = _numbers(record.get("imgsize"), f"Annotation {file}: imgsize")
    return [_item(item, size, f"Annotation {file}: object {place}") for place, item in enumerate(listed[:most], 1)]


def _listed(value: Any) -> bool:
    return isinstance(value, list | np.ndarray) and np.ndim(np.asarray(value, dtype=object)) <= 2


def _item(item: dict[str, Any], size: list[float], where: str) -> Item:
    viewpoint = item.get("viewpoint")
    if isinstance(viewpoint, dict):
        numbers = {name: _number(viewpoint.get(name), f"{where}: {name}") for name in FIELDS}
    elif viewpoint is None or np.size(viewpoint) == 0:
        numbers = {}
    else:
        raise DataError(f"{where}: viewpoint is no struct ({viewpoint!r:.60}); unpack it again from the release.")
    flags = {name: _number(item.get(name), f"{where}: {name}") or 0.0 for name in FLAGS}
    index = _number(item.get("cad_index"), f"{where}: cad_index") or 0.0
    if index != int(index) or not 0 <= index < 1e6:
        raise DataError(f"{where}: cad_index is {index}; unpack it again from the release.")
    return Item(
        category=_text(item.get("class"), f"{where}: class"),
        subtype=_text(item.get("subtype", ""), f"{where}: subtype"),
        cad_index=int(index),
        viewpoint={name: number for name, number in numbers.items() if number is not None},
        box=_box(item.get("bbox"), size, f"{where}: bbox"),
        **{name: bool(value) for name, value in flags.items()},
    )


def _box(value: Any, size: list[float], where: str) -> tuple[float, float, float, float] | None:
    """The box cut to the picture (real boxes leave it by a few pixels); None if absent or without an area."""
    numbers = _numbers(value, where)
    if not numbers:
        return None
    if len(numbers) != 4:
        raise DataError(f"{where} has {len(numbers)} numbers, not four; unpack it again from the release.")
    x1, y1, x2, y2 = numbers
    if len(size) >= 2:
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, size[0]), min(y2, size[1])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _numbers(value: Any, where: str) -> list[float]:
    """A MATLAB array as numbers; empty if it is absent."""
    if value is None:
        return []
    try:
        numbers = np.asarray(value, np.float64).ravel().tolist()
    except (TypeError, ValueError):
        raise DataError(f"{where} is {value!r:.60} and no number; unpack it again from the release.") from None
    if not all(math.isfinite(number) for number in numbers):
        raise DataError(f"{where} is {', '.join(map(str, numbers))}; correct it or unlist the picture.")
    return numbers


def _number(value: Any, where: str) -> float | None:
    """A MATLAB number; None for [] (absent)."""
    numbers = _numbers(value, where)
    if len(numbers) > 1:
        raise DataError(f"{where} has {len(numbers)} numbers, not one; unpack it again from the release.")
    return numbers[0] if numbers else None


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None or np.size(value) == 0:
        return ""
    raise DataError(f"{where} is {value!r:.60} and no text; unpack it again from the release.")


def view_of(item: Item, coarse: bool) -> View | str:
    """The label of an object, or the reason why it has none that can be used.

    The fine angles and the camera are taken where they are there. Distance 0 says that there are only coarse angles.

    Args:
        item: the object.
        coarse: where fine angles are missing take the coarse ones (PASCAL3D+: steps of 45 degrees), and where the
            distance is 0 too, the object's box instead of a camera. Otherwise such objects are not usable.
    """
    view = item.viewpoint
    if not view:
        return NO_VIEWPOINT
    distance, focal_px = view.get("distance", 0.0), view.get("focal", FOCAL) * view.get("viewport", VIEWPORT)
    fine = {"azimuth", "elevation"} <= view.keys()
    if distance > 0 and focal_px > 0 and {"theta", "px", "py"} <= view.keys() and (fine or coarse):
        angles = _angles(view, "" if fine else "_coarse")
        if angles is not None:
            return View(angles, distance, focal_px, (view["px"], view["py"]))
    if coarse and distance == 0 and item.box is not None:
        angles = _angles({**view, "theta": 0.0}, "_coarse")
        if angles is not None:
            return View(angles, box=item.box)
    return NO_CAMERA


def _angles(view: dict[str, float], ending: str) -> tuple[float, float, float] | None:
    names: Iterable[str] = (f"azimuth{ending}", f"elevation{ending}", "theta")
    if not all(name in view for name in names):
        return None
    azimuth, elevation, theta = (math.radians(view[name]) for name in names)
    return azimuth % (2 * math.pi), elevation, theta


def find_picture(stem: Path, annotation: Path) -> Path:
    """The picture of an annotation, whatever its ending. Raises DataError if there is none."""
    image = next((path for path in (Path(f"{stem}{end}") for end in EXTENSIONS) if is_file(path)), None)
    if image is None:
        raise DataError(
            f"Picture {stem}.JPEG does not exist, but {annotation} does; restore it or take it off the list."
        )
    return image


def object_record(root: Path, image: Path, place: int, item: Item, view: View, part: Part, category: str) -> Record:
    """The record of one object: the first (``place`` 0) has the picture's path as its key, others ``#place`` in it.

    Raises:
        DataError: its numbers cannot be meant.
    """
    own = image if place == 0 else image.with_stem(f"{image.stem}#{place}")
    record = Record(
        image=image,
        key=own.relative_to(root).as_posix(),
        category=category,
        part=part,
        viewpoint=view.viewpoint,
        distance=view.distance,
        focal_px=view.focal_px,
        principal=view.principal,
        box=view.box or item.box,  # beside a camera, for pools of other sets, which may be cut by boxes
        group=f"cad {item.cad_index}",
        subtype=item.cad_index,
        occlusion=item.state,
    )
    return checked(record, f"Annotation of {image}, object {place + 1}")
