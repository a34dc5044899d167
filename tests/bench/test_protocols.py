"""Occlusion, unseen views, KITTI and categories: benches over stand-in fits and tests, and once over real ones."""

import csv
import json
import math
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from nvsm_lightning.bench import few_shot, finished, kitti, localise, occlusion, study, unseen_views
from nvsm_lightning.bench.few_shot import read_categories
from nvsm_lightning.bench.split_tables import MEAN, WEIGHTED, split_row
from nvsm_lightning.bench.unseen_views import is_seen
from nvsm_lightning.cli import bench, lightning_cli, prepare
from nvsm_lightning.data import CropSpec
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.toy.dataset import make_toy

sys.path.insert(0, str(Path(__file__).parent))
from fake_runs import fake_fit  # noqa: F401

WORDS = ["--seeds", "1", "--config", "configs/car_7shot.yaml", "--data.root", "somewhere"]


@pytest.fixture(autouse=True)
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def value(rows: list[dict], **wanted: str) -> float:
    (row,) = [row for row in rows if all(row[name] == word for name, word in wanted.items())]
    return float(row["mean"])


# ---------------------------------------------------------------------- occlusion


def occluded_folder(folder: Path, cars=(8, 9, 10)) -> Path:
    for level in occlusion.LEVELS:
        (folder / level).mkdir(parents=True)
        (folder / level / "occlusion.json").write_text("{}")
        lines = [f"images/car_{car:02d}/{frame}.jpg,car_{car:02d}/{frame}.jpg" for car in cars for frame in range(40)]
        (folder / level / "labels.csv").write_text("\n".join(["file,source", *lines]))
    return folder


def maps(run: Path, test: Path) -> dict[str, float] | None:
    if "nemo" not in str(run):
        return None
    shares = {"occluder_iou": 0.5, "occluder_iou_all_hidden": 0.3, "seen_as_hidden": 10.0, "hidden_as_hidden": 70.0}
    return {**shares, "n_occluded": 120}


def test_occlusion_tests_each_fit_on_each_level_and_a_second_bench_takes_its_fits(fake_fit, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(occlusion, "localise", maps)
    out = tmp_path / "out"
    shared = [*WORDS, "--labels", "7", "--methods", "nemo,nearest"]
    words = [*shared, "--occluded", str(occluded_folder(tmp_path / "occluded"))]
    assert occlusion.run([*words, "--out", str(out)]) == 0
    rows = rows_of(out / "table.csv")
    values = {level: value(rows, method="nemo", metric="acc_pi_6", part=level) for level in ("L0", "L1", "L2", "L3")}
    assert values["L0"] > values["L1"] > values["L2"] > values["L3"]
    mean = value(rows, method="nemo", metric="acc_pi_6", part=MEAN)
    assert mean == pytest.approx(sum(values.values()) / 4, abs=1e-3)
    assert value(rows, method="StarMap, published", metric="acc_pi_6", part="L3") == 22.9
    text = (out / "table.md").read_text()
    nemo, nearest = (next(line for line in text.splitlines() if f"| {name} |" in line) for name in ("nemo", "nearest"))
    assert nemo.endswith("| 50.0 | 50.0 | 50.0 |")
    assert nearest.endswith("| - | - | - |")
    assert [row["level"] for row in rows_of(out / "occluders.csv")] == ["L1", "L2", "L3"]
    assert all(min(Image.open(out / f"{name}.png").size) > 100 for name in ("table", "occluders"))
    occlusion.run([*words, "--runs", str(out / "fits"), "--out", str(tmp_path / "again")])
    assert not list((tmp_path / "again" / "fits").rglob("results.json")), "the fits are those of --runs"
    assert rows_of(tmp_path / "again" / "table.csv") == rows
    before = {path: path.stat().st_mtime_ns for path in out.rglob("results.json")}
    occlusion.run([*words, "--out", str(out)])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("results.json")} == before


