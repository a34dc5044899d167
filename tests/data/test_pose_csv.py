import pytest
from layouts import degrees, pose_rows
from PIL import Image

from nvsm_lightning.data import CropSpec, PoseCSV, StanfordCars
from nvsm_lightning.data.crops import canonical_crop
from nvsm_lightning.data.parts import assign_parts
from nvsm_lightning.errors import DataError


def read(folder, **kwargs):
    return PoseCSV(str(folder), label_seed=0, **kwargs).read(folder)


def test_every_column_is_read(write_csv) -> None:
    row = {"file": "a b.jpg", "azimuth_deg": -30, "elevation_deg": 10, "theta_deg": 3, "distance": 1.2, "focal_px": 400}
    row |= {
        "px": 30.5,
        "py": 20,
        "x1": 2,
        "y1": 3,
        "x2": 60,
        "y2": 40,
        "split": "VAL",
        "group": "g1",
        "note": "ignored",
    }
    folder = write_csv([row, {"file": "pool.jpg"}])
    first, second = read(folder)
    assert degrees(first.viewpoint) == pytest.approx((330, 10, 3))
    assert (first.distance, first.focal_px, first.principal, first.box) == (1.2, 400, (30.5, 20), (2, 3, 60, 40))
    assert (first.part, first.group, first.key, first.category) == ("val", "g1", "a b.jpg", "car")
    assert second.viewpoint is None and second.part == "train" and second.box is None and second.distance is None


def test_windows_newlines_bom_semicolons_and_the_table_as_root(write_csv) -> None:
    folder = write_csv(pose_rows(9))
    table = folder / "labels.csv"
    text = table.read_text().replace(",", " ; ").replace("azimuth_deg", "Azimuth_Deg")
    table.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n ; ; ; \r\n")
    assert [record.key for record in read(folder)] == [f"{index:03d}.jpg" for index in range(9)]
    assert len(PoseCSV(str(table)).read(table)) == 9


def test_missing_column_is_named_and_the_found_listed(write_csv) -> None:
    folder = write_csv(pose_rows(3), columns=["file", "azimuth_deg", "theta_deg"])
    with pytest.raises(
        DataError, match=r"labels.csv: column elevation_deg is missing; found: file, azimuth_deg, theta_deg"
    ):
        read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"azimuth_deg": "nan"}, r"labels.csv:3: azimuth_deg is nan"),
        ({"azimuth_deg": "inf"}, r"labels.csv:3: azimuth_deg is inf"),
        ({"elevation_deg": "high"}, r"labels.csv:3: elevation_deg is 'high'"),
        ({"theta_deg": ""}, r"labels.csv:3: theta_deg is empty"),
        ({"elevation_deg": "100"}, r"labels.csv:3: elevation 100.0 degrees is outside"),
        ({"distance": "2", "focal_px": "300"}, r"labels.csv:3: px is empty"),
        ({"focal_px": "300", "px": "1", "py": "1"}, r"labels.csv:3: a camera needs distance"),
        ({"distance": "-2"}, r"labels.csv:3: distance -2.0 is not positive"),
        ({"x1": "1", "y1": "2", "x2": "3"}, r"labels.csv:3: y2 is empty"),
        ({"x1": "30", "y1": "2", "x2": "3", "y2": "9"}, r"labels.csv:3: box .* no area"),
        ({"split": "holdout"}, r"labels.csv:3: split 'holdout' is not one of train, val, test"),
        ({"file": "000.jpg"}, r"labels.csv:3: '000.jpg' is already on line 2"),
        ({"file": "gone.jpg"}, r"labels.csv:3: picture .*gone.jpg does not exist"),
        (
            {"azimuth_deg": "", "elevation_deg": "", "theta_deg": "", "split": "test"},
            r"labels.csv:3: .* only be in the pool",
        ),
    ],
)
def test_damaged_rows_are_fatal_with_their_line(write_csv, change, message) -> None:
    rows = pose_rows(3)
    write_csv(rows)
    rows[1] |= change
    folder = write_csv(rows, pictures=False)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_rows_of_another_length_and_empty_tables(write_csv) -> None:
    folder = write_csv(pose_rows(3))
    table = folder / "labels.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, "x.jpg,1,2"]))
    with pytest.raises(DataError, match=r"labels.csv:5: 3 values for 4 columns"):
        read(folder)
    table.write_text(lines[0])
    with pytest.raises(DataError, match="has a header but no rows"):
        read(folder)
    table.unlink()
    with pytest.raises(DataError, match=r"labels.csv does not exist"):
        read(folder)


