from pathlib import Path

import pytest
from layouts import write_picture

from nvsm_lightning.data.parts import (
    assign_parts,
    check_boxes,
    check_disjoint,
    checksum,
    existing,
    limit_pool,
    part_of_pool,
)
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import DataError


def record(key: str, part: str = "", labelled: bool = True, **kwargs) -> Record:
    return Record(Path(key), key, "car", part, (0.0, 0.0, 0.0) if labelled else None, **kwargs)  # type: ignore[arg-type]


def shares(records: list[Record]) -> dict[str, float]:
    assigned = assign_parts(records)
    return {part: sum(r.part == part for r in assigned) / len(assigned) for part in ("train", "val", "test")}


def test_labelled_rest_is_val_and_test_where_there_is_a_pool() -> None:
    labelled = [record(f"{k}.jpg") for k in range(400)]
    with_pool = assign_parts([*labelled, record("pool.jpg", labelled=False)])
    assert with_pool[-1].part == "train" and sum(r.part == "train" for r in with_pool) == 1
    assert sum(r.part == "val" for r in with_pool) == pytest.approx(200, abs=40)
    alone = shares(labelled)
    assert alone["train"] == pytest.approx(0.8, abs=0.05) and min(alone.values()) > 0.05


def test_given_parts_stay() -> None:
    rows = [record("a", "val"), record("b", "test"), record("c", "train")]
    assert assign_parts(rows) == rows


def test_pool_limit_keeps_order() -> None:
    rows = [record(f"{k:02d}") for k in range(30)]
    few = limit_pool(rows, 5, seed=1)
    assert len(few) == 5 and [r.key for r in few] == sorted(r.key for r in few)
    assert limit_pool(rows, None, 1) is rows and limit_pool(rows, 99, 1) is rows
    assert limit_pool(rows, 5, seed=2) != few


def test_a_test_picture_must_not_be_trained_on() -> None:
    check_disjoint([record("a")], [record("b")])
    with pytest.raises(DataError, match="1 test pictures are also used for training"):
        check_disjoint([record("a"), record("b")], [record("b")])


def test_boxes_of_unreadable_pictures_are_left_to_the_decoder(tmp_path) -> None:
    path = write_picture(tmp_path / "a.jpg")
    inside = Record(path, "a", "car", "train", box=(0.0, 0.0, 64.0, 48.0))
    check_boxes([inside, Record(tmp_path / "gone.jpg", "gone", "car", "train", box=(0.0, 0.0, 999.0, 999.0))])
    with pytest.raises(DataError, match="lies outside"):
        check_boxes([Record(path, "a", "car", "train", box=(0.0, 0.0, 99.0, 48.0))])


def test_folders_and_checksums(tmp_path) -> None:
    assert existing(str(tmp_path), "--data.root") == tmp_path
    for missing in ("", str(tmp_path / "none")):
        with pytest.raises(DataError, match=r"does not exist; give .* with --data.root"):
            existing(missing, "--data.root")
    assert checksum([record("a"), record("b")]) != checksum([record("b"), record("a")])


def test_every_picture_of_the_pool_has_its_turn_before_one_comes_again() -> None:
    usable = [index for index in range(23) if index % 5]
    parts = [part_of_pool(usable, 6, round, seed=1) for round in range(4)]
    assert all(part == sorted(set(part)) and len(part) == 6 for part in parts)
    assert sorted(parts[0] + parts[1] + parts[2]) == usable and parts[3] == parts[0]
    assert part_of_pool(usable, 6, 0, seed=2) != parts[0]
    for count in (0, len(usable), 100):
        assert part_of_pool(usable, count, 1, seed=1) == usable
