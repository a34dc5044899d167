"""EPFL multi-view cars (GIMS'08): cars on a turntable, azimuth from the time stamps, a box a frame."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.parts import parts_of_groups, tested_groups
from nvsm_lightning.data.record import Part, Record, check_record
from nvsm_lightning.errors import DataError


class EPFLCars(PoseData):
    """EPFL multi-view cars in their original layout (``tripod-seq/``): labels are azimuths of 2-4 degrees accuracy.

    Sequences that are not in the folder are skipped with a notice. The official protocol is sequences 1-10 train, 11-20
    test.

    Args:
        root: folder that holds ``tripod-seq/`` (or that folder itself).
        train_sequences: cars whose pictures are labelled or pool.
        val_sequences: cars of the validation part.
        test_sequences: cars of the test part.
        distance: assumed distance of the camera in CAD units (9 m at 5.19 m a unit).
        elevation_deg: assumed elevation of the camera in degrees, which the data set does not give.
        kwargs: the arguments common to all data sets, see ``PoseData``.
    """

    name = "epfl_cars"
    azimuth_only = True  # elevation and theta are assumptions of this reader: reports compare azimuths alone

    def __init__(
        self,
        root: str,
        train_sequences: Sequence[int] = (1, 2, 3, 4, 5),
        val_sequences: Sequence[int] = (6, 7),
        test_sequences: Sequence[int] = (8, 9, 10),
        distance: float = 1.734,
        elevation_deg: float = 5.0,
        **kwargs,
    ) -> None:
        super().__init__(root, **kwargs)
        self.sequences: dict[Part, Sequence[int]] = {
            "train": train_sequences,
            "val": val_sequences,
            "test": test_sequences,
        }
        self.distance = distance
        self.elevation = math.radians(elevation_deg)

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """The frames of the wanted sequences; with ``test_only`` of the test sequences that are found, or if there is
        none of all. See ``PoseData.read``."""
        folder = root if (root / "tripod-seq.txt").is_file() else root / "tripod-seq"
        table = _Table(folder / "tripod-seq.txt")
        here = [n for n in range(1, table.count + 1) if table.picture(n, 1).is_file()]
        if test_only:
            tested = tested_groups(self.sequences["test"], here, "EPFL sequence", folder)
            return [record for n in tested for record in self._sequence(table, n, "test", root)]
        elsewhere = self.test_root is not None
        if self.category != "car":
            raise DataError(f"EPFL's pictures show cars alone; correct --data.category {self.category}.")
        parts = parts_of_groups(self.sequences, here, "EPFL sequence", folder, elsewhere)
        return [record for n in here if n in parts for record in self._sequence(table, n, parts[n], root)]

    def _sequence(self, table: "_Table", number: int, part: Part, root: Path) -> list[Record]:
        azimuths, boxes = table.azimuths(number), table.boxes(number)
        records = []
        for frame, (azimuth, (x, y, w, h)) in enumerate(zip(azimuths, boxes, strict=True), 1):
            image = table.picture(number, frame)
            if not image.is_file():
                raise DataError(f"{image} is missing: sequence {number} should have {len(azimuths)} frames.")
            record = Record(
                image=image,
                key=image.relative_to(root).as_posix(),
                category="car",
                part=part,
                viewpoint=(azimuth, self.elevation, 0.0),
                distance=self.distance,
                box=(x, y, x + w, y + h),
                group=f"sequence {number:02d}",
            )
            check_record(record, f"{table.boxes_file(number)}:{frame}")
            records.append(record)
        return records


class _Table:
    """``tripod-seq.txt``: counts, name patterns, turn, frontal frame and sense of each sequence (numbers are
    1-based)."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise DataError(
                f"{file} is missing: --data.root must hold the EPFL folder `tripod-seq` as it is distributed."
            )
        rows = [
            line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        self.folder = file.parent
        try:
            self.count = int(rows[0].split()[0])
            self.frames, self.turn, self.front, self.sense = (
                [int(word) for word in rows[row].split()] for row in (1, 4, 5, 6)
            )
            self.picture_pattern, self.box_pattern = rows[2], rows[3]
        except (IndexError, ValueError) as error:
            raise DataError(
                f"{file} cannot be read ({error}): it should have 7 rows as in the original release."
            ) from error
        lengths = [len(row) for row in (self.frames, self.turn, self.front, self.sense)]
        if min(lengths) < self.count:
            raise DataError(f"{file} speaks of {self.count} sequences, but has rows of {lengths} numbers; restore it.")
        for number, (frames, front) in enumerate(zip(self.frames, self.front, strict=False), 1):
            if not 1 <= front <= frames:
                raise DataError(f"{file}: the frontal frame {front} of sequence {number} is none of its {frames}.")

    def picture(self, number: int, frame: int) -> Path:
        """The file of a frame; an upper-case extension is accepted."""
        path = self.folder / (self.picture_pattern % (number, frame))
        upper = path.with_suffix(path.suffix.upper())
        return upper if not path.is_file() and upper.is_file() else path

    def boxes_file(self, number: int) -> Path:
        """The file with one box a frame."""
        return self.folder / (self.box_pattern % number)

    def boxes(self, number: int) -> list[tuple[float, ...]]:
        """(x, y, width, height) of each frame in pixels."""
        rows = self._rows(self.boxes_file(number), number)
        boxes = []
        for line, row in enumerate(rows, 1):
            words = row.split()
            try:
                boxes.append(tuple(float(word) for word in words))
            except ValueError as error:
                raise DataError(f"{self.boxes_file(number)}:{line}: {error}; expected `x y width height`.") from error
            if len(words) != 4:
                raise DataError(f"{self.boxes_file(number)}:{line}: expected `x y width height`, found {row!r}.")
        return boxes

    def azimuths(self, number: int) -> list[float]:
        """Azimuth in radians of each frame: ``sense * 2 pi * (t - t_front) / t_turn``, the turntable running evenly.

        A turn of n frames ends when frame n + 1 is taken: in sequences 1-10 that frame, not frame n, repeats the first.
        """
        file = self.folder / f"times_{number:02d}.txt"
        seconds = [_seconds(row, f"{file}:{line}") for line, row in enumerate(self._rows(file, number), 1)]
        turn = seconds[min(self.turn[number - 1], len(seconds) - 1)] - seconds[0]
        if turn <= 0:
            raise DataError(f"{file}: a turn takes {turn:g} seconds; restore the times of sequence {number}.")
        front = seconds[self.front[number - 1] - 1]
        return [self.sense[number - 1] * 2 * math.pi * (t - front) / turn % (2 * math.pi) for t in seconds]

    def _rows(self, file: Path, number: int) -> list[str]:
        if not file.is_file():
            raise DataError(f"{file} is missing; restore it from the original release.")
        rows = [row for row in file.read_text(encoding="utf-8", errors="replace").splitlines() if row.strip()]
        if len(rows) != self.frames[number - 1]:
            raise DataError(f"{file} has {len(rows)} rows, but sequence {number} has {self.frames[number - 1]} frames.")
        return rows


def _seconds(row: str, where: str) -> float:
    """Seconds of a time such as ``2008:03:12 10:36:19`` since the year 2000 (only differences matter)."""
    try:
        return (datetime.strptime(row.strip(), "%Y:%m:%d %H:%M:%S") - datetime(2000, 1, 1)).total_seconds()
    except ValueError as error:
        raise DataError(f"{where}: expected a time as `2008:03:12 10:36:19`, found {row!r}.") from error