def test_radians_are_suspected(write_csv, recwarn) -> None:
    rows = pose_rows(5)
    for row in rows:
        row |= {"azimuth_deg": row["azimuth_deg"] / 57.29578 - 3, "elevation_deg": 0.1, "theta_deg": 0}
    folder = write_csv(rows)
    with pytest.warns(UserWarning, match="looks like radians"):
        assert degrees(read(folder)[4].viewpoint)[0] == pytest.approx(rows[4]["azimuth_deg"], abs=1e-4)
    recwarn.clear()
    read(write_csv(pose_rows(5), name="other"))
    assert not [warning for warning in recwarn if "radians" in str(warning.message)]


def test_box_outside_the_picture_is_fatal_at_setup(write_csv) -> None:
    rows = pose_rows(12, split="train") + pose_rows(2, split="test", start=12)
    rows[3] |= {"x1": 10, "y1": 10, "x2": 90, "y2": 40}  # pictures are 64 x 48
    data = PoseCSV(str(write_csv(rows)), label_seed=0)
    with pytest.raises(DataError, match=r"003.jpg: box .* lies outside the picture .* of 64 x 48"):
        data.setup("fit")


def test_without_split_column_the_pool_decides(write_csv) -> None:
    with_pool = pose_rows(40) + pose_rows(30, start=40, labelled=False)
    data = PoseCSV(str(write_csv(with_pool)), label_seed=3)
    data.setup("fit")
    assert len(data.labelled) == 7 and len(data.pool) == 30 and len(data.val) + len(data.test) == 33
    assert data.pool_truth().isnan().all() and min(len(data.val), len(data.test)) > 5
    all_labelled = PoseCSV(str(write_csv(pose_rows(100), name="two")), label_seed=3)
    all_labelled.setup("fit")
    assert len(all_labelled.pool) > 60 and all_labelled.val and all_labelled.test
    # The part of a picture that is not drawn does not depend on the draw.
    other = PoseCSV(str(write_csv(pose_rows(100), name="two")), label_seed=4)
    other.setup("fit")
    drawn = {record.key for record in (*other.labelled, *all_labelled.labelled)}
    assert {r.key for r in other.test} - drawn == {r.key for r in all_labelled.test} - drawn


def test_assigned_parts_are_kept() -> None:
    assert assign_parts([]) == []


def test_rows_of_other_categories_are_left_out(write_csv) -> None:
    rows = pose_rows(4)
    for index, row in enumerate(rows):
        row["category"] = ("bus", "Car", "car", "")[index]  # an empty cell is no other category
    folder = write_csv(rows)
    assert [record.key for record in read(folder)] == ["001.jpg", "002.jpg", "003.jpg"]
    with pytest.raises(DataError, match="no row of category 'boat'"):
        read(write_csv(rows[:3]), category="boat")


def test_a_folder_of_unlabelled_pictures_joins_the_pool_once(write_csv) -> None:
    folder = write_csv(pose_rows(3))
    (folder / "more" / "deep").mkdir(parents=True)
    for name in ("000.jpg", "deep/x.jpg"):  # the first has the name of a picture of the table
        (folder / "more" / name).write_bytes((folder / "001.jpg").read_bytes())
    records = read(folder, unlabelled=str(folder / "more"))
    assert [record.key for record in records[3:]] == ["more/000.jpg", "more/deep/x.jpg"]
    assert all(record.viewpoint is None and record.part == "train" for record in records[3:])
    everything = read(folder, unlabelled=str(folder))  # the table's own folder
    assert [record.key for record in everything[3:]] == ["more/000.jpg", "more/deep/x.jpg"]
    beside = folder.parent / "beside"
    (folder / "more").rename(beside)
    keys = [record.key for record in read(folder, unlabelled=str(beside))[3:]]
    assert keys == ["../beside/000.jpg", "../beside/deep/x.jpg"]  # what a row of the table would call them
    assert all((folder / key).is_file() for key in keys)
    assert len(PoseCSV(str(folder), unlabelled="nowhere").read(folder, test_only=True)) == 3
    with pytest.raises(DataError, match=r"'nowhere' does not exist.*--data\.unlabelled"):
        read(folder, unlabelled="nowhere")


def test_pictures_of_another_category_are_not_taken_from_the_folder(write_csv) -> None:
    rows = [row | {"category": "bus" if number == 2 else "car"} for number, row in enumerate(pose_rows(3))]
    rows[2]["azimuth_deg"] = "n/a"  # nothing of it is read
    folder = write_csv(rows)
    assert [record.key for record in read(folder, unlabelled=str(folder))] == ["000.jpg", "001.jpg"]


