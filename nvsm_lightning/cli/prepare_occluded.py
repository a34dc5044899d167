"""``nvsm prepare occluded``: paste segmented occluders on the test pictures of any data set, level by level."""

import csv
import json
import math
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from jsonargparse import ArgumentParser, Namespace
from PIL import Image, ImageOps

import nvsm_lightning.data
from nvsm_lightning.bench.localise import data_of
from nvsm_lightning.bench.study import read_yaml
from nvsm_lightning.cli.main import did_you_mean
from nvsm_lightning.cli.prepare import SETS
from nvsm_lightning.cli.prepare_check import category_of
from nvsm_lightning.data.crops import CropSpec, colours, open_picture
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.occlude import Level, Occluded, box_of, occlude, parse_level, write_annotation
from nvsm_lightning.data.occluders import CutOut, excluded_for, read_occluders
from nvsm_lightning.data.parts import existing
from nvsm_lightning.data.pose_csv import ANGLES, BOX, CAMERA, OCCLUSION_FILE
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.meshes import CATEGORY_EXTENT, Mesh
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.methods.category_mesh import MeshSpec, category_meshes
from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.report.gallery import contact_sheet

READERS = {"toy": "ToyCars", **{name: row[0] for name, row in SETS.items()}}
SHARES = ("object_share", "context_share", "visible_share")
COLUMNS = (
    "file", "split", *ANGLES, "distance", *CAMERA, *BOX, "group", "category", "cad_index", "source", *SHARES, "region",
)  # fmt: skip
SHEET = 40  # pictures on the contact sheet
QUALITY = 95  # of the JPEG files


def run(words: Sequence[str]) -> int:
    """``nvsm prepare occluded --from NAME --root DIR --level L1 --occluders DIR --out DIR``."""
    options = _parser().parse_args(list(words))
    for name in ("occluders", "out") if options.config else ("source", "root", "occluders", "out"):
        if not getattr(options, name):
            shown = "from" if name == "source" else name
            raise DataError(f"nvsm prepare occluded needs --{shown}; `nvsm prepare occluded --help` explains it.")
    data = _configured(options) if options.config else _read_by(options)
    settings = {**vars(options), "source": data.name.replace("_", "-"), "root": data.root, "category": data.category}
    settings["level"], out = parse_level(options.level).name, Path(options.out).expanduser()
    if _made_before(out, settings):
        print(f"{out} has been made already with these settings")
        return 0
    part = out.with_name(f".{out.name}.part")  # what an interrupted command left is made anew
    shutil.rmtree(part, ignore_errors=True)
    lines = make(part, settings, data)
    keep(part, out)
    for line in [*lines, f"  use it: --data.test_root {out}; look at it: {out / 'sheet.jpg'}"]:
        print(line)
    return 0


def keep(part: Path, out: Path) -> None:
    """Give the finished folder its name."""
    if out.is_dir():
        out.rmdir()  # empty
    part.rename(out)


def _configured(options: Namespace) -> PoseData:
    """The data of a configuration, such as a run's config.yaml; ``options`` get its mesh, unless another is given."""
    if options.source or options.root or options.category:
        raise DataError("nvsm prepare occluded: --config says which data it is; leave out --from, --root, --category.")
    content = read_yaml(options.config, "--config")
    data = data_of(content)
    mesh = (((content.get("model") or {}).get("init_args") or {}).get("mesh") or {}) if not options.mesh else {}
    options.mesh = options.mesh or mesh.get("file") or ""
    if not options.mesh and mesh.get("extent"):
        options.extent = mesh["extent"]
    return data


def _read_by(options: Namespace) -> PoseData:
    """A data set as its reader takes it without further options."""
    name = options.source.replace("_", "-")
    if name not in READERS:
        raise DataError(f"No data set {options.source!r}.{did_you_mean(name, READERS)} Known: {', '.join(READERS)}.")
    reader = getattr(nvsm_lightning.data, READERS[name])
    return reader(root=options.root, category=category_of(reader, options.category))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="nvsm prepare occluded", description="Paste occluders on the pictures of a data set.")
    add = parser.add_argument
    add("--config", type=str, default="", help="Configuration of a fit (RUN/config.yaml) whose data it is, with all "
        "their options; instead of --from, --root and --category.")  # fmt: skip
    add("--from", dest="source", type=str, default="", help=f"Data set: {', '.join(READERS)}.")
    add("--root", type=str, default="", help="Folder of the data set.")
    add("--level", type=str, default="L1", help="L1, L2, L3 or FGL1_BGL1 ... FGL3_BGL3.")
    add("--occluders", type=str, default="", help="YOLO segmentation (images/, labels/), or a folder of RGBA cut-outs.")
    add("--out", type=str, default="", help="Folder to make; give it to --data.test_root afterwards.")
    add("--category", type=str, default="", help="Object category (of ETH-80 horse, else car).")
    add("--part", type=str, default="test", choices=["train", "val", "test", "all"], help="Pictures to take.")
    add("--limit", type=int, default=0, help="At most so many, evenly spaced over the part; 0 = all.")
    add("--seed", type=int, default=0, help="Same seed, same pictures.")
    add("--mesh", type=str, default="", help="CAD .mat, OFF, OBJ or folder of them: the object region is what at least "
        "half of the models cover; without it, what the category's cuboid covers.")  # fmt: skip
    add("--exclude", type=str, default="", help="Classes that must not occlude, comma between; default: the category "
        "and its look-alikes (car: car, truck, bus).")  # fmt: skip
    return parser


