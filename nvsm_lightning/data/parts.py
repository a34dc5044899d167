"""Dividing records into labelled, pool, val and test, and checking them against the files."""

import filecmp
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from nvsm_lightning.data.crops import picture_size
from nvsm_lightning.data.record import Part, Record, check_box_inside
from nvsm_lightning.errors import ConfigError, DataError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def assign_parts(records: list[Record]) -> list[Record]:
    """Give a part to the pictures that have none, the labelled ones having been drawn already.

    With unlabelled pictures among them, these are the pool and the labelled ones are halved into val and test;
    otherwise 80 % are pool, 10 % val and 10 % test. By a checksum of the key, so that it does not depend on the draw.
    """
    has_pool = any(record.part == "train" or (not record.part and record.viewpoint is None) for record in records)
    assigned = []
    for record in records:
        if record.part:
            assigned.append(record)
            continue
        slot = zlib.crc32(record.key.encode()) % 10
        part: Part
        if record.viewpoint is None:
            part = "train"
        elif has_pool:
            part = "val" if slot % 2 else "test"
        else:
            part = "val" if slot == 0 else "test" if slot == 1 else "train"
        assigned.append(replace(record, part=part))
    groups = [{one.group for one in assigned if (one.part == "train") == train} - {""} for train in (True, False)]
    if any(not record.part for record in records) and (both := groups[0] & groups[1]):
        rank_zero_warn(
            f"{len(both)} objects (such as {min(both)!r}) are in the pool and in the validation or test part: the "
            "numbers are of objects that were seen. Give the rows a `split` to test others."
        )
    return assigned


def parts_of_groups(
    wanted: Mapping[Part, Sequence[int]], here: Sequence[int], called: str, folder: Path, test_elsewhere: bool
) -> dict[int, Part]:
    """The part of each object or sequence that a data set divides by number. Those that are not there, and those that
    are there and in no part, are warned of.

    Args:
        wanted: numbers of each part, each an option ``--data.<part>_<kind>s``.
        here: numbers that the folder has.
        called: what they are, in messages ("EPFL sequence").
        folder: of the data set.
        test_elsewhere: the test part comes from another folder.

    Raises:
        DataError: a number in two parts, or a part of which nothing is there.
    """
    found: dict[int, Part] = {}
    kind = called.split()[-1]
    for part, numbers in wanted.items():
        if part == "test" and test_elsewhere:
            continue
        for number in numbers:
            if found.setdefault(number, part) != part:
                raise DataError(f"{called} {number} is asked for in two parts ({found[number]}, {part}); name it once.")
        if numbers and not set(numbers) & set(here):
            raise DataError(
                f"{folder}: none of the {part} {kind}s {list(numbers)} is there; found: {list(here)}. Name the part's: "
                f"--data.{part}_{kind}s."
            )
    if absent := sorted(set(found) - set(here)):
        rank_zero_warn(f"{folder}: {called}s {absent} are not there and are skipped.")
    if left := sorted(set(here) - set(found) - set(wanted["test"] if test_elsewhere else ())):
        rank_zero_warn(f"{folder}: {called}s {left} are there and in no part (--data.train_{kind}s and so on).")
    return found


def tested_groups(wanted: Sequence[int], here: Sequence[int], called: str, folder: Path) -> list[int]:
    """Which objects or sequences of a ``test_root`` are tested: those of the test part that it has, else all."""
    chosen = [number for number in here if number in wanted] or list(here)
    if len(chosen) < len(here):
        kind = called.split()[-1]
        rank_zero_warn(f"{folder}: of the {called}s {list(here)} {chosen} are tested (--data.test_{kind}s).")
    return chosen


def limit_pool(records: list[Record], limit: int | None, seed: int) -> list[Record]:
    """At most ``limit`` records by a seeded draw, in their old order. ConfigError if it is no number of pictures."""
    if limit is not None and limit < 1:
        raise ConfigError(f"--data.pool_limit must be at least 1, or null for the whole pool; got {limit}.")
    if limit is None or limit >= len(records):
        return records
    chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:limit]
    return [records[index] for index in chosen.sort().values.tolist()]


