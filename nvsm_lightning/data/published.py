"""What the readers of published data sets share: lists of ids, damage that stops or is counted, what a protocol leaves
out."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn

from nvsm_lightning.data.crops import open_picture
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.record import Part, Record, check_record
from nvsm_lightning.errors import ConfigError, DataError

LARGEST_DISTANCE, LARGEST_FOCAL, LARGEST_PIXEL = 1e3, 1e6, 1e6  # beyond is damage, not a camera
SHOWN = 5  # damaged items named in a warning


class PublishedData(PoseData):
    """A published data set in its own on-disk layout.

    After ``read``, ``faults`` is what is damaged (id, reason) and ``left_out`` what the protocol does not use (reason:
    ids).

    Args:
        root: folder of the data set.
        damaged: what to do with a damaged label or a missing picture: ``stop`` with an error, or ``skip`` and count.
        val_percent: share of the train list that is set aside for validation, per cent; a fixed choice by the
            place in the list, so that it changes where pictures are missing.
        kwargs: the arguments common to all data sets, see ``PoseData``.
    """

    def __init__(
        self, root: str, damaged: Literal["stop", "skip"] = "stop", val_percent: float = 10.0, **kwargs
    ) -> None:
        super().__init__(root, **kwargs)
        if damaged not in ("stop", "skip") or not 0 <= val_percent < 100:
            raise ConfigError(
                f"--data.damaged must be stop or skip and --data.val_percent in 0..100; got {damaged!r}, {val_percent}."
            )
        self.damaged, self.val_percent = damaged, val_percent
        self.faults: list[tuple[str, str]] = []
        self.left_out: defaultdict[str, list[str]] = defaultdict(list)

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """The usable pictures below ``root``; says once what is damaged and what is left out. See ``PoseData.read``.

        Raises:
            DataError: something is damaged (unless that is to be skipped), or nothing is usable.
        """
        self.faults, self.left_out = [], defaultdict(list)
        records = self.read_all(root, test_only)
        if self.faults:
            listed = "\n  ".join(reason for _, reason in self.faults[:SHOWN])
            rank_zero_warn(f"{root}: {len(self.faults)} damaged ones are skipped:\n  {listed}")
        if self.left_out:
            counts = [f"{len(ids)} {reason}, the first: {ids[0]}" for reason, ids in sorted(self.left_out.items())]
            rank_zero_warn(f"{root}: left out: {'; '.join(counts)}.")
        if not records:
            first = f"; the first fault: {self.faults[0][1]}" if self.faults else ""
            raise DataError(f"{root} holds no usable picture of category {self.category!r}{first}.")
        return records

    def read_all(self, root: Path, test_only: bool) -> list[Record]:
        """The usable pictures; overridden by each data set."""
        raise NotImplementedError(f"{type(self).__name__} must override read_all()")

    def verify(self, record: Record) -> None:
        """Decode the picture of a record (a data set may look at more). Raises DataError if it is damaged."""
        with open_picture(record.image) as picture:
            picture.load()

    def gather(self, parts: Mapping[str, Part], read_one: Callable[[str, Part], list[Record]]) -> list[Record]:
        """The records of every id, in order.

        Args:
            parts: part of each id.
            read_one: gives the records of an id, or raises DataError.

        Raises:
            DataError: one is damaged, unless that is to be skipped.
        """
        records = []
        for key, part in parts.items():
            try:
                records += read_one(key, part)
            except DataError as error:
                if self.damaged == "stop":
                    raise
                self.faults.append((key, str(error)))
        return records

    def parts_of(self, train: list[str], test: list[str], what: str) -> dict[str, Part]:
        """Part of every id: those of ``train`` are train or val, those of ``test`` test. DataError if one is in
        both."""
        twice = sorted(set(train) & set(test))
        if twice:
            raise DataError(f"{what}: {twice[0]!r} is in both the train and the test list; keep it in one.")
        shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
        val = {train[index] for index in shuffled[: round(len(train) * self.val_percent / 100)]}
        parts: dict[str, Part] = {key: "val" if key in val else "train" for key in train}
        return parts | dict.fromkeys(test, "test")


def read_ids(file: Path, what: str) -> list[str]:
    """The first word of each line of a list of pictures, without the ending of a picture.

    Raises:
        DataError: no such file (the message ends with ``what``: where it comes from), an empty list, or an id twice.
    """
    if not file.is_file():
        raise DataError(f"Picture list {file} does not exist; {what}")
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    ids = [_id(line.split()[0]) for line in lines if line.strip()]
    if not ids:
        raise DataError(f"Picture list {file} is empty; unpack it again.")
    twice = next((key for key, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"Picture list {file} names {twice!r} twice; keep one.")
    return ids


def _id(word: str) -> str:
    stem, dot, ending = word.rpartition(".")
    return stem if dot and ending.lower() in ("jpeg", "jpg", "png", "mat") else word


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file system knows (a damaged list) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def checked(record: Record, where: str) -> Record:
    """The record, if its labels can be meant (see ``check_record``) and its camera is of this world.

    Raises:
        DataError: it is not; the message begins with ``where``.
    """
    check_record(record, where)
    for name, size, most in (
        ("distance", record.distance, LARGEST_DISTANCE),
        ("focal length", record.focal_px, LARGEST_FOCAL),
        *(("principal point", abs(value), LARGEST_PIXEL) for value in record.principal or ()),
    ):
        if size is not None and (size > most or (name != "principal point" and size < 1 / most)):
            raise DataError(f"{where}: {name} {size:g} makes no sense; correct it or unlist the picture.")
    if record.viewpoint is not None and max(abs(angle) for angle in record.viewpoint) > 8 * math.pi:
        raise DataError(f"{where}: an angle of more than four turns ({record.viewpoint}); correct it.")
    return record