def _made_before(out: Path, settings: dict[str, Any]) -> bool:
    file = out / OCCLUSION_FILE
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("settings") == settings:
        return True
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} holds other files already; give another --out, or remove it.")
    return False


def make(out: Path, settings: dict[str, Any], data: PoseData) -> list[str]:
    """Write the occluded pictures of a data set and return what was done, in lines.

    Raises:
        DataError: the data set, its part, the mesh or the occluders are missing or damaged.
    """
    category, level = settings["category"], parse_level(settings["level"])
    records = _records(settings, data)
    exclude = settings["exclude"].split(",") if settings["exclude"] else excluded_for(category)
    cut_outs, left = read_occluders(Path(settings["occluders"]), [name.strip() for name in exclude])
    meshes = _meshes(settings["mesh"], settings.get("extent"), category)
    kind = "cad" if settings["mesh"] else "cuboid"
    names = _names(records)
    folder = f"{category}{level.name}"
    rows, failed, thumbnails = [], [], []
    shown = {records[place].key for place in np.linspace(0, len(records) - 1, min(SHEET, len(records))).astype(int)}
    for record in records:
        result, region, region_kind = _one(record, meshes, kind, cut_outs, level, settings["seed"])
        if result is None:
            failed.append(record.key)
            continue
        image = out / "images" / folder / f"{names[record.key]}.JPEG"
        image.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(result.picture)
        picture.save(image, quality=QUALITY)
        annotation = out / "annotations" / folder / f"{names[record.key]}.npz"
        write_annotation(annotation, result, region, record.key, region_kind)
        rows.append(_row(record, image.relative_to(out).as_posix(), result, region_kind))
        if record.key in shown:
            thumbnails.append(_thumbnail(picture, region))
    if not rows:
        raise DataError(f"No picture could be occluded as {level.name}; give more or larger occluders.")
    _write_lists(out, folder, rows)
    lines = _summary(rows, failed, len(cut_outs), len(left), level)
    if thumbnails:
        contact_sheet(thumbnails, lines[0], 8).save(out / "sheet.jpg", quality=85)
    notes = {"settings": settings, "pictures": len(rows), "left_out": failed, "region": dict(_kinds(rows)),
             "azimuth_only": data.azimuth_only}  # fmt: skip
    (out / OCCLUSION_FILE).write_text(json.dumps(notes, indent=1), encoding="utf-8")
    return lines


def _records(settings: dict[str, Any], data: PoseData) -> list[Record]:
    part, limit = settings["part"], settings["limit"]
    known = [record for record in data.read(existing(data.root, "--root")) if record.viewpoint is not None]
    if any(record.warp is not None for record in known):
        raise DataError("Pictures that are turned to their object cannot be stored so: give data with rectify false.")
    records = [record for record in known if part == "all" or record.part == part]
    if not records:
        raise DataError(f"{settings['root']} has no labelled picture in the part {part!r}; choose another with --part.")
    if 0 < limit < len(records):
        records = [records[place] for place in np.linspace(0, len(records) - 1, limit).round().astype(int)]
    return records


def _meshes(file: str, extent: Sequence[float] | None, category: str) -> list[Mesh]:
    if not file and extent is None and category not in CATEGORY_EXTENT:
        return []
    spec = MeshSpec(file, extent=None if extent is None else (extent[0], extent[1], extent[2]))
    return list(category_meshes(spec, category).values())


def _names(records: list[Record]) -> dict[str, str]:
    """{key: file stem}, with the folder in it where stems repeat."""
    count = Counter(Path(record.key).stem for record in records)
    long = {record.key: Path(record.key).with_suffix("").as_posix().replace("/", "__") for record in records}
    return {key: long[key] if count[Path(key).stem] > 1 else Path(key).stem for key in long}


