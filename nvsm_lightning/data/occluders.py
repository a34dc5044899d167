"""Cut-outs that can be pasted before an object: segmented COCO objects (YOLO polygons), or any folder of RGBA pictures.

COCO's classes: Lin et al. 2014; the text layout (class, then x y pairs divided by the picture's sides) is that of YOLO.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter

from nvsm_lightning.data.crops import open_picture
from nvsm_lightning.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png")
CUT_OUTS = (".png", ".webp", ".tif", ".tiff")
SLENDER = 0.12  # a cut-out covering less than this share of the square on its long side is a string, not an occluder
SUPERSAMPLING = 4  # polygons are drawn so much larger and shrunk, for smooth edges
COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")
# COCO's names of a PASCAL category and of what may pass for it: vans and pickups are called car, truck or bus.
LOOKALIKES = {
    "aeroplane": ("airplane",),
    "bicycle": ("bicycle", "motorcycle"),
    "bus": ("bus", "truck", "train"),
    "car": ("car", "truck", "bus"),
    "chair": ("chair", "couch", "bench"),
    "diningtable": ("dining table",),
    "motorbike": ("motorcycle", "bicycle"),
    "sofa": ("couch", "chair", "bed"),
    "train": ("train", "bus"),
    "tvmonitor": ("tv", "laptop"),
}


@dataclass(frozen=True)
class CutOut:
    """An occluder: colours with opacity, the class it belongs to, and the file it was cut from."""

    rgba: UInt8[np.ndarray, "height width 4"]
    label: str
    source: str


def excluded_for(category: str) -> tuple[str, ...]:
    """Classes that must not occlude a category: itself and what looks like it."""
    return (category, *LOOKALIKES.get(category, ()))


def read_occluders(folder: Path, exclude: Collection[str] = (), smallest: int = 80) -> tuple[list[CutOut], list[str]]:
    """Cut-outs of a folder, and what was left out and why, one line each.

    A folder with ``labels/**/*.txt`` beside ``images/`` is read as YOLO segmentation; its class names come from a YAML
    file with ``names:`` in it, else they are COCO's. Any other folder is searched for pictures with an alpha channel;
    the class is the name of the picture's own folder. Left out: excluded classes, cut-outs with a long side below
    ``smallest`` pixels, slender ones, and polygons that end at the border of their picture: pasted elsewhere, half an
    object with a straight edge would hang in the air.

    Raises:
        DataError: no such folder, a label file that makes no sense, or nothing is left.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"Folder {folder} of occluders does not exist; give one with --occluders.")
    labels = sorted(folder.rglob("labels/**/*.txt"))
    found, left = _read_yolo(labels, folder, smallest) if labels else _read_alpha(folder, smallest)
    banned = {name.lower() for name in exclude}
    kept = [cut for cut in found if cut.label.lower() not in banned]
    left += [f"{cut.source}: {cut.label} may not occlude this category" for cut in found if cut.label.lower() in banned]
    if not kept:
        raise DataError(
            f"{folder} holds no usable occluder ({len(left)} left out). It must hold YOLO segmentation labels "
            f"(images/, labels/) or pictures with an alpha channel, at least {smallest} pixels long."
        )
    return kept, left


def _read_alpha(folder: Path, smallest: int) -> tuple[list[CutOut], list[str]]:
    found, left = [], []
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in CUT_OUTS):
        name = file.relative_to(folder).as_posix()
        try:
            with open_picture(file) as picture:
                rgba = np.asarray(picture.convert("RGBA")) if picture.has_transparency_data else None
        except DataError as reason:
            left.append(f"{name}: {reason}")
            continue
        cut = None if rgba is None else _trimmed(rgba, file.parent.name, name, smallest)
        if cut is None:
            left.append(f"{name}: no alpha channel, smaller than {smallest} pixels, or slender")
        else:
            found.append(cut)
    return found, left


def _read_yolo(labels: list[Path], folder: Path, smallest: int) -> tuple[list[CutOut], list[str]]:
    names = _names(folder)
    found, left = [], []
    for file in labels:
        stem = Path(*["images" if part == "labels" else part for part in file.with_suffix("").parts])
        ends = [*PICTURES, *(end.upper() for end in PICTURES)]
        # not with_suffix: names such as a_jpg.rf.1b2c have dots of their own
        image = next((path for path in (stem.with_name(f"{stem.name}{end}") for end in ends) if path.is_file()), None)
        rows = _polygons(file, len(names))
        where = file.relative_to(folder).as_posix()
        if image is None:
            left += [f"{where}:{line}: its picture {stem.name}.jpg is not there" for line in rows]
            continue
        try:
            with open_picture(image) as picture:
                colours = picture.convert("RGB")
        except DataError as reason:
            left += [f"{where}:{line}: {reason}" for line in rows]
            continue
        for line, (number, polygon) in rows.items():
            points = polygon * colours.size
            if (points.min(0) < 2).any() or (points.max(0) > np.array(colours.size) - 2).any():
                left.append(f"{where}:{line}: {names[number]} is cut off by the border of its picture")
                continue
            large = (points.max(0) - points.min(0)).max() >= smallest  # a shortcut: most are not
            cut = _trimmed(_cut(colours, points), names[number], f"{where}:{line}", smallest) if large else None
            if cut is None:
                left.append(f"{where}:{line}: {names[number]} is smaller than {smallest} pixels or slender")
            else:
                found.append(cut)
    return found, left


def _names(folder: Path) -> list[str]:
    for file in sorted(folder.rglob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        names = content.get("names") if isinstance(content, dict) else None
        if names:
            return [str(name) for name in (names.values() if isinstance(names, dict) else names)]
    return list(COCO)


def _polygons(file: Path, classes: int) -> dict[int, tuple[int, np.ndarray]]:
    """{line: (class, points in 0..1)} of a label file."""
    rows = {}
    for line, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = text.split()
        if not words:
            continue
        try:
            number, points = int(words[0]), np.array([float(word) for word in words[1:]]).reshape(-1, 2)
        except ValueError as reason:
            raise DataError(f"{file}:{line}: {reason}; expected a class number and x y pairs.") from reason
        if not 0 <= number < classes or len(points) < 3 or not np.isfinite(points).all():
            raise DataError(f"{file}:{line}: class {number} of {classes} with {len(points)} points is no polygon.")
        rows[line] = number, points
    return rows


def _cut(picture: Image.Image, polygon: np.ndarray) -> np.ndarray:
    """The pixels inside a polygon (picture pixels) with smooth edges, one pixel in from the drawn outline: outlines
    of data sets are coarse, and a rim of the old background would give a pasted object away.
    """
    low = np.floor(polygon.min(0)).astype(int) - 1  # a margin, so that the filter works at the polygon's own border
    width, height = (np.ceil(polygon.max(0)).astype(int) + 1 - low).tolist()
    mask = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in (polygon - low) * SUPERSAMPLING], fill=255)
    mask = mask.resize((width, height), Image.Resampling.BOX).filter(ImageFilter.MinFilter(3))
    region = picture.crop((*low.tolist(), int(low[0]) + width, int(low[1]) + height))
    return np.dstack((np.asarray(region), np.asarray(mask)))


def _trimmed(rgba: np.ndarray, label: str, source: str, smallest: int) -> CutOut | None:
    """The cut-out without its transparent margins, None if it is too small or hides next to nothing."""
    solid = rgba[..., 3] > 127
    rows, columns = (np.flatnonzero(solid.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    if longest < smallest or solid.sum() < SLENDER * longest**2:
        return None
    return CutOut(rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy(), label, source)
