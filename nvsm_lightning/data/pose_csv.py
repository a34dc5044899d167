"""A user's own pictures under one documented table of poses."""

import csv
import inspect
import json
import math
import os
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.parts import existing, folder_records
from nvsm_lightning.data.record import Record, check_record
from nvsm_lightning.errors import DataError

ANGLES = ("azimuth_deg", "elevation_deg", "theta_deg")
CAMERA = ("focal_px", "px", "py")
BOX = ("x1", "y1", "x2", "y2")
PARTS = ("train", "val", "test")
OCCLUSION_FILE = "occlusion.json"  # in a folder made by `nvsm prepare occluded`, which has a table of poses too


class PoseCSV(PoseData):
    """Pictures with a CSV table of poses. They are turned upright by their EXIF tag, as viewers show them: poses and
    boxes are of that picture.

    Columns (any order; others are ignored; ``,`` ``;`` or tab between them):

    - ``file``: the picture, relative to the folder of pictures.
    - ``azimuth_deg, elevation_deg, theta_deg``: PASCAL3D+ angles in degrees: azimuth 0 = front, growing as the camera
      moves to the object's own left; theta turns the picture counter-clockwise. All three empty = a picture without
      label (pool only).
    - optional ``distance, focal_px, px, py``: the camera: distance in CAD units (the diagonal of the object's box is
      one; a car is 0.875 long), focal length and the pixel of the object's centre. ``distance`` alone is an assumed
      distance, used with the box.
    - optional ``x1, y1, x2, y2``: box around the object in pixels. With neither camera nor box the whole picture is the
      box.
    - optional ``split``: ``train``, ``val`` or ``test``. Rows without it are first all candidates for labels; of the
      labelled rows that were not drawn, half become val and half test if there are unlabelled rows for the pool,
      otherwise 80 % pool, 10 % val, 10 % test (by a hash of the file name: the same whatever the label seed).
    - optional ``group``: car or sequence id.
    - optional ``cad_index``: subtype, the number from 1 of the mesh nearest to the object; empty = not known.
    - optional ``category``: rows of other categories than ``--data.category`` are left out.

    Args:
        root: folder that holds the table, or the table itself.
        table: name of the table in the folder.
        images: folder of the pictures below that of the table (empty: the same folder).
        group_column: column that tells one object or sequence from another; empty: none does.
        unlabelled: folder whose pictures, at any depth, join the pool without a row in the table; each whole picture is
            the box. Pictures that the table names, for whatever category, are not taken twice. Reports call them by the
            name that a row of the table would give them.
        azimuth_only: the azimuth is all that is labelled: reports compare it alone. Elevation and theta are then what a
            camera there is assumed to have; empty ones count as 0.
        kwargs: the arguments common to all data sets, see ``PoseData``.
    """

    name = "csv"
    upright = True  # pictures are turned by their EXIF tag first, as every viewer shows them

    def __init__(
        self,
        root: str,
        table: str = "labels.csv",
        images: str = "",
        group_column: str = "group",
        unlabelled: str = "",
        azimuth_only: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(root, **kwargs)
        self.azimuth_only = azimuth_only
        self.table, self.images, self.group_column, self.unlabelled = table, images, group_column, unlabelled

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """One record a row; with ``test_only`` all labelled rows are test. See ``PoseData.read``."""
        file = root if root.is_file() else root / self.table
        every = read_table(file, required=("file", *(ANGLES[:1] if self.azimuth_only else ANGLES)))
        if self.group_column.lower() not in every[0][1] and self.group_column not in ("", "group"):
            if self.group_column != inspect.signature(type(self)).parameters["group_column"].default:
                raise DataError(f"{file} has no column {self.group_column!r}; correct --data.group_column.")
            rank_zero_warn(f"{file} has no column {self.group_column!r}: labels are not spread over objects.")
        mine = [pair for pair in every if (pair[1].get("category") or self.category).lower() == self.category.lower()]
        records: list[Record] = []
        seen: dict[str, int] = {}
        for line, row in mine:
            where = f"{file}:{line}"
            record = self._record(row, where, file.parent)
            if record.key in seen:
                raise DataError(f"{where}: {record.key!r} is already on line {seen[record.key]}; keep one of them.")
            if not record.image.is_file():
                raise DataError(f"{where}: picture {record.image} does not exist; restore it or remove the row.")
            seen[record.key] = line
            records.append(record)
        if not records:
            raise DataError(f"{file} has no row of category {self.category!r}; correct --data.category.")
        _warn_radians([row for _, row in mine], file)
        if test_only:
            labelled = [record for record in records if record.viewpoint is not None]
            return [replace(record, part="test") for record in labelled]
        pictures = file.parent / self.images
        named = {(pictures / _file(row)).resolve() for _, row in every}
        return records + (self._unlabelled(pictures, named) if self.unlabelled else [])

    def _unlabelled(self, pictures: Path, named: set[Path]) -> list[Record]:
        folder = existing(self.unlabelled, "--data.unlabelled")
        found = folder_records(folder, self.category, "--data.unlabelled")
        return [  # under the names that they would have in the table
            replace(record, part="train", key=Path(os.path.relpath(record.image, pictures)).as_posix())
            for record in found
            if record.image.resolve() not in named
        ]

    def _record(self, row: dict[str, str], where: str, folder: Path) -> Record:
        if self.azimuth_only and row[ANGLES[0]]:
            row = {**row, **{name: row.get(name) or "0" for name in ANGLES[1:]}}
        angles = _numbers(row, ANGLES, where)
        camera = _numbers(row, CAMERA, where)
        distance = _numbers(row, ("distance",), where)
        subtype = _numbers(row, ("cad_index",), where)
        if subtype is not None and (subtype[0] < 0 or subtype[0] != int(subtype[0])):
            raise DataError(f"{where}: cad_index {row['cad_index']!r} is no number of a mesh; correct or empty it.")
        split = row.get("split", "").lower()
        if split not in (*PARTS, ""):
            raise DataError(f"{where}: split {split!r} is not one of {', '.join(PARTS)}.")
        if angles is None:
            if split in ("val", "test"):
                raise DataError(f"{where}: a picture without angles can only be in the pool, not in {split!r}.")
            split = "train"
        if not row["file"]:
            raise DataError(f"{where}: the column `file` is empty; name a picture or remove the row.")
        azimuth, elevation, theta = (math.radians(angle) for angle in angles or (math.nan,) * 3)
        record = Record(
            image=folder / self.images / _file(row),
            key=_file(row),
            category=self.category,
            part=split,  # type: ignore[arg-type]
            viewpoint=None if angles is None else (azimuth % (2 * math.pi), elevation, theta),
            distance=None if distance is None else distance[0],
            focal_px=None if camera is None else camera[0],
            principal=None if camera is None else (camera[1], camera[2]),
            box=_numbers(row, BOX, where),  # type: ignore[arg-type]
            group=row.get(self.group_column.lower(), ""),
            turned=self.upright,
            subtype=0 if subtype is None else int(subtype[0]),
        )
        check_record(record, where)
        return record


def read_occluded(root: Path, category: str) -> tuple[list[Record], bool]:
    """The pictures of a folder made by ``nvsm prepare occluded``, and whether azimuths are all that their data set
    labels."""
    made = PoseCSV(str(root), category=category)
    made.upright = False  # another reader has turned them before they were stored
    notes = json.loads((root / OCCLUSION_FILE).read_text(encoding="utf-8"))
    return made.read(root, test_only=True), bool(notes.get("azimuth_only", False))


def _file(row: dict[str, str]) -> str:
    return row["file"].replace("\\", "/")  # a table written on Windows


def read_table(file: Path, required: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line number, {column: text}) of each row of a CSV file; blanks are stripped, empty rows skipped, BOM and CRLF
    accepted.

    Raises:
        DataError: no such file, no header, a missing column (the message lists those found), or a row of another
            length.
    """
    if not file.is_file():
        raise DataError(
            f"{file} does not exist; give the table's folder with --data.root and its name with --data.table."
        )
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(reader, [])]
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(f"{file}: column {', '.join(missing)} is missing; found: {', '.join(columns) or 'nothing'}.")
    rows = []
    for words in reader:
        if not any(word.strip() for word in words):
            continue
        if len(words) != len(columns):
            raise DataError(f"{file}:{reader.line_num}: {len(words)} values for {len(columns)} columns; correct it.")
        rows.append((reader.line_num, {name: word.strip() for name, word in zip(columns, words, strict=True)}))
    if not rows:
        raise DataError(f"{file} has a header but no rows; add pictures to it.")
    return rows


def _numbers(row: dict[str, str], names: tuple[str, ...], where: str) -> tuple[float, ...] | None:
    """The named values, None if all are empty or absent; DataError if only some are, or one is not a finite number."""
    words = [row.get(name, "") for name in names]
    if not any(words):
        return None
    values = []
    for name, word in zip(names, words, strict=True):
        try:
            values.append(float(word))
        except ValueError:
            found = "is empty" if not word else f"is {word!r}"
            raise DataError(
                f"{where}: {name} {found}; give numbers for all of {', '.join(names)}, or leave all empty."
            ) from None
        if not math.isfinite(values[-1]):
            raise DataError(f"{where}: {name} is {word}; correct it, or leave {', '.join(names)} all empty.")
    return tuple(values)


def _warn_radians(rows: list[dict[str, str]], file: Path) -> None:
    angles = [abs(float(row[name])) for row in rows for name in ANGLES if row.get(name)]
    if 0 < max(angles, default=0) < 7:
        rank_zero_warn(
            f"{file}: every angle is below 7, which looks like radians; the columns *_deg must be in degrees "
            "(multiply by 57.29578). They are read as degrees."
        )