def _one(
    record: Record, meshes: list[Mesh], kind: str, cut_outs: list[CutOut], level: Level, seed: int
) -> tuple[Occluded | None, np.ndarray, str]:
    with open_picture(record.image) as picture:
        upright = ImageOps.exif_transpose(picture) if record.turned else picture
        pixels = np.asarray(colours(upright))  # as a crop of it shows them
    region = object_region(record, (pixels.shape[0], pixels.shape[1]), meshes)
    # By key, so that a picture's occluders do not depend on which others are there.
    random = np.random.default_rng([seed, level.foreground, level.background, zlib.crc32(record.key.encode())])
    return occlude(pixels, region, cut_outs, level, random), region, kind if meshes else "box"


def object_region(record: Record, size: tuple[int, int], meshes: Sequence[Mesh]) -> Bool[np.ndarray, "height width"]:
    """Where the object is, hidden or not: pixels covered by at least half of the meshes at its true pose.

    Without meshes it is the box (the whole picture if there is none). A camera that is not known is the box camera.

    Args:
        record: with a viewpoint.
        size: (height, width) of the stored picture.
        meshes: models of the category, in CAD units.
    """
    x1, y1, x2, y2 = record.box or (0.0, 0.0, float(size[1]), float(size[0]))
    if not meshes or record.viewpoint is None:
        region = np.zeros(size, bool)
        region[max(0, round(y1)) : round(y2), max(0, round(x1)) : round(x2)] = True
        return region
    own = record.focal_px is not None
    camera = Camera(
        distance=torch.tensor([record.distance or CropSpec().box_distance]),
        focal=torch.tensor([record.focal_px or 1.0]),
        principal=torch.tensor([record.principal or (0.0, 0.0)]),
        box=torch.full((1, 4), torch.nan) if own else torch.tensor([[x1, y1, x2, y2]]),
    )
    rotation = rotation_from_viewpoint(torch.tensor([record.viewpoint]))
    masks = [rasterize(project(mesh.vertices, rotation, camera), mesh.faces, size)[0] >= 0 for mesh in meshes]
    return (torch.stack(masks).float().mean(0) >= 0.5).numpy()


def _row(record: Record, file: str, result: Occluded, kind: str) -> dict[str, object]:
    assert record.viewpoint is not None  # only labelled pictures were taken
    row: dict[str, object] = {"file": file, "split": "test", "group": record.group, "category": record.category}
    row |= dict(zip(ANGLES, (round(math.degrees(angle), 6) for angle in record.viewpoint), strict=True))
    row["distance"] = record.distance
    row["cad_index"] = record.subtype or ""
    if record.principal is not None:
        row |= dict(zip(CAMERA, (record.focal_px, *record.principal), strict=True))
    if record.box is not None:
        row |= dict(zip(BOX, record.box, strict=True))
    shares = (result.object_share, result.context_share, 1 - result.object_share)
    row |= {name: round(share, 4) for name, share in zip(SHARES, shares, strict=True)}
    return {**row, "source": record.key, "region": kind}


def _write_lists(out: Path, folder: str, rows: list[dict[str, object]]) -> None:
    """``lists/<set>.txt`` of the release, and ``labels.csv``, which ``--data.test_root`` reads."""
    (out / "lists").mkdir(parents=True, exist_ok=True)
    text = "".join(f"{Path(str(row['file'])).stem}\n" for row in rows)
    (out / "lists" / f"{folder}.txt").write_text(text, encoding="utf-8")
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _thumbnail(picture: Image.Image, region: np.ndarray) -> Image.Image:
    """The surroundings of the object, small, with the outline of its region."""
    y0, y1, x0, x1 = box_of(region)
    dy, dx = (y1 - y0) // 2, (x1 - x0) // 2
    inside = region[1:-1, 1:-1]
    core = inside & region[:-2, 1:-1] & region[2:, 1:-1] & region[1:-1, :-2] & region[1:-1, 2:]
    colours = np.asarray(picture).copy()
    colours[1:-1, 1:-1][inside & ~core] = (255, 220, 0)
    small = Image.fromarray(colours[max(0, y0 - dy) : y1 + dy, max(0, x0 - dx) : x1 + dx])
    small.thumbnail((200, 150))
    return small


def _kinds(rows: list[dict[str, object]]) -> Counter[str]:
    return Counter(str(row["region"]) for row in rows)


def _summary(rows: list[dict[str, object]], failed: list[str], used: int, left: int, level: Level) -> list[str]:
    hidden, context = (np.array([float(str(row[name])) for row in rows]) for name in SHARES[:2])
    kinds = ", ".join(f"{kind} {count}" for kind, count in _kinds(rows).items())
    lines = [
        f"{level.name}: {len(rows)} pictures; hidden of the object {hidden.min():.0%} to {hidden.max():.0%}, mean "
        f"{hidden.mean():.1%}; of the context {context.min():.0%} to {context.max():.0%}, mean {context.mean():.1%}",
        f"  object region: {kinds}; {used} occluders used, {left} left out",
    ]
    if failed:
        lines.append(f"  {len(failed)} pictures left out, no placement met the level; the first: {failed[0]}")
    return lines
