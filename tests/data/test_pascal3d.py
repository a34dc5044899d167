import pytest
from layouts import degrees, viewpoint_struct, write_annotation
from published_layouts import write_pascal3d

from nvsm_lightning.data import CropSpec, Pascal3D, ToyCars
from nvsm_lightning.errors import ConfigError, DataError

FIRST = "Annotations/car_imagenet/n02814530_0000.mat"


def test_lists_cameras_and_angles(pascal) -> None:
    records = Pascal3D(str(pascal), val_percent=20.0).read(pascal)
    assert [sum(record.part == part for record in records) for part in ("train", "val", "test")] == [16, 4, 6]
    third = next(record for record in records if record.key == "Images/car_imagenet/n02814530_0003.JPEG")
    assert degrees(third.viewpoint) == pytest.approx((360 * 3 / 26, 10, 5))
    assert (third.distance, third.focal_px, third.principal, third.group) == (6.0, 3000.0, (30.3, 25.0), "cad 3")
    assert {record.part for record in Pascal3D(str(pascal)).read(pascal, test_only=True)} == {"test"}


def test_setup_and_batches_under_the_protocol_of_nemo(pascal) -> None:
    data = Pascal3D(str(pascal), label_seed=0, crop=CropSpec(256, 672, 600.0, camera="canonical"), batch_size=4)
    data.setup("fit")
    assert (len(data.labelled), len(data.pool), len(data.val), len(data.test)) == (7, 11, 2, 6)
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (4, 3, 256, 672)
    assert batch["camera"].focal.tolist() == [3000] * 4 and batch["camera"].distance.tolist() == [5] * 4


@pytest.mark.parametrize(
    "viewpoint",
    [
        viewpoint_struct(distance=0.0, azimuth=0.0, elevation=0.0, theta=0.0),  # coarse label only
        viewpoint_struct(distance=None),
        viewpoint_struct(focal=0.0),
        viewpoint_struct(viewport=-1.0),
        None,
    ],
)
def test_pictures_without_usable_camera_are_left_out_and_counted(pascal, viewpoint) -> None:
    write_annotation(pascal / FIRST, viewpoint)
    with pytest.warns(UserWarning, match=r"left out: 1 without a (usable camera|viewpoint).* first: n02814530_0000"):
        assert len(Pascal3D(str(pascal)).read(pascal)) == 25


def test_absent_focal_and_viewport_take_the_usual_values(pascal) -> None:
    write_annotation(pascal / FIRST, viewpoint_struct(focal=None, viewport=None))
    assert Pascal3D(str(pascal)).read(pascal)[0].focal_px == 3000


def test_damaged_annotations_are_fatal_and_named(pascal) -> None:
    data, file = Pascal3D(str(pascal)), pascal / FIRST
    write_annotation(file, viewpoint_struct(azimuth=float("nan")))
    with pytest.raises(DataError, match=r"_0000.mat: object 1: azimuth is nan"):
        data.read(pascal)
    whole = file.read_bytes()
    for content in (b"<html>404</html>", whole[: len(whole) // 2], b""):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"_0000.mat (cannot be read|has no `record)"):
            data.read(pascal)
    file.unlink()
    with pytest.raises(DataError, match=r"_0000.mat does not exist"):
        data.read(pascal)


def test_damaged_lists_and_missing_pictures(pascal) -> None:
    data, sets = Pascal3D(str(pascal)), pascal / "Image_sets"
    picture = pascal / "Images/car_imagenet/n02814530_0000.JPEG"
    kept = picture.read_bytes()
    picture.unlink()
    with pytest.raises(DataError, match=r"n02814530_0000.JPEG does not exist, but"):
        data.read(pascal)
    picture.write_bytes(kept)
    val = sets / "car_imagenet_val.txt"
    ids = val.read_text()
    val.write_text(ids + "n02814530_0000\n")
    with pytest.raises(DataError, match=r"'n02814530_0000' is in both"):
        data.read(pascal)
    val.write_text(ids + ids)
    with pytest.raises(DataError, match=r"names 'n02814532_0020' twice"):
        data.read(pascal)
    val.write_text("\n")
    with pytest.raises(DataError, match=r"car_imagenet_val.txt is empty"):
        data.read(pascal)
    with pytest.raises(DataError, match=r"has no category 'bus'; it has car \(--data\.category\)"):
        Pascal3D(str(pascal), category="bus").read(pascal)


def test_the_toy_set_is_a_pascal3d_folder(pascal, tmp_path) -> None:
    data = ToyCars(str(pascal), label_seed=0)
    data.setup("fit")
    assert data.name == "toy_cars" and len(data.test) == 6
    with pytest.raises(DataError, match="nvsm prepare toy"):
        ToyCars(str(tmp_path)).setup("fit")


@pytest.fixture
def release(tmp_path):
    return write_pascal3d(tmp_path / "release")


def count(root, **settings) -> int:
    return len(Pascal3D(str(root), **settings).read(root))


def test_filters_are_choices(release):
    assert count(release) == 13  # the first object of each picture, as NeMo
    data = Pascal3D(str(release), filter="none")
    assert len(data.read(release)) == 17  # and the second cars
    assert {reason: len(ids) for reason, ids in data.left_out.items()} == {
        "of another category": 4,
        "without a viewpoint": 4,
    }
    assert len({record.key for record in data.read(release)}) == 17
    assert {record.occlusion for record in data.read(release)} == {"whole", "truncated"}
    assert count(release, filter="voc") == 13
    assert count(release, subtypes=["SUV"]) == 6
    with pytest.raises(DataError, match=r"no subtype 'tank'; the list of the release: hatchback, sedan, SUV, others"):
        count(release, subtypes=["tank"])
    with pytest.raises(ConfigError, match="filter must be one of nemo, none, voc"):
        Pascal3D(str(release), filter="all")


def test_the_voc_half_and_coarse_labels(release):
    assert count(release, source="pascal") == 2  # first objects: a car, a coarse one, a person without pose, a car
    assert count(release, source="pascal", filter="none") == 4
    assert count(release, source="pascal", filter="voc") == 2
    assert count(release, source="both", filter="none") == 21
    records = Pascal3D(str(release), source="pascal", coarse=True).read(release)
    boxed = next(record for record in records if not record.has_camera)
    assert degrees(boxed.viewpoint) == pytest.approx((135, 10, 0)) and boxed.box == (1, 1, 64, 48)
    assert boxed.key == "Images/car_pascal/2008_000032.jpg" and boxed.part == "train"
    (release / "PASCAL/VOCdevkit/VOC2012/ImageSets/Main/val.txt").unlink()
    with pytest.raises(DataError, match=r"Main/val.txt does not exist; --data.root must be"):
        count(release, source="pascal")


def test_damage_is_skipped_and_listed_if_asked_for(release):
    (release / "Annotations/car_imagenet/n02814530_0000.mat").write_bytes(b"cut")
    (release / "Images/car_imagenet/n02814531_0001.JPEG").unlink()
    data = Pascal3D(str(release), damaged="skip")
    with pytest.warns(UserWarning, match=r"2 damaged ones are skipped:\n.*0000.mat cannot be read"):
        assert len(data.read(release)) == 11
    assert [key for key, _ in data.faults] == ["car_imagenet/n02814530_0000", "car_imagenet/n02814531_0001"]
    assert len(data.read(release)) == 11 and len(data.faults) == 2  # not added up
