import math
import shutil

import pytest
import torch
from layouts import degrees
from published_layouts import write_kitti

from nvsm_lightning.data import KITTI, CropSpec, canonical_crop
from nvsm_lightning.data.kitti import read_labels, read_projection
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint

SAMPLE = "Car 0.00 0 -1.67 657.39 190.13 700.07 223.39 1.41 1.58 4.36 3.18 2.27 34.38 -1.58"
SAMPLE_P2 = "P2: 721.5377 0 609.5593 44.85728 0 721.5377 172.854 .2163791 0 0 1 .002745884"
CORNERS = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], dtype=torch.float64)


@pytest.fixture
def kitti(tmp_path):
    return write_kitti(tmp_path / "kitti")


def reader(root, **settings) -> KITTI:
    return KITTI(str(root), **{"min_side": 20.0, "val_percent": 20.0, "label_seed": 0, **settings})


def label_of(root, record):
    row = int(record.key.split("#")[1].removesuffix(".png"))
    return next(label for label in read_labels(root / f"training/label_2/{record.image.stem}.txt") if label.row == row)


def box_corners(label) -> torch.Tensor:
    """Corners of a car in camera coordinates in the way of KITTI's devkit: x forward, z to its left, y down."""
    size = torch.tensor([label.length, label.height, label.width], dtype=torch.float64)
    along, down, left = (CORNERS * size - torch.tensor([0.0, label.height / 2, 0.0])).unbind(-1)
    cos, sin = math.cos(label.rotation_y), math.sin(label.rotation_y)
    turned = torch.stack((cos * along + sin * left, down, -sin * along + cos * left), -1)
    return turned + torch.tensor(label.location, dtype=torch.float64)


def own_corners(label, unit: float) -> torch.Tensor:
    """The same corners in the object frame of this package (x to the left, y to the back, z up), CAD units."""
    forward, down, left = (CORNERS * torch.tensor([label.length, label.height, label.width])).unbind(-1)
    return torch.stack((left, -forward, -down), -1) / unit


def pixels(record, label, unit: float) -> torch.Tensor:
    camera = Camera(
        torch.tensor([record.distance], dtype=torch.float64),
        torch.tensor([record.focal_px], dtype=torch.float64),
        torch.tensor([record.principal], dtype=torch.float64),
        torch.full((1, 4), math.nan, dtype=torch.float64),
    )
    rotation = rotation_from_viewpoint(torch.tensor([record.viewpoint], dtype=torch.float64))
    return project(own_corners(label, unit), rotation, camera)[0, :, :2]


def stored(record, turned: torch.Tensor) -> torch.Tensor:
    """Pixels of the turned picture as pixels of the stored one."""
    matrix = torch.tensor([*record.warp, 1.0], dtype=torch.float64).reshape(3, 3)
    mapped = torch.cat((turned, torch.ones_like(turned[:, :1])), -1) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def test_the_published_sample(kitti):
    """Numbers computed apart from this code: azimuth 174.188, elevation +2.59 (NeMo has the sign wrong), its pixel."""
    (kitti / "training/label_2/000000.txt").write_text(SAMPLE + "\n")
    (kitti / "training/calib/000000.txt").write_text(SAMPLE_P2 + "\n")
    record = next(r for r in reader(kitti).read(kitti) if r.key == "training/image_2/000000#0.png")
    assert degrees(record.viewpoint) == pytest.approx((174.188, 2.59, 0), abs=0.01)
    assert record.principal == pytest.approx((677.549, 205.689), abs=0.01)
    scale = 600 * record.distance / record.focal_px
    assert scale == pytest.approx(5.406, abs=0.01)  # NeMo's distance / 6.4; its distance is to the underside


def test_every_corner_of_a_turned_picture_is_where_kittis_own_projection_has_it(kitti):
    """An independent path through rotation_y, P2 and the homography: azimuth, elevation, scale and warp at once."""
    records = reader(kitti, rectify=True, metres_per_unit=4.46, max_truncation=1.0).read(kitti)
    assert len(records) == 33
    projection = read_projection(kitti / "training/calib/000000.txt")
    for record in records:
        label = label_of(kitti, record)
        image = box_corners(label) @ projection[:, :3].T + projection[:, 3]
        expected = image[:, :2] / image[:, 2:]
        assert stored(record, pixels(record, label, 4.46)) == pytest.approx(expected, abs=0.02)


def test_without_turning_only_cars_near_the_middle_agree(kitti):
    projection = read_projection(kitti / "training/calib/000000.txt")
    worst = {}
    for record in reader(kitti, metres_per_unit=0).read(kitti):
        label = label_of(kitti, record)
        image = box_corners(label) @ projection[:, :3].T + projection[:, 3]
        unit = math.hypot(label.length, label.width, label.height)
        gap = (pixels(record, label, unit) - image[:, :2] / image[:, 2:]).abs().max().item()
        worst.setdefault(label.location[0], []).append(gap)
    assert max(worst[1.5]) < 2 < max(worst[-3.0]) < 12  # pixels; cars are about 70 wide


