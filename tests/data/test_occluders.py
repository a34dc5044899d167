"""Cut-outs from YOLO polygons and from RGBA pictures."""

import numpy as np
import pytest
from PIL import Image

from nvsm_lightning.data.occluders import COCO, excluded_for, read_occluders
from nvsm_lightning.errors import DataError

SQUARE = "{} 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


@pytest.fixture
def yolo(tmp_path):
    """A picture of 200 x 200, red in the middle, with the given rows of labels; another label file has no picture."""

    def make(*rows: str):
        for name in ("images/a", "labels/a"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        colours = np.zeros((200, 200, 3), np.uint8)
        colours[:, :, 2] = 255
        colours[50:150, 50:150] = (255, 0, 0)
        Image.fromarray(colours).save(tmp_path / "images/a/1.png")
        (tmp_path / "labels/a/1.txt").write_text("".join(rows))
        (tmp_path / "labels/a/2.txt").write_text(SQUARE.format(0))
        return tmp_path

    return make


def test_a_polygon_is_cut_out_without_a_rim_of_its_background(yolo):
    (cut,), left = read_occluders(yolo(SQUARE.format(COCO.index("dog"))))
    assert cut.label == "dog" and cut.source == "labels/a/1.txt:1"
    assert cut.rgba.shape[:2] == (98, 98)  # 100, one pixel in from each side
    assert (cut.rgba[..., :3] == (255, 0, 0)).all() and (cut.rgba[..., 3] > 127).all()
    assert left == ["labels/a/2.txt:1: its picture 2.jpg is not there"]


def test_what_is_left_out_is_said(yolo):
    dog, car, person = (COCO.index(name) for name in ("dog", "car", "person"))
    small = f"{dog} 0.4 0.4 0.5 0.4 0.5 0.5\n"
    border = f"{person} 0 0.2 0.5 0.2 0.5 0.8\n"
    slender = f"{dog} 0.2 0.2 0.8 0.21 0.8 0.22\n"
    rows = (SQUARE.format(dog), SQUARE.format(car), small, border, slender)
    cuts, left = read_occluders(yolo(*rows), excluded_for("car"))
    assert [cut.label for cut in cuts] == ["dog"]
    reasons = {line.split(": ")[0]: line.split(": ")[1] for line in left}
    assert "border" in reasons["labels/a/1.txt:4"]
    assert all("smaller" in reasons[f"labels/a/1.txt:{line}"] for line in (3, 5))
    assert "car may not occlude" in reasons["labels/a/1.txt:2"]


def test_class_names_may_be_given(yolo):
    folder = yolo(SQUARE.format(1))
    (folder / "data.yaml").write_text("names: {0: tree, 1: fence}\n")
    assert read_occluders(folder)[0][0].label == "fence"


@pytest.mark.parametrize("row", ["99 0.1 0.1 0.9 0.1 0.9 0.9", "0 0.1 0.1 0.9", "dog 0.1 0.1 0.9 0.1 0.9 0.9"])
def test_a_row_that_is_no_polygon_is_an_error_with_its_place(yolo, row):
    with pytest.raises(DataError, match=r"1\.txt:2"):
        read_occluders(yolo(SQUARE.format(0), row + "\n"))


def test_rgba_pictures_are_trimmed_and_classed_by_their_folder(tmp_path):
    (tmp_path / "bush").mkdir()
    colours = np.zeros((150, 200, 4), np.uint8)
    colours[20:120, 30:150] = (0, 255, 0, 255)
    Image.fromarray(colours).save(tmp_path / "bush/1.png")
    Image.fromarray(colours[..., :3]).save(tmp_path / "bush/2.png")  # no alpha
    (tmp_path / "bush/3.png").write_bytes(b"damaged")
    (cut,), left = read_occluders(tmp_path)
    assert cut.label == "bush" and cut.rgba.shape == (100, 120, 4) and (cut.rgba == (0, 255, 0, 255)).all()
    assert [line.split(":")[0] for line in left] == ["bush/2.png", "bush/3.png"]
    with pytest.raises(DataError, match="no usable occluder"):
        read_occluders(tmp_path, ["Bush"])


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="--occluders"):
        read_occluders(tmp_path / "absent")


def test_the_real_occluders_hold_no_cars_for_cars(shared_data):
    cuts, left = read_occluders(shared_data("occluders"), excluded_for("car"))
    labels = {cut.label for cut in cuts}
    assert len(cuts) > 200 and not labels & {"car", "truck", "bus"} and "person" in labels
    assert len(cuts) + len(left) == 941  # rows of labels; 12 of them belong to two pictures that are absent