def test_pictures_of_a_table_stand_upright_as_viewers_show_them(write_csv) -> None:
    folder = write_csv([row | {"x1": 0, "y1": 0, "x2": 30, "y2": 60} for row in pose_rows(7)])
    exif = Image.Exif()
    exif[274] = 6  # a phone held upright
    for file in folder.glob("*.jpg"):
        Image.new("RGB", (64, 32)).save(file, exif=exif)
    data = PoseCSV(str(folder), labels=3, crop=CropSpec(32, 64, 50.0))
    data.setup("fit")  # the boxes fit 32 x 64, not the 64 x 32 of the file
    record = data.labelled[0]
    assert record.turned and canonical_crop(record.image, record, data.crop)[1].box.isfinite().all()


def test_a_table_written_on_windows_and_columns_in_capitals(write_csv) -> None:
    folder = write_csv([row | {"Car_ID": "a"} for row in pose_rows(2)])
    (folder / "cars").mkdir()
    (folder / "001.jpg").rename(folder / "cars" / "001.jpg")
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("001.jpg", "cars\\001.jpg"))
    records = read(folder, group_column="Car_ID")
    assert [(record.key, record.group) for record in records] == [("000.jpg", "a"), ("cars/001.jpg", "a")]
    with pytest.raises(DataError, match=r"no column 'owner'.*--data\.group_column"):
        read(folder, group_column="owner")


def test_a_reader_whose_own_column_of_groups_is_missing_goes_on_without(write_csv) -> None:
    rows = pose_rows(8, "train")
    folder = write_csv(rows)
    with pytest.warns(UserWarning, match="no column 'class_id': labels are not spread"):
        records = StanfordCars(str(folder), images="").read(folder)
    assert {record.group for record in records} == {""}
    assert len(PoseCSV(str(folder), group_column="").read(folder)) == 8
    with pytest.raises(DataError, match=r"no column 'car'; correct --data\.group_column"):
        StanfordCars(str(folder), images="", group_column="car").read(folder)


def test_azimuths_may_be_all_that_is_labelled(write_csv) -> None:
    rows = [{key: row[key] for key in ("file", "azimuth_deg", "split") if key in row} for row in pose_rows(8, "train")]
    rows += pose_rows(2, "val", 8) + pose_rows(2, "test", 10) + pose_rows(3, "train", 12, labelled=False)
    folder = write_csv(rows)
    with pytest.raises(DataError, match="elevation_deg is empty"):
        PoseCSV(str(folder)).read(folder)
    data = PoseCSV(str(folder), azimuth_only=True, label_seed=0, crop=CropSpec(32, 64, 50.0))
    data.setup("fit")
    assert degrees(data.read(folder)[2].viewpoint) == pytest.approx((90, 0, 0))
    assert degrees(data.test[0].viewpoint)[1:] == pytest.approx((5, -2)) and len(data.pool) == 4
    assert data.pool_truth()[:, 1:].isnan().all()
    alone = write_csv(rows[:8], ["file", "azimuth_deg", "split"], name="alone")
    assert len(PoseCSV(str(alone), azimuth_only=True).read(alone)) == 8


def test_objects_on_both_sides_of_the_split_are_warned_of(write_csv) -> None:
    """Without `split` neighbouring frames of one object are pool and test."""
    rows = [row | {"group": f"car {number % 2}"} for number, row in enumerate(pose_rows(40))]
    data = PoseCSV(str(write_csv(rows)), label_seed=0, crop=CropSpec(32, 64, 50.0))
    with pytest.warns(UserWarning, match=r"2 objects \(such as 'car 0'\) are in the pool and in the validation"):
        data.setup("fit")


def test_centres_far_outside_of_the_pictures_are_warned_of(write_csv) -> None:
    """As where pictures were shrunk after their cameras had been measured."""
    camera = {"distance": 5, "focal_px": 100, "px": 10, "py": 10}
    rows = [row | camera for row in pose_rows(12, "train") + pose_rows(2, "val", 12) + pose_rows(2, "test", 14)]
    rows[3] |= {"px": 5000}
    data = PoseCSV(str(write_csv(rows)), label_seed=0, crop=CropSpec(32, 64, 50.0))
    with pytest.warns(UserWarning, match=r"far outside of 1 pictures, 003\.jpg for example"):
        data.setup("fit")


def test_test_root_leaves_out_unlabelled_rows(write_csv) -> None:
    folder = write_csv(pose_rows(4, split="train") + pose_rows(2, start=4, labelled=False))
    records = PoseCSV(str(folder)).read(folder, test_only=True)
    assert [record.part for record in records] == ["test"] * 4


def test_the_real_stanford_cars(shared_data) -> None:
    root = shared_data("stanford_cars")
    records = StanfordCars(str(root)).read(root)
    counts = {part: sum(record.part == part for record in records) for part in ("train", "val", "test")}
    assert counts == {"train": 2600, "val": 300, "test": 500}
    assert all(record.has_camera and record.group for record in records)
    first = records[0]
    assert (first.key, first.distance, first.focal_px, first.principal) == ("00001.jpg", 1.03, 418.31, (129.81, 64.0))