def test_filters_lists_and_groups(kitti):
    data = reader(kitti)
    with pytest.warns(UserWarning, match=r"1 listed frames that are not there, the first: 000006"):
        records = data.read(kitti)
    assert [sum(r.part == part for r in records) for part in ("train", "val", "test")] == [12, 2, 8]
    counts = {name: sum(r.occlusion == name for r in records) for name in {r.occlusion for r in records}}
    assert {r.group for r in records} == {""}  # cars that are hidden alike are no one car
    assert counts == {"fully visible": 11, "partly occluded": 5, "largely occluded": 6}
    reasons = {reason: len(ids) for reason, ids in data.left_out.items()}
    assert reasons == {
        "listed frames that are not there": 1,
        "of occlusion level 3 (unknown)": 11,
        "truncated by 20% or more": 11,
        "not more than 20 pixels high or wide": 11,
    }
    assert {r.occlusion for r in reader(kitti, occlusion=[1]).read(kitti)} == {"partly occluded"}
    assert {r.category for r in reader(kitti, category="van").read(kitti)} == {"van"}
    assert {r.part for r in data.read(kitti, test_only=True)} == {"test"}
    shutil.copy(kitti / "ImageSets/train.txt", kitti / "ImageSets/all.txt")
    assert {r.part for r in reader(kitti, train_list="", test_list="all").read(kitti)} == {"test"}
    with pytest.raises(ConfigError, match="levels 0 to 3"):
        reader(kitti, occlusion=[4])


def test_a_finished_model_is_tested_on_a_set_without_labels(kitti):
    shutil.copy(kitti / "ImageSets/val.txt", kitti / "ImageSets/all.txt")
    data = reader(kitti, train_list="", test_list="all", rectify=True)
    data.setup("test")
    assert (len(data.labelled), len(data.pool), len(data.test)) == (0, 0, 8)
    assert next(iter(data.test_dataloader()))["image"].shape == (8, 3, 160, 384)
    with pytest.raises(DataError, match="7 labels were asked for"):
        reader(kitti, train_list="", test_list="all").setup("fit")


def test_crops_know_where_the_turned_picture_ends(kitti):
    record = next(r for r in reader(kitti, rectify=True, max_truncation=1.0).read(kitti) if r.key.endswith("0#4.png"))
    crop, camera = canonical_crop(record.image, record, CropSpec())
    x1, _, x2, _ = camera.frame[0].tolist()
    empty = (crop == torch.tensor([124, 116, 104])[:, None, None]).all(0).all(0).nonzero().ravel()
    assert 0 < x1 < 200 and x2 > 384  # the car is left of the middle
    assert len(empty) == pytest.approx(x1, abs=12)  # the edge is slanted in the turned picture


def test_bad_folders_are_explained(kitti):
    data, labels = reader(kitti), kitti / "training/label_2/000001.txt"
    whole = labels.read_text()
    for bad, message in (
        (whole.replace("Car", "Cat"), r"000001.txt:1: expected a type and 14 numbers"),
        (whole[:100], r"000001.txt:2: expected a type|000001.txt:1: expected"),
        (whole.replace("Car 0.00 0", "Car 0.00 7", 1), r"000001.txt:1: occlusion level 7"),
        (whole.replace("1.65", "nan", 1), r"000001.txt:1: a value is not finite"),
        (whole.replace("1.50", "0.00", 1), r"000001.txt:1: size or depth is not positive"),
    ):
        labels.write_text(bad)
        with pytest.raises(DataError, match=message):
            data.read(kitti)
    labels.write_text(whole)
    calib = kitti / "training/calib/000001.txt"
    for bad in ("", "P2: 1 2 3", "P2: 0 0 0 0 0 0 0 0 0 0 0 0"):
        calib.write_text(bad)
        with pytest.raises(DataError, match=r"calib/000001.txt"):
            data.read(kitti)
    with pytest.warns(UserWarning, match="1 damaged ones are skipped"):
        assert len(reader(kitti, damaged="skip").read(kitti)) == 20
    shutil.rmtree(kitti / "training/image_2")
    with pytest.raises(DataError, match="holds none of the listed frames"):
        data.read(kitti)
    shutil.rmtree(kitti / "ImageSets")
    with pytest.raises(DataError, match=r"train.txt does not exist; the lists"):
        data.read(kitti)


def test_the_real_frames(shared_data):
    """Cuboids of the cars' own size at the labels' poses fill the labels' boxes."""
    root = shared_data("kitti")
    assert len(KITTI(str(root)).read(root)) == 15
    data = KITTI(str(root), min_side=40, max_truncation=0.01, occlusion=[0], metres_per_unit=4.46, rectify=True)
    shares = []
    for record in data.read(root):
        label = label_of(root, record)
        uv = stored(record, pixels(record, label, 4.46))
        (ax, ay), (bx, by) = uv.amin(0).tolist(), uv.amax(0).tolist()
        x1, y1, x2, y2 = label.box
        common = max(0.0, min(bx, x2) - max(ax, x1)) * max(0.0, min(by, y2) - max(ay, y1))
        shares.append(common / ((bx - ax) * (by - ay) + (x2 - x1) * (y2 - y1) - common))
    assert len(shares) == 39
    assert sum(shares) / len(shares) > 0.94 and min(shares) > 0.75