def test_occluded_pictures_of_other_data_are_refused(fake_fit, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(occlusion, "localise", maps)
    words = [*WORDS, "--labels", "7", "--methods", "nemo", "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="give --occluders"):
        occlusion.run(words)
    assert not (tmp_path / "out").exists(), "it is said before the first fit"
    folder = occluded_folder(tmp_path / "occluded", cars=(7, 8))
    with pytest.raises(DataError, match=r"car_07/0.jpg is not in the test part"):
        occlusion.run([*words, "--occluded", str(folder)])


def test_two_runs_of_one_job_are_not_guessed_between(fake_fit, tmp_path):  # noqa: F811
    words = [*WORDS, "--labels", "7", "--methods", "nemo"]
    few_shot.run([*words, "--out", str(tmp_path / "runs" / "a")])
    assert few_shot.run([*words, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "b")]) == 0
    assert not list((tmp_path / "b").rglob("log.txt"))
    made = next((tmp_path / "runs" / "a").rglob("results.json")).parent
    for aside in (made / "labelled_only", made.with_name(f"{made.name}_replaced_2026-01-01_00-00-00")):
        shutil.copytree(made, aside)
    assert few_shot.run([*words, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "b2")]) == 0
    few_shot.run([*words, "--out", str(tmp_path / "runs" / "c")])
    with pytest.raises(ConfigError, match="move one of them away"):
        few_shot.run([*words, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "d")])
    with pytest.raises(ConfigError, match="no folder"):
        few_shot.run([*words, "--runs", str(tmp_path / "gone"), "--out", str(tmp_path / "d")])
    told = json.loads((made / "results.json").read_text())
    (made / "results.json").write_text(json.dumps(told | {"part": "val"}))
    two = [*WORDS, "--labels", "7", "--methods", "nemo,nvsm"]
    with pytest.raises(ConfigError, match=r"different parts.*on test, .*on val"):
        few_shot.run([*two, "--runs", str(tmp_path / "runs" / "a"), "--out", str(tmp_path / "e")])


# ---------------------------------------------------------------------- unseen views


def test_fronts_and_rears_are_seen_and_edges_are_in_neither():
    assert [is_seen(azimuth) for azimuth in (1, 44, 46, 134, 136, 224, 226, 314, 316, 359, -1, 361)] == [
        True, True, False, False, True, True, False, False, True, True, True, True,
    ]  # fmt: skip
    assert {is_seen(azimuth) for azimuth in range(0, 405, 45)} == {None}


def test_unseen_views_train_on_seen_labels_and_report_both(fake_fit, tmp_path, monkeypatch):  # noqa: F811
    root = tmp_path / "cars"
    root.mkdir()
    lines = ["file,azimuth_deg,elevation_deg,theta_deg,split"]
    for number, azimuth in enumerate(range(5, 360, 10)):
        Image.new("RGB", (40, 20)).save(root / f"{number}.jpg")
        lines.append(f"{number}.jpg,{azimuth},5,0,{'test' if number % 6 == 5 else 'train'}")
    (root / "labels.csv").write_text("\n".join(lines))
    words = ["--config", "configs/car_7shot.yaml", "--config", "configs/datasets/csv.yaml", "--data.root", str(root)]
    words += ["--methods", "nemo", "--seeds", "2", "--out", str(tmp_path / "out")]
    assert unseen_views.run(words, bench.check_fit) == 0
    (listed,) = (tmp_path / "out" / "labels").glob("*.txt")
    azimuths = [5 + 10 * int(key.removesuffix(".jpg")) for key in listed.read_text().split()]
    expected = [a for n, a in enumerate(range(5, 360, 10)) if n % 6 != 5 and is_seen(a)]
    assert azimuths == [azimuth for azimuth in expected if azimuth % 45]
    (run, *_) = (tmp_path / "out" / "fits").glob("nemo/*")
    job = json.loads((run / "job.json").read_text())["arguments"]
    assert job[job.index("--data.label_list") + 1] == str(listed)
    assert job[job.index("--data.labels") + 1] == str(len(azimuths))
    rows = rows_of(tmp_path / "out" / "table.csv")
    counts = {row["part"]: int(row["pictures"]) for row in rows if row["method"] == "nemo"}
    shown = [is_seen(9 * frame + 1) for frame in range(40)]
    assert counts == {"seen": 3 * shown.count(True), "unseen": 3 * shown.count(False)}
    assert value(rows, method="Res50-General, published", metric="acc_pi_6", part="unseen") == 37.2
    with pytest.raises(ConfigError, match="eight letters"):
        unseen_views.run([*words, "--seen", "TTTT"], bench.check_fit)


# ---------------------------------------------------------------------- KITTI


