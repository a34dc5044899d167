import math

import numpy as np
import pytest
from layouts import degrees, viewpoint_struct
from published_layouts import item, write_objectnet, write_record

from nvsm_lightning.data import ObjectNet3D
from nvsm_lightning.errors import DataError

FIRST = "Annotations/n02818832_0.mat"


@pytest.fixture
def objectnet(tmp_path):
    return write_objectnet(tmp_path / "ObjectNet3D")


def test_objects_of_one_category_lists_and_coarse_angles(objectnet):
    data = ObjectNet3D(str(objectnet), category="bed")
    records = data.read(objectnet)
    assert [sum(r.part == part for r in records) for part in ("train", "val", "test")] == [8, 1, 4]
    assert {r.category for r in records} == {"bed"}
    assert {reason: len(ids) for reason, ids in data.left_out.items()} == {
        "without a viewpoint": 3,
        "without a usable camera (distance or focal length 0, or no fine viewpoint)": 3,
    }
    second = {r.key: r for r in records}["Images/n02818833_1#2.JPEG"]  # of two beds in the picture
    assert degrees(second.viewpoint) == pytest.approx((45, 10, 5)) and second.focal_px == 3000
    assert second.image.name == "n02818833_1.JPEG"
    fine = ObjectNet3D(str(objectnet), category="bed", coarse=False).read(objectnet)
    assert len(fine) == 10 and {r.part for r in data.read(objectnet, test_only=True)} == {"test"}
    easy = ObjectNet3D(str(objectnet), category="chair", difficult=False)
    with pytest.raises(DataError, match="no usable picture of category 'chair'"):
        easy.read(objectnet)
    assert {r.category for r in ObjectNet3D(str(objectnet), category="all").read(objectnet)} == {"bed", "chair"}


def test_without_a_distance_the_box_is_the_camera(objectnet):
    rough = viewpoint_struct(azimuth=0.0, elevation=0.0, theta=0.0, distance=0.0, azimuth_coarse=90.0)
    boxed = item("bed", viewpoint=rough, bbox=np.array([[-3.0, 6.0, 66.0, 44.0]]))
    write_record(objectnet / FIRST, [boxed])
    record = ObjectNet3D(str(objectnet), category="bed").read(objectnet)[0]
    assert record.viewpoint == pytest.approx((math.pi / 2, math.radians(10), 0))
    assert not record.has_camera and record.box == (0, 6, 64, 44)  # cut to the picture
    write_record(objectnet / FIRST, [boxed | {"bbox": np.zeros((0, 0))}])
    assert len(ObjectNet3D(str(objectnet), category="bed").read(objectnet)) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"viewpoint": "front"}, "object 1: viewpoint is no struct"),
        ({"viewpoint": viewpoint_struct(px="left")}, "object 1: px is 'left' and no number"),
        ({"viewpoint": viewpoint_struct(px=np.arange(3.0))}, "object 1: px has 3 numbers"),
        ({"viewpoint": viewpoint_struct(distance=1e9)}, "distance 1e.09 makes no sense"),
        ({"viewpoint": viewpoint_struct(elevation=100.0)}, "elevation 100.0 degrees is outside"),
        ({"viewpoint": viewpoint_struct(azimuth=1e7)}, None),
        ({"class": 3.0}, "class is 3.* and no text"),
        ({"class": ""}, "object 1 has no class"),
        ({"cad_index": 2.5}, "cad_index is 2.5"),
        ({"bbox": np.arange(3.0)}, "bbox has 3 numbers, not four"),
        ({"truncated": np.nan}, "truncated is nan"),
    ],
)
def test_fields_of_a_wrong_kind_are_named(objectnet, changes, message):
    write_record(objectnet / FIRST, [item("bed", **{"viewpoint": viewpoint_struct(), **changes})])
    data = ObjectNet3D(str(objectnet), category="bed")
    if message is None:  # a turn is a turn
        assert len(data.read(objectnet)) == 13
        return
    with pytest.raises(DataError, match=message):
        data.read(objectnet)


def test_bad_lists(objectnet):
    val = objectnet / "Image_sets/val.txt"
    val.write_text("n02818832_0\n")
    with pytest.raises(DataError, match=r"'n02818832_0' is in both the train and the val list"):
        ObjectNet3D(str(objectnet), category="bed").read(objectnet)
    val.unlink()
    with pytest.raises(DataError, match=r"val.txt does not exist; --data.root must be the folder of ObjectNet3D"):
        ObjectNet3D(str(objectnet), category="bed").read(objectnet)
