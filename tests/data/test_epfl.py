import math
import shutil
import warnings

import pytest
from layouts import degrees

from nvsm_lightning.data import EPFLCars
from nvsm_lightning.errors import DataError

PARTS = {"train_sequences": [1, 2], "val_sequences": [3], "test_sequences": [4]}


def reader(root, **kwargs) -> EPFLCars:
    return EPFLCars(str(root), **{**PARTS, "label_seed": 0, **kwargs})


def test_azimuth_box_and_parts(epfl) -> None:
    records = {record.key: record for record in reader(epfl, elevation_deg=4.0).read(epfl)}
    assert len(records) == 48
    front = records["tripod-seq/tripod_seq_01_003.jpg"]
    assert degrees(front.viewpoint) == pytest.approx((0, 4, 0))
    assert front.box == (8.5, 10.25, 52.5, 40.25) and front.distance == 1.734 and not front.has_camera
    # 36 degrees a second, through the turn of the hour, and backwards where the sense is -1.
    assert degrees(records["tripod-seq/tripod_seq_01_012.jpg"].viewpoint)[0] == pytest.approx(9 * 36)
    assert degrees(records["tripod-seq/tripod_seq_02_004.jpg"].viewpoint)[0] == pytest.approx(360 - 36)
    # A turn is over when frame n + 1 repeats the first.
    first, repeat = (records[f"tripod-seq/tripod_seq_01_{frame:03d}.jpg"].viewpoint for frame in (1, 11))
    assert math.cos(first[0] - repeat[0]) == pytest.approx(1)
    assert {record.part for record in records.values() if record.group == "sequence 03"} == {"val"}


def test_absent_sequences_are_skipped_with_a_notice(epfl) -> None:
    with pytest.warns(UserWarning, match=r"sequences \[5, 11\] are not there"):
        records = reader(epfl, test_sequences=[4, 5, 11]).read(epfl)
    assert {record.group for record in records if record.part == "test"} == {"sequence 04"}
    with pytest.raises(DataError, match=r"none of the test sequences \[5\] is there; found: \[1, 2, 3, 4\]"):
        reader(epfl, test_sequences=[5]).read(epfl)


def test_test_root_takes_the_test_sequences_that_it_holds_else_all(epfl) -> None:
    """A copy of the whole release there would otherwise test the cars of the training."""
    with pytest.warns(UserWarning, match=r"of the EPFL sequences \[1, 2, 3, 4\] \[4\] are tested \(--data.test_seq"):
        records = reader(epfl).read(epfl, test_only=True)
    assert {record.group for record in records} == {"sequence 04"} and {record.part for record in records} == {"test"}
    with warnings.catch_warnings(action="error"):
        records = reader(epfl, test_sequences=[8]).read(epfl, test_only=True)
    assert {record.part for record in records} == {"test"} and len(records) == 48


def test_a_copy_of_the_training_pictures_is_no_test_of_them(epfl, tmp_path) -> None:
    shutil.copytree(epfl, tmp_path / "copy")
    data = reader(epfl, test_root=str(tmp_path / "copy"), test_sequences=[1])
    data.sequences["train"] = [1, 2]
    with pytest.raises(DataError, match="12 test pictures are also used for training"):
        data.setup("fit")


def test_sequences_in_no_part_are_named(epfl) -> None:
    with pytest.warns(UserWarning, match=r"sequences \[2\] are there and in no part \(--data.train_sequences"):
        reader(epfl, train_sequences=[1]).read(epfl)


@pytest.mark.parametrize(
    ("row", "text", "message"),
    [
        (6, "1 1", "speaks of 5 sequences, but has rows of"),
        (5, "3 99 3 3 3", "the frontal frame 99 of sequence 2 is none"),
    ],
)
def test_a_damaged_table_is_named(epfl, row, text, message) -> None:
    file = epfl / "tripod-seq" / "tripod-seq.txt"
    rows = file.read_text().splitlines()
    rows[row] = text
    file.write_text("\n".join(rows))
    with pytest.raises(DataError, match=message):
        reader(epfl).read(epfl)


def test_a_turn_without_time_is_named(epfl) -> None:
    file = epfl / "tripod-seq" / "times_02.txt"
    file.write_text("2008:03:12 10:36:19\n" * 12)
    with pytest.raises(DataError, match=r"times_02\.txt: a turn takes 0 seconds"):
        reader(epfl).read(epfl)


def test_with_a_test_root_the_test_sequences_need_not_be_here(epfl, tmp_path) -> None:
    folder = tmp_path / "more" / "tripod-seq"
    shutil.copytree(epfl / "tripod-seq", folder)
    for file in folder.glob("tripod_seq_0[123]_*.jpg"):
        file.unlink()
    for file in (epfl / "tripod-seq").glob("tripod_seq_04_*.jpg"):
        file.unlink()
    data = reader(epfl, test_root=str(folder.parent))
    data.setup("fit")
    assert len(data.labelled) + len(data.pool) == 24 and len(data.val) == 12
    assert {record.group for record in data.test} == {"sequence 04"} and len(data.test) == 12


def test_inner_folder_and_upper_case_extensions(epfl) -> None:
    folder = epfl / "tripod-seq"
    picture = folder / "tripod_seq_01_002.jpg"
    picture.rename(picture.with_suffix(".JPG"))
    table = folder / "tripod-seq.txt"
    table.write_bytes(table.read_bytes().replace(b"\n", b" \r\n"))
    records = reader(folder).read(folder)
    assert len(records) == 48 and records[1].key == "tripod_seq_01_002.JPG"


def test_bad_folders_are_explained(epfl) -> None:
    folder = epfl / "tripod-seq"
    with pytest.raises(DataError, match="two parts"):
        reader(epfl, val_sequences=[2]).read(epfl)
    (folder / "tripod_seq_01_005.jpg").unlink()
    with pytest.raises(DataError, match=r"tripod_seq_01_005.jpg is missing"):
        reader(epfl).read(epfl)
    boxes = folder / "bbox_01.txt"
    boxes.write_text("1 2 3\n" * 12)
    with pytest.raises(DataError, match=r"bbox_01.txt:1: expected `x y width height`"):
        reader(epfl).read(epfl)
    boxes.write_text("1 2 3 4\n" * 11)
    with pytest.raises(DataError, match=r"bbox_01.txt has 11 rows, but sequence 1 has 12"):
        reader(epfl).read(epfl)
    (folder / "times_01.txt").write_text("yesterday\n" * 12)
    with pytest.raises(DataError, match=r"times_01.txt:1: expected a time"):
        reader(epfl).read(epfl)
    (folder / "tripod-seq.txt").write_text("5\n")
    with pytest.raises(DataError, match=r"tripod-seq.txt cannot be read"):
        reader(epfl).read(epfl)
    with pytest.raises(DataError, match=r"must hold the EPFL folder"):
        reader(epfl.parent).read(epfl.parent)


def test_the_real_pictures(shared_data) -> None:
    root = shared_data("epfl_cars")
    data = EPFLCars(str(root), label_seed=0)
    records = data.read(root)
    assert len(records) == 1179
    counts = {part: sum(record.part == part for record in records) for part in ("train", "val", "test")}
    assert counts == {"train": 538, "val": 225, "test": 416}
    # A full turn is seen: no gap in azimuth is wider than 15 degrees in any sequence.
    for group in {record.group for record in records}:
        angles = sorted(degrees(record.viewpoint)[0] for record in records if record.group == group)
        gaps = [b - a for a, b in zip(angles, [*angles[1:], angles[0] + 360], strict=True)]
        assert max(gaps) < 15