def test_kitti_has_levels_by_labels_and_the_weighted_mean(fake_fit, tmp_path):  # noqa: F811
    runs = tmp_path / "runs"
    few_shot.run([*WORDS, "--labels", "7,20", "--methods", "nemo", "--out", str(runs)])
    words = ["--runs", str(runs), "--data.root", "frames", "--out", str(tmp_path / "kitti")]
    assert kitti.run(words) == 0
    rows = rows_of(tmp_path / "kitti" / "table.csv")
    own = {"method": "nemo, fitted on epfl_cars", "labels": "7", "metric": "acc_pi_6"}
    levels = [(value(rows, part=level, **own), count) for level, count in zip(kitti.LEVELS, (42, 39, 39), strict=True)]
    weighted = sum(number * count for number, count in levels) / 120
    assert value(rows, part=WEIGHTED, **own) == pytest.approx(weighted, abs=1e-3)
    lines = (tmp_path / "kitti" / "table.md").read_text().splitlines()
    heads = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert heads[2:5] == ["fully, 7", "fully, 20", "fully, 50"]
    nvsm = next(line for line in lines if "ACC pi/6 | NVSM, published" in line)
    assert (
        nvsm == "| ACC pi/6 | NVSM, published | 84.2 | 94.6 | 97.6 | 68.2 | 88.6 | 92.5 | 52.2 | 60.9 | 63.8 | 86.1 |"
    )
    job = next((tmp_path / "kitti").rglob("job.json"))
    arguments = json.loads(job.read_text())["arguments"]
    configs = [after for word, after in pairwise(arguments) if word == "--config"]
    assert configs[1] == "configs/datasets/kitti.yaml", "after that of the fit, so that it wins"


def test_kitti_means_are_over_the_numbers_of_labels_that_all_methods_have(fake_fit, tmp_path):  # noqa: F811
    runs = [tmp_path / name for name in ("both", "seven")]
    few_shot.run([*WORDS, "--labels", "7,20", "--methods", "nemo", "--out", str(runs[0])])
    few_shot.run([*WORDS, "--labels", "7", "--methods", "nvsm", "--out", str(runs[1])])
    words = ["--runs", ",".join(map(str, runs)), "--data.root", "frames", "--out", str(tmp_path / "kitti")]
    assert kitti.run(words) == 0
    own = {"method": "nemo, fitted on epfl_cars", "metric": "acc_pi_6", "part": WEIGHTED}
    seven, twenty = (value(rows_of(tmp_path / "kitti" / "table.csv"), labels=count, **own) for count in ("7", "20"))
    assert seven != pytest.approx(twenty), "else the test could not fail"
    lines = (tmp_path / "kitti" / "table.md").read_text().splitlines()
    line = next(line for line in lines if line.startswith("| ACC pi/6 | nemo"))
    assert float(line.strip("| ").split("|")[-1]) == pytest.approx(seven, abs=0.06)


# ---------------------------------------------------------------------- categories


