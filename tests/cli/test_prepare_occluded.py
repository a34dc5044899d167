"""``nvsm prepare occluded``: what it writes, and that every data set reads it as its test part."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from small_run import write_pictures

from nvsm_lightning.cli.main import main
from nvsm_lightning.cli.prepare_occluded import object_region
from nvsm_lightning.data import EPFLCars, PoseCSV, ToyCars
from nvsm_lightning.data.occlude import read_masks
from nvsm_lightning.data.record import Record
from nvsm_lightning.geometry.meshes import category_cuboid, cuboid


@pytest.fixture
def occluders(tmp_path):
    folder = tmp_path / "cut" / "ball"
    folder.mkdir(parents=True)
    rows, columns = np.indices((100, 100)) - 49.5
    alpha = np.where(rows**2 + columns**2 < 2500, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack((*[np.full((100, 100), 200, np.uint8)] * 3, alpha))).save(folder / "1.png")
    return tmp_path / "cut"


def words(source, root, occluders, out, *more):
    return ["prepare", "occluded", "--from", source, "--root", str(root), "--occluders", str(occluders), "--out",
            str(out), *more]  # fmt: skip


def test_a_table_without_parts_has_no_test_part_but_can_be_taken_whole(tmp_path, occluders, capsys):
    root, out = tmp_path / "set", tmp_path / "out"
    file = write_pictures(root, 6) / "labels.csv"
    file.write_text("".join(f"{line.rsplit(',', 1)[0]}\n" for line in file.read_text().splitlines()))
    assert main(words("csv", root, occluders, out)) == 2
    assert "no labelled picture in the part 'test'" in capsys.readouterr().err
    assert main(words("csv", root, occluders, out, "--part", "all")) == 0
    assert len(list(out.rglob("*.npz"))) == 6


def test_a_table_of_poses_is_occluded_and_tested_on(tmp_path, occluders, capsys):
    root, out = tmp_path / "set", tmp_path / "out"
    write_pictures(root, 24)
    assert main(words("csv", root, occluders, out, "--level", "L2")) == 0
    assert "FGL2_BGL2: 8 pictures" in capsys.readouterr().out
    data = PoseCSV(root=str(root), labels=7, test_root=str(out))
    data.setup("fit")
    clean = PoseCSV(root=str(root), labels=7)
    clean.setup("fit")
    assert len(data.test) == len(clean.test) == 8
    for before, after in zip(clean.test, data.test, strict=True):
        assert after.viewpoint == pytest.approx(before.viewpoint, abs=1e-6)
        assert (after.distance, after.focal_px, after.principal) == (before.distance, before.focal_px, before.principal)
        assert (after.box, after.group) == (before.box, before.group)
        assert Image.open(after.image).size == Image.open(before.image).size
        occluder, region = read_masks(after.image)
        assert 0.4 <= (occluder & region).sum() / region.sum() <= 0.6
    assert (out / "lists" / "carFGL2_BGL2.txt").read_text().split() == [record.image.stem for record in data.test]
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert {row["region"] for row in rows} == {"cuboid"} and [row["source"] for row in rows] == [
        record.key for record in clean.test
    ]
    assert (out / "sheet.jpg").is_file()


def test_pictures_depend_on_the_seed_and_on_nothing_else(tmp_path, occluders):
    root = tmp_path / "set"
    write_pictures(root, 24)
    for name, more in (("a", ()), ("b", ()), ("few", ("--limit", "3")), ("other", ("--seed", "1"))):
        assert main(words("csv", root, occluders, tmp_path / name, *more)) == 0
    pictures = {name: {f.name: f.read_bytes() for f in (tmp_path / name).rglob("*.JPEG")} for name in ("a", "b")}
    assert pictures["a"] == pictures["b"]
    few = {f.name: f.read_bytes() for f in (tmp_path / "few").rglob("*.JPEG")}
    assert len(few) == 3 and few.items() <= pictures["a"].items()
    other = {f.name: f.read_bytes() for f in (tmp_path / "other").rglob("*.JPEG")}
    assert other.keys() == pictures["a"].keys() and other != pictures["a"]


def test_it_is_made_once_and_never_over_something_else(tmp_path, occluders, capsys):
    root, out = tmp_path / "set", tmp_path / "out"
    write_pictures(root, 24)
    assert main(words("csv", root, occluders, out)) == 0
    assert main(words("csv", root, occluders, out)) == 0
    assert "made already" in capsys.readouterr().out
    assert main(words("csv", root, occluders, out, "--level", "L3")) == 2
    assert "other files" in capsys.readouterr().err
    assert json.loads((out / "occlusion.json").read_text())["settings"]["level"] == "FGL1_BGL1"


def test_the_embedded_set_and_its_folder_names(tmp_path, occluders):
    root, out = tmp_path / "toy", tmp_path / "out"
    assert main(["prepare", "toy", "--root", str(root), "--train", "10", "--test", "3"]) == 0
    assert main(words("toy", root, occluders, out, "--level", "FGL1_BGL2")) == 0
    assert len(list((out / "images" / "carFGL1_BGL2").glob("*.JPEG"))) == 3
    data = ToyCars(root=str(root), labels=3, test_root=str(out))
    data.setup("test")
    assert len(data.test) == 3 and all(record.has_camera for record in data.test)


def test_boxes_without_cameras_stay_so(tmp_path, occluders, shared_data):
    out = tmp_path / "out"
    assert main(words("epfl_cars", shared_data("epfl_cars"), occluders, out, "--limit", "4")) == 0
    data = EPFLCars(root=str(shared_data("epfl_cars")), labels=7, test_root=str(out))
    test = data.read_test(out)
    assert len(test) == 4 and all(record.box and record.distance and not record.has_camera for record in test)
    other = PoseCSV(root="elsewhere", test_root=str(out))  # of a set that labels all angles
    assert not other.azimuth_only and len(other.read_test(out)) == 4 and other.azimuth_only


def test_the_object_of_ones_own_category_is_where_its_cuboid_is(tmp_path, occluders):
    root, out = write_pictures(tmp_path / "set", 12), tmp_path / "out"
    config = {
        "data": {"class_path": "PoseCSV", "init_args": {"root": str(root), "category": "tractor", "labels": 2}},
        "model": {"class_path": "NeMo", "init_args": {"mesh": {"extent": [1.0, 3.0, 0.5]}}},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    given = ["--config", str(tmp_path / "run.yaml"), "--occluders", str(occluders), "--out", str(out)]
    assert main(["prepare", "occluded", *given]) == 0
    notes = json.loads((out / "occlusion.json").read_text())
    assert notes["region"] == {"cuboid": 4} and notes["settings"]["extent"] == [1.0, 3.0, 0.5]
    assert all(read_masks(picture)[1].mean() < 0.7 for picture in out.rglob("*.JPEG"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--from": "stanford"}, "Did you mean 'stanford-cars'?"),
        ({"--level": "L7"}, "L1, L2, L3"),
        ({"--occluders": "/absent"}, "--occluders"),
        ({"--root": ""}, "--root"),
        ({"--mesh": "/absent.off"}, "no mesh file"),
    ],
)
def test_mistakes_are_named(tmp_path, occluders, capsys, change, said):
    root = tmp_path / "set"
    write_pictures(root, 24)
    more = [word for pair in change.items() for word in pair]
    assert main([*words("csv", root, occluders, tmp_path / "out"), *more]) == 2
    assert said in capsys.readouterr().err


def record(**fields) -> Record:
    return Record(image=None, key="a", category="car", part="test", viewpoint=(0.6, 0.2, 0.0), **fields)


def test_the_region_is_what_half_of_the_models_cover_at_the_pictures_own_camera():
    small, large = (cuboid((-s, -s, -s), (s, s, s), 50) for s in (0.1, 0.3))
    own = record(distance=5.0, focal_px=1000.0, principal=(50.0, 40.0))
    areas = [object_region(own, (80, 100), meshes).sum() for meshes in ([small], [small, large], [small, small, large])]
    assert areas[0] == areas[2] < areas[1]
    far = record(distance=10.0, focal_px=1000.0, principal=(50.0, 40.0))
    assert 0.2 < object_region(far, (80, 100), [small]).sum() / areas[0] < 0.3


def test_the_region_of_a_box_touches_its_four_sides_and_is_the_box_without_a_mesh():
    boxed = record(box=(20.0, 10.0, 90.0, 60.0))
    region = object_region(boxed, (80, 100), [category_cuboid("car")])
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    assert (rows[0], rows[-1]) == pytest.approx((10, 59), abs=1)
    assert (columns[0], columns[-1]) == pytest.approx((20, 89), abs=1)
    assert 0.6 < region.sum() / (70 * 50) < 1
    assert object_region(boxed, (80, 100), []).sum() == 70 * 50
    assert object_region(record(), (80, 100), []).all()
