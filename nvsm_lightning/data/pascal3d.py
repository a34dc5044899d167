"""PASCAL3D+ release 1.1 in its true on-disk layout, under the protocol of NeMo and NVSM."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from scipy.io import loadmat

from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.record import Part, Record, check_record
from nvsm_lightning.errors import DataError

EXTENSIONS = (".JPEG", ".jpeg", ".jpg", ".JPG", ".png", ".PNG")
VIEWPORT, FOCAL = 3000.0, 1.0  # of nearly every annotation; taken where the fields are absent


class Pascal3D(PoseData):
    """PASCAL3D+ (``Images/ Annotations/ Image_sets/``), ImageNet pictures of one category, as NeMo and NVSM use it.

    Object 0 of each picture, no filter by truncation or occlusion; pictures without a usable camera (distance or focal
    length not positive, or no fine viewpoint) are left out and counted. The train list is labels, pool and validation,
    the val list is the test part. Few-shot protocol of NVSM: 7, 20 or 50 labelled pictures, the rest without labels.

    Args:
        root: folder of the release (``PASCAL3D+_release1.1``).
        val_percent: share of the train list that is set aside for validation, per cent; a fixed choice by key.
        source: which pictures: ``imagenet`` or ``pascal``.
        kwargs: the arguments common to all data sets, see ``PoseData``.
    """

    name = "pascal3d"

    def __init__(self, root: str, val_percent: float = 10.0, source: str = "imagenet", **kwargs) -> None:
        super().__init__(root, **kwargs)
        self.val_percent, self.source = val_percent, source

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """The pictures of the train and val lists; with ``test_only`` all are test. See ``PoseData.read``."""
        subset = f"{self.category}_{self.source}"
        train, test = (_ids(root / "Image_sets" / f"{subset}_{part}.txt") for part in ("train", "val"))
        twice = sorted(set(train) & set(test))
        if twice:
            raise DataError(f"{root}: {twice[0]!r} is in both the train and the val list; keep it in one.")
        shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
        val = {train[index] for index in shuffled[: round(len(train) * self.val_percent / 100)]}
        parts: dict[str, Part] = {key: "val" if key in val else "train" for key in train} | dict.fromkeys(test, "test")
        if test_only:
            parts = dict.fromkeys(parts, "test")
        records = {key: self._record(root, subset, key, part) for key, part in parts.items()}
        unusable = [key for key, record in records.items() if record is None]
        if unusable:
            rank_zero_warn(
                f"{root}: {len(unusable)} of {len(records)} pictures have no usable camera (distance or focal 0, "
                f"or no fine viewpoint) and are left out, as in NeMo; the first: {unusable[0]}."
            )
        return [record for record in records.values() if record is not None]

    def _record(self, root: Path, subset: str, key: str, part: Part) -> Record | None:
        """The record of one picture, None if its object 0 has no usable camera."""
        file = root / "Annotations" / subset / f"{key}.mat"
        annotation = read_annotation(file)
        view = annotation["viewpoint"]
        if view is None:
            return None
        values = _camera(view, file)
        if values is None or values["distance"] <= 0 or values["focal"] * values["viewport"] <= 0:
            return None
        stem = root / "Images" / subset / key
        image = next((path for path in (Path(f"{stem}{end}") for end in EXTENSIONS) if path.is_file()), None)
        if image is None:
            raise DataError(f"Picture {stem}.JPEG does not exist, but {file} does; restore it or take it off the list.")
        azimuth, elevation, theta = (math.radians(values[name]) for name in ("azimuth", "elevation", "theta"))
        record = Record(
            image=image,
            key=image.relative_to(root).as_posix(),
            category=self.category,
            part=part,
            viewpoint=(azimuth % (2 * math.pi), elevation, theta),
            distance=values["distance"],
            focal_px=values["focal"] * values["viewport"],
            principal=(values["px"], values["py"]),
            group=f"cad {int(annotation['cad_index'])}",
        )
        check_record(record, str(file))
        return record


def read_annotation(file: Path) -> dict[str, Any]:
    """Object 0 of an annotation: ``viewpoint`` (name -> value, None if there is none) and ``cad_index`` (1-based).

    Raises:
        DataError: the file is missing, not a MATLAB file (an HTML page or a cut download, say), or has no ``record``.
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
    first = objects if isinstance(objects, dict) else next(iter(objects), None)
    if not isinstance(first, dict):
        return {"viewpoint": None, "cad_index": 0}
    viewpoint = first.get("viewpoint")
    return {"viewpoint": viewpoint if isinstance(viewpoint, dict) else None, "cad_index": first.get("cad_index", 0)}


def _camera(view: dict[str, Any], file: Path) -> dict[str, float] | None:
    """The numbers of a viewpoint, None if one is absent; DataError if one is NaN."""
    defaults = {"viewport": VIEWPORT, "focal": FOCAL}
    values = {}
    for name in ("azimuth", "elevation", "theta", "distance", "px", "py", "viewport", "focal"):
        value = view.get(name)
        if value is None or getattr(value, "size", 1) == 0:  # MATLAB's [] is an absent value
            value = defaults.get(name)
        if value is None:
            return None
        values[name] = float(value)
        if not math.isfinite(values[name]):
            raise DataError(f"Annotation {file}: {name} is {values[name]}; correct it or unlist the picture.")
    return values


def _ids(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"Picture list {file} does not exist; --data.root must be the folder of PASCAL3D+ release 1.1.")
    ids = [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not ids:
        raise DataError(f"Picture list {file} is empty; unpack it again from the release.")
    if len(set(ids)) < len(ids):
        raise DataError(
            f"Picture list {file} names {next(key for key in ids if ids.count(key) > 1)!r} twice; keep one."
        )
    return ids