def test_categories_are_models_of_their_own_with_both_means(fake_fit, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    words = [*WORDS, "--labels", "7", "--methods", "nemo,nvsm", "--categories", "bus,car", "--out", str(out)]
    few_shot.run(words)
    names = sorted(path.parent.relative_to(out / "fits").as_posix() for path in out.rglob("results.json"))
    assert names[:2] == ["labels_07/nemo/bus/seed_0", "labels_07/nemo/car/seed_0"]
    assert "2 categories, each with a model of its own" in (out / "table.md").read_text()
    both = next(row for row in rows_of(out / "table.csv") if row["method"] == "nvsm")
    assert both["pictures"] == "240", "pictures of two categories that have one name are two"
    rows = rows_of(out / "by_category.csv")
    own = {"method": "nvsm", "metric": "acc_pi_6"}
    bus, car = (value(rows, part=part, **own) for part in ("bus", "car"))
    assert value(rows, part=MEAN, **own) == pytest.approx((bus + car) / 2, abs=1e-3)
    assert float(both["acc_pi_6_mean"]) == pytest.approx((bus + car) / 2, abs=1e-3)
    with pytest.raises(ConfigError, match="do not go together"):
        few_shot.run([*words, "--folds", "configs/folds/epfl_cars.yaml"])


def test_the_two_means_differ_where_parts_do():
    many = {(0, 0, f"a{number}"): 1.0 for number in range(30)}
    few = {(0, 0, f"b{number}"): 90.0 for number in range(10)}
    row = split_row("7", "nemo", {"a": many, "b": few, "empty": {}}, (0,))
    assert row.cells["acc_pi_6", MEAN].mean == 50
    assert row.cells["acc_pi_6", WEIGHTED].mean == 75
    assert row.cells["med_err_deg", WEIGHTED].mean == pytest.approx((30 * 1 + 10 * 90) / 40)
    assert ("acc_pi_6", "empty") not in row.cells


def test_categories_have_options_of_their_own(tmp_path):
    (tmp_path / "some.yaml").write_text("bus: [--data.crop.height=320]\ncar: []\n")
    assert read_categories(str(tmp_path / "some.yaml")) == {
        "bus": ("--data.category", "bus", "--data.crop.height=320"),
        "car": ("--data.category", "car"),
    }
    (tmp_path / "some.yaml").write_text("- bus\n")
    with pytest.raises(ConfigError, match="expected lines"):
        read_categories(str(tmp_path / "some.yaml"))


# ---------------------------------------------------------------------- real fits


def test_an_occlusion_bench_over_real_fits(tmp_path, monkeypatch):
    """Embedded pictures, a random network; the fits run in this process to save the time of importing."""
    make_toy(tmp_path / "toy", train=12, test=3, size=(70, 100), progress=False)
    (tmp_path / "occluders").mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGBA", (60, 40 + 20 * number), colour).save(tmp_path / "occluders" / f"{number}.png")
    (tmp_path / "nemo.yaml").write_text(
        "data: {init_args: {epoch_images: 8, batch_size: 4, pool_limit: 8,"
        " crop: {height: 64, width: 128, pixels_per_unit: 100}}}\n"
        "model: {class_path: NeMo, init_args: {backbone: {name: small, weights: none, frozen: [], dim: 16},"
        " mesh: {vertices: 60}, space: {azimuths: 8}, solver: {steps: 1}}}\n"
        "trainer: {max_epochs: 1, precision: 32-true, accelerator: cpu, em: {rounds: 0},"
        " logger: [{class_path: nvsm_lightning.report.trackers.RunCSVLogger, init_args: {save_dir: .}}]}\n"
        "report: {overlays: 0}\n"
    )

    def run_here(jobs, folder, parallel):
        for job in jobs:
            lightning_cli.run([job.command, *job.arguments, "--run_dir", str(folder / job.name)])
        return {job.name: json.loads((folder / job.name / "results.json").read_text()) for job in jobs}

    for module in (study, finished):
        monkeypatch.setattr(module, "run_jobs", run_here)
    monkeypatch.setattr(occlusion, "nvsm", prepare.run)
    out = tmp_path / "out"
    words = ["--config", "configs/car_7shot.yaml", "--data.root", str(tmp_path / "toy"), "--seeds", "1"]
    words += ["--methods", str(tmp_path / "nemo.yaml"), "--labels", "3", "--levels", "L1,L3"]
    occlusion.run([*words, "--occluders", str(tmp_path / "occluders"), "--out", str(out)], bench.check_fit)
    rows = rows_of(out / "table.csv")
    assert value(rows, method="nemo", metric="mean_err_deg", part="L3") > 0
    lines = rows_of(out / "occluders.csv")
    assert [(row["level"], float(row["n_occluded"])) for row in lines] == [("L1", 3), ("L3", 3)]
    assert all(0 <= float(row["occluder_iou"]) <= 1 for row in lines)
    share = [float(row["occluder_iou_all_hidden"]) for row in lines]
    assert share[0] < share[1], "the more is hidden, the nearer comes calling everything hidden"

    test = out / "tests" / "labels_03" / "nemo" / "seed_0" / "L1"
    config = yaml.safe_load((test / "config.yaml").read_text())
    told, poses = rows_of(test / "tables" / "predictions.csv"), localise.predicted(test)
    angles = [math.radians(float(told[0][f"{name}_deg"])) for name in ("azimuth", "elevation", "theta")]
    assert poses[told[0]["key"]][:3] == pytest.approx(angles, abs=1e-5)

    run = out / "fits" / "labels_03" / "nemo" / "seed_0"
    model = localise.load_method(run / "checkpoints" / "last.ckpt").model
    stored = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(model.bank.vertex, stored["model.bank.vertex"])
    crop = CropSpec(**config["data"]["init_args"]["crop"])
    _, hidden, region = localise._maps(model, localise._test_records(config), poses, list(poses), crop)
    shares = {row["file"]: float(row["object_share"]) for row in rows_of(out / "occluded" / "L1" / "labels.csv")}
    seen = (hidden & region).sum((1, 2)) / region.sum((1, 2))
    assert seen.tolist() == pytest.approx([shares[key] for key in poses], abs=0.1)  # masks are cropped as pictures are
    assert config["data"]["init_args"]["test_root"] == str(out / "occluded" / "L1")
