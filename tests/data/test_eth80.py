import pytest
from layouts import degrees, truncate, write_picture

from nvsm_lightning.data import ETH80, CropSpec
from nvsm_lightning.errors import DataError

PARTS = {"train_objects": [1, 2], "val_objects": [3], "test_objects": [10]}


@pytest.fixture
def eth80(tmp_path):
    """Four horses and a cow: 4 views each, masks beside them, one horse in a folder of another depth."""
    root = tmp_path / "eth80"
    for number in (1, 2, 3, 10):
        for view in ("000-000", "090-090", "068-180", "035-315"):
            folder = root / ("deep/er" if number == 3 else f"6/{number}")
            (folder / "maps").mkdir(parents=True, exist_ok=True)
            write_picture(folder / f"horse{number}-{view}.jpg", seed=number)
            write_picture(folder / "maps" / f"horse{number}-{view}-map.png", seed=number)
    write_picture(root / "cow1-090-000.png", seed=0)
    return root


def reader(root, **kwargs) -> ETH80:
    return ETH80(str(root), **{**PARTS, "label_seed": 0, "labels": 3, "crop": CropSpec(32, 32, 20.0), **kwargs})


def test_poses_cameras_and_parts_from_the_names(eth80) -> None:
    records = {record.key: record for record in reader(eth80, distance=4.0, focal_px=900.0).read(eth80)}
    assert len(records) == 16  # neither masks nor cows
    front, side = records["6/1/horse1-090-090.jpg"], records["6/1/horse1-068-180.jpg"]
    assert degrees(front.viewpoint) == pytest.approx((0, 0, 0))
    assert degrees(side.viewpoint) == pytest.approx((90, 22, 0))  # its left side, from above
    assert degrees(records["6/2/horse2-000-000.jpg"].viewpoint) == pytest.approx((270, 90, 0))
    assert {record.part for record in records.values() if record.group == "horse 03"} == {"val"}
    assert {record.part for record in records.values() if record.group == "horse 10"} == {"test"}
    width, height = front.principal[0] * 2, front.principal[1] * 2
    assert (width, height) == (64, 48) and front.focal_px == pytest.approx(900 * 64 / 256) and front.distance == 4.0


def test_other_categories_and_their_front(eth80) -> None:
    cow = reader(eth80, category="cow", front_deg=0.0, train_objects=[1], val_objects=[], test_objects=[]).read(eth80)
    assert [record.key for record in cow] == ["cow1-090-000.png"] and degrees(cow[0].viewpoint) == (0, 0, 0)
    with pytest.raises(DataError, match="no picture dog<object>"):
        reader(eth80, category="dog").read(eth80)


def test_objects_are_in_one_part_each_and_absent_ones_are_told(eth80) -> None:
    with pytest.raises(DataError, match=r"object 2 is asked for in two parts \(train, val\)"):
        reader(eth80, val_objects=[2]).read(eth80)
    with pytest.raises(DataError, match=r"none of the test objects \[7\] is there; found: \[1, 2, 3, 10\]"):
        reader(eth80, test_objects=[7]).read(eth80)
    with pytest.warns(UserWarning, match=r"objects \[4\] are not there"):
        reader(eth80, train_objects=[1, 2, 4]).read(eth80)
    assert {record.part for record in reader(eth80).read(eth80, test_only=True)} == {"test"}


def test_a_damaged_picture_of_the_pool_is_skipped(eth80) -> None:
    data = reader(eth80)
    data.setup("fit")
    assert [len(part) for part in (data.labelled, data.pool, data.val, data.test)] == [3, 5, 4, 4]
    truncate(data.pool[1].image)
    again = reader(eth80)
    again.setup("fit")
    with pytest.warns(UserWarning, match="1 of 5 pool pictures are damaged"):
        assert sum(len(batch["index"]) for batch in again.pool_dataloader()) == 4
    again.pool[1].image.write_bytes(b"no picture at all")
    assert len(reader(eth80).read(eth80)) == 16  # whoever decodes it will tell


def test_the_real_horses(shared_data) -> None:
    import csv

    root = shared_data("eth80")
    records = {record.key: record for record in ETH80(str(root)).read(root)}
    with open(root / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records) == 410
    for row in rows:
        azimuth, elevation, theta = degrees(records[row["path"]].viewpoint)
        expected = float(row["azimuth_pascal3d_deg"]), float(row["elevation_deg"]), 0
        assert (azimuth, elevation, theta) == pytest.approx(expected, abs=1e-4)
        assert records[row["path"]].principal == (128, 128)
