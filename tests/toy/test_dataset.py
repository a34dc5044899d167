"""The embedded set: deterministic, in the PASCAL3D+ layout, labels true to the pictures, never half made."""

import math
import os
import time

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat

from nvsm_lightning.data.pascal3d import Pascal3D
from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.meshes import cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.toy import dataset
from nvsm_lightning.toy.dataset import make_other, make_toy
from nvsm_lightning.toy.scene import Realism

SMALL = Realism(width=200, height=140, distance=(18.0, 30.0))


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "toy"
    make_toy(root, train=4, test=2, realism=SMALL, progress=False)
    return root


def test_same_seed_same_bytes_whatever_the_order(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    make_toy(tmp_path / "again", train=4, test=2, realism=SMALL, progress=False)
    first, again = files(toy), files(tmp_path / "again")
    assert first.keys() == again.keys()
    pictures = [name for name in first if name.suffix == ".JPEG"]
    assert len(pictures) == 6 and all(first[name] == again[name] for name in pictures)


def test_another_seed_gives_other_pictures(toy, tmp_path):
    make_toy(tmp_path / "other", seed=1, train=1, test=0, realism=SMALL, progress=False)
    name = "Images/car_imagenet/synthtr_0000.JPEG"
    assert (toy / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_layout_reads_back_as_the_release_does(toy):
    train, val = ((toy / f"Image_sets/car_imagenet_{part}.txt").read_text().split() for part in ("train", "val"))
    assert len(train) == 4 and len(val) == 2 and not set(train) & set(val)
    for key in train + val:
        record = loadmat(toy / f"Annotations/car_imagenet/{key}.mat")["record"]
        with Image.open(toy / "Images/car_imagenet" / record["filename"][0, 0][0]) as picture:
            assert picture.size == tuple(record["imgsize"][0, 0][0, :2])
        thing = record["objects"][0, 0]
        assert thing["class"][0, 0][0] == "car" and thing["cad_index"][0, 0][0, 0] == 1
        viewpoint = thing["viewpoint"][0, 0]
        assert 0 <= viewpoint["azimuth"][0, 0][0, 0] < 360
        assert viewpoint["focal"][0, 0][0, 0] * viewpoint["viewport"][0, 0][0, 0] == 3000
        x1, y1, x2, y2 = thing["bbox"][0, 0][0]
        assert 0 <= x1 < x2 <= picture.width and 0 <= y1 < y2 <= picture.height
        status = thing["anchors"][0, 0]["left_front_wheel"][0, 0]["status"][0, 0][0, 0]
        assert status in (1, 2)
    lines = (toy / "CAD/car/01.off").read_text().splitlines()
    vertices, faces, _ = map(int, lines[1].split())
    assert lines[0] == "OFF" and len(lines) == 2 + vertices + faces
    assert "SYNTHETIC" in (toy / "README.txt").read_text()


def test_second_call_does_nothing_and_other_settings_replace(toy, tmp_path):
    root = tmp_path / "toy"
    make_toy(root, train=1, test=0, realism=SMALL, progress=False)
    stamp = (root / "toy.json").stat().st_mtime_ns
    make_toy(root, train=1, test=0, realism=SMALL, progress=False)
    assert (root / "toy.json").stat().st_mtime_ns == stamp
    make_toy(root, train=2, test=0, realism=SMALL, progress=False)
    assert len(list((root / "Images/car_imagenet").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch, interruption):
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) > 1:
            raise interruption

    monkeypatch.setattr(dataset, "write_sample", fail)
    with pytest.raises(DataError if isinstance(interruption, OSError) else KeyboardInterrupt):
        make_toy(tmp_path / "toy", train=3, test=1, realism=SMALL, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_labels_are_those_of_the_pictures(toy):
    records = {record.image.stem: record for record in Pascal3D(str(toy), val_percent=0).read(toy)}
    for part, index in (("train", 2), ("test", 1)):
        sample = dataset.make_sample(dataset._generator(0, part, index), dataset.make_car, SMALL)
        record = records[f"synth{part[:2]}_{index:04d}"]
        assert record.viewpoint == pytest.approx(sample.viewpoint, abs=1e-6)
        assert (record.distance, *record.principal) == pytest.approx((sample.distance, *sample.principal), abs=1e-6)
        assert record.box == pytest.approx(tuple(sample.box), abs=1e-6)


def test_an_interrupted_run_stops_at_once(tmp_path, monkeypatch):
    begun = []

    def fail(*_):
        begun.append(1)
        time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "make_sample", fail)
    with pytest.raises(KeyboardInterrupt):
        make_toy(tmp_path / "toy", train=5000, test=1, realism=SMALL, progress=False)
    assert len(begun) < 2500


def test_a_damaged_manifest_means_making_it_again(tmp_path):
    make_toy(tmp_path / "toy", train=1, test=0, realism=SMALL, progress=False)
    (tmp_path / "toy/toy.json").write_text("{half")
    make_toy(tmp_path / "toy", train=1, test=0, realism=SMALL, progress=False)
    assert (tmp_path / "toy/toy.json").read_text().startswith("{\n")


def test_a_strangers_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="not an embedded set"):
        make_toy(tmp_path, train=1, test=0, realism=SMALL, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_train_and_test_shapes_differ():
    """Every picture's shape comes from its own stream; the streams of the parts are different for equal and unequal
    indices.
    """
    states = {
        str(dataset._generator(seed, part, k).bit_generator.state["state"])
        for seed in (0, 1)
        for part in ("train", "test", "other")
        for k in range(50)
    }
    assert len(states) == 300


def test_others_come_with_their_cuboid_and_no_cars():
    families = ("chair", "boat", "aeroplane", "quadruped", "desk", "solid03")
    samples = list(
        make_other(6, families=families, realism=Realism(width=200, height=140, distance=(20.0, 30.0), truncated=0.0))
    )
    assert tuple(sample.family for sample in samples) == families
    for sample in samples:
        uv = project(
            cuboid(sample.low, sample.high, 50).vertices, rotation_from_viewpoint(sample.viewpoint)[None], sample.camera
        )[0]
        height, width = sample.image.shape[:2]
        assert (
            -60 < uv[:, 0].min() < uv[:, 0].max() < width + 60 and -60 < uv[:, 1].min() < uv[:, 1].max() < height + 60
        )
        assert math.isclose(np.linalg.norm(np.subtract(sample.high, sample.low)), 1, rel_tol=1e-5)
    assert isinstance(samples[0].camera, Camera) and samples[0].viewpoint.dtype == torch.float32
    with pytest.raises(DataError, match="unicorn"):
        next(make_other(1, families=("unicorn",)))