def part_of_pool(usable: Sequence[int], count: int, round: int, seed: int) -> list[int]:
    """``count`` of the usable positions, in order: every one has its turn in a round before one comes again. All, if
    ``count`` is 0 or there are no more."""
    if not 0 < count < len(usable):
        return list(usable)
    order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed)).roll(-round * count)
    return [usable[place] for place in order[:count].sort().values.tolist()]


def folder_records(folder: Path, category: str, option: str) -> list[Record]:
    """All pictures below a folder, without labels, by name. Raises DataError, which names ``option``, if there are
    none."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES]
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{option}: the name of {str(path)!a} is no UTF-8, as no table could hold it; rename it."
            ) from error
    records = [
        Record(image=path, key=path.relative_to(folder).as_posix(), category=category, part="test", turned=True)
        for path in files
    ]
    if not records:
        raise DataError(f"{folder} holds no pictures ({', '.join(PICTURES)}); give another {option}.")
    return records


def check_pool(pool: Sequence[Record], root: str) -> None:
    """DataError if there is no unlabelled picture."""
    if not pool:
        raise DataError(
            f"The pool of {root} is empty: all pictures of the train part are labelled. "
            "Add pictures without labels, lower --data.labels, or train with labels only (method NeMo)."
        )


def existing(path: str, option: str) -> Path:
    """The folder (or table) named by a command-line option; DataError if it is not there."""
    folder = Path(path).expanduser()
    if not path or not folder.exists():
        raise DataError(f"Folder {path!r} does not exist; give the data set's folder with {option}.")
    return folder


def check_cameras(records: Sequence[Record]) -> None:
    """See :func:`check_boxes` and :func:`check_centres`."""
    check_boxes(records)
    check_centres(records)


def check_boxes(records: Sequence[Record]) -> None:
    """DataError if a box leaves its picture. Pictures that cannot be opened are somebody else's business."""
    for record in records:
        if record.box is None:
            continue
        try:
            size = picture_size(record.image, record.turned)
        except DataError:
            continue
        check_box_inside(record, size, record.key)


def check_centres(records: Sequence[Record]) -> None:
    """Warn of objects whose centre lies beyond their picture: their cameras are of pictures of another size."""
    beyond = []
    for record in records:
        if record.principal is None or record.warp is not None:
            continue
        try:
            size = picture_size(record.image, record.turned)
        except DataError:
            continue
        if any(not -side / 2 <= place <= 1.5 * side for place, side in zip(record.principal, size, strict=True)):
            beyond.append(record.key)
    if beyond:
        rank_zero_warn(
            f"The object's centre lies far outside of {len(beyond)} pictures, {beyond[0]} for example: are their "
            "cameras (focal_px px py) of pictures of this size?"
        )


def check_disjoint(train: Sequence[Record], test: Sequence[Record]) -> None:
    """DataError if a picture is in both lists: a ``test_root`` inside of ``root``, or a copy of it elsewhere."""
    mine = {record.key: record.image for record in train}
    pairs = [(record.image, mine[record.key]) for record in test if record.key in mine]
    copies = {one for one, other in pairs if one.is_file() and other.is_file() and filecmp.cmp(one, other, False)}
    shared = {record.image.resolve() for record in train} & {record.image.resolve() for record in test} | copies
    if shared:
        raise DataError(
            f"{len(shared)} test pictures are also used for training, for example {min(shared)}; "
            "give another --data.test_root, or take them out of the train part."
        )


def checksum(records: Sequence[Record]) -> int:
    """A number that changes with the keys or their order."""
    return zlib.crc32("\n".join(record.key for record in records).encode())


def is_same(state: Mapping[str, Any], labelled: Sequence[Record], pool: Sequence[Record]) -> bool:
    """Whether a checkpoint's state is of these labelled pictures and this pool."""
    return state["labelled"] == [record.key for record in labelled] and state["pool"] == checksum(pool)


def check_same(state: Mapping[str, Any], labelled: Sequence[Record], pool: Sequence[Record]) -> None:
    """DataError if a checkpoint, from which a fit is to be resumed, is of other pictures."""
    if not is_same(state, labelled, pool):
        what = "another pool" if state["labelled"] == [each.key for each in labelled] else "other labelled pictures"
        raise DataError(
            f"The checkpoint was trained with {what} than this run has ({len(state['labelled'])} labels then, "
            f"{len(labelled)} now); resume with the same data, seed and label list, or start afresh."
        )
