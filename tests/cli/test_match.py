"""``nvsm match`` from the command line, on rendered cars and a network cut down to seconds."""

import csv
import json

import pytest
import torch
import yaml
from PIL import Image

from nvsm_lightning.cli import lightning_cli, match
from nvsm_lightning.cli.match import find_checkpoints, one_list_of_checkpoints
from nvsm_lightning.errors import ConfigError, WeightsError
from nvsm_lightning.toy.dataset import make_toy


@pytest.fixture(scope="module")
def place(tmp_path_factory, repository):
    """A tiny embedded set and the settings that make a run small; returns (folder, words of the configuration)."""
    folder = tmp_path_factory.mktemp("match")
    make_toy(folder / "toy", train=20, test=4, size=(70, 100), progress=False)
    small = {
        "data": {"init_args": {"root": str(folder / "toy"), "labels": 3, "epoch_images": 8, "batch_size": 8,
                               "crop": {"height": 64, "width": 128, "pixels_per_unit": 100}}},
        "model": {"init_args": {"backbone": {"name": "small", "weights": "none", "frozen": [], "dim": 16},
                                "mesh": {"vertices": 100}, "space": {"azimuths": 8}, "solver": {"steps": 1},
                                "match": {"steps": 0}, "selection": {"ring_deg": 180, "min_score": -2}}},
        "trainer": {"max_epochs": 2, "precision": "32-true", "accelerator": "cpu",
                    "em": {"rounds": 2, "epochs_per_round": 1, "warmup_epochs": 0, "keep_rounds": True},
                    "logger": [{"class_path": "nvsm_lightning.report.trackers.RunCSVLogger",
                                "init_args": {"save_dir": "."}}]},
        "test_after_fit": False,
    }  # fmt: skip
    (folder / "small.yaml").write_text(yaml.safe_dump(small))
    return folder, ["--config", str(repository / "configs" / "car_7shot.yaml"), "--config", str(folder / "small.yaml")]


@pytest.fixture(scope="module")
def fitted(place):
    """The run folder of a fit that kept its rounds."""
    folder, words = place
    lightning_cli.run(["fit", *words, "--run_dir", str(folder / "run")])
    return folder / "run"


@pytest.fixture(scope="module")
def matched(place, fitted):
    """The run folder of the experiment with all checkpoints of the fit."""
    folder, words = place
    run = folder / "matched"
    settings = ["--anchors", "2", "--azimuths_deg", "[-30,0,30]", "--elevations_deg", "[0,15]", "--thetas_deg", "[]",
                "--top", "2", "--gallery", "1", "--features", "[layer2,project,random]"]  # fmt: skip
    assert match.run(["match", *words, "--ckpt_path", str(fitted), *settings, "--run_dir", str(run)]) == 0
    return run


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_fit_keeps_the_weights_each_round_starts_from(fitted):
    names = sorted(path.name for path in (fitted / "checkpoints").iterdir())
    assert names == ["last.ckpt", "round_00.ckpt", "round_01.ckpt"]
    first, second, last = (torch.load(fitted / "checkpoints" / name, weights_only=True)["state_dict"] for name in
                           ("round_00.ckpt", "round_01.ckpt", "last.ckpt"))  # fmt: skip
    weight = "model.backbone.head.project.weight"
    assert not first[weight].equal(second[weight]) and not second[weight].equal(last[weight])


def test_tables_have_every_contender_and_shift(matched):
    names = {"frozen layer2", "frozen project", "random weights", "round_00 (epoch 0)", "round_01 (epoch 1)",
             "last (epoch 2)"}  # fmt: skip
    lines = rows(matched / "tables" / "matching.csv")
    assert {line["features"] for line in lines} == {*names, "nearest pose in the pool", "any picture"}
    chosen = [(line["angle"], float(line["shift_deg"])) for line in lines if line["features"] == "frozen layer2"]
    assert chosen == [("azimuth", -30), ("azimuth", 0), ("azimuth", 30), ("elevation", 0), ("elevation", 15)]
    matches = rows(matched / "tables" / "matches.csv")
    assert {line["features"] for line in matches} == names
    assert len(matches) == len(names) * 2 * 5 * 2
    assert all(0 <= float(line["error_deg"]) <= 180.01 for line in matches)
    results = json.loads((matched / "results.json").read_text())
    assert results["synthetic"] and results["settings"]["top"] == 2 and len(results["rows"]) == len(lines)
    assert "| random weights |" in (matched / "tables" / "matching.md").read_text()


def test_each_row_says_how_long_it_was_trained(matched):
    errors = {line["features"]: line for line in rows(matched / "tables" / "matching.csv") if line["shift_deg"] == "0"}
    assert errors["round_00 (epoch 0)"]["epochs"] == errors["frozen project"]["epochs"] == "0"
    assert errors["random weights"]["epochs"] == ""


def test_plots_and_galleries_are_drawn(matched):
    names = {path.name for path in (matched / "media").iterdir()}
    galleries = {f"gallery_{name}.png" for name in ("frozen_layer2", "frozen_project", "random_weights", "round_00",
                                                    "round_01", "last")}  # fmt: skip
    assert names == {"error_by_features.png", "error_by_epoch.png", *galleries}
    for name in names:
        with Image.open(matched / "media" / name) as picture:
            assert picture.width > 500 and len(picture.convert("L").resize((50, 50)).getcolors()) > 5


def test_the_other_synthesis_finds_the_same_pictures(place, matched):
    folder, _ = place
    run = folder / "by_map"
    words = ["--config", str(matched / "config.yaml"), "--ckpt_path=[]", "--features", "[project]", "--gallery", "0"]
    match.run(["match", *words, "--synthesis", "map", "--run_dir", str(run)])
    first, second = ([line for line in rows(here / "tables" / "matches.csv") if line["features"] == "frozen project"]
                     for here in (matched, run))  # fmt: skip
    assert [line["picture"] for line in first] == [line["picture"] for line in second]
    for one, other in zip(first, second, strict=True):
        assert float(one["score"]) == pytest.approx(float(other["score"]), abs=3e-6)


@pytest.mark.parametrize("retrieval", ["all", "two_stage"])
def test_cached_features_find_the_same_pictures(place, matched, retrieval):
    """bf16 on disk; of a pool of 17 a short list holds all."""
    folder, words = place
    run = folder / retrieval
    settings = ["--anchors", "2", "--azimuths_deg", "[-30,0,30]", "--elevations_deg", "[0,15]", "--thetas_deg", "[]",
                "--top", "2", "--gallery", "0", "--features", "[project]"]  # fmt: skip
    cache = ["--cache", str(folder / "cache"), "--retrieval", retrieval]
    assert match.run(["match", *words, *settings, *cache, "--run_dir", str(run)]) == 0
    ours, theirs = (rows(path / "tables" / "matches.csv") for path in (run, matched))
    theirs = [line for line in theirs if line["features"] == "frozen project"]
    for one, other in zip(ours, theirs, strict=True):
        assert float(one["score"]) == pytest.approx(float(other["score"]), abs=0.005)
    same = [one["picture"] == other["picture"] for one, other in zip(ours, theirs, strict=True)]
    assert sum(same) >= 0.8 * len(same)
    assert len(list((folder / "cache").glob("*.maps"))) == 1


def test_the_anchors_may_be_those_that_k_means_chooses(place):
    folder, words = place
    settings = ["--anchors", "2", "--azimuths_deg", "[0]", "--elevations_deg", "[]", "--thetas_deg", "[]", "--top", "1",
                "--gallery", "0", "--features", "[project]", "--data.anchors", "kmeans"]  # fmt: skip
    assert match.run(["match", *words, *settings, "--run_dir", str(folder / "kmeans")]) == 0
    lines = rows(folder / "kmeans" / "tables" / "matches.csv")
    assert len({line["anchor"] for line in lines}) == 2


def test_all_ways_of_naming_checkpoints_become_one_list():
    words = ["match", "--ckpt_path", "a", "b", "--config", "c.yaml", "--ckpt_path=d", "--top", "3"]
    assert one_list_of_checkpoints(words) == [
        "match",
        "--config",
        "c.yaml",
        "--top",
        "3",
        '--ckpt_path=["a", "b", "d"]',
    ]
    assert one_list_of_checkpoints(["match", "--top", "3"]) == ["match", "--top", "3"]


def test_folders_stand_for_their_checkpoints_in_order_of_training(tmp_path):
    for name in ("last", "round_01", "round_00"):
        (tmp_path / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "checkpoints" / f"{name}.ckpt").touch()
    found = find_checkpoints([str(tmp_path / "run"), str(tmp_path / "run" / "checkpoints" / "last.ckpt")])
    assert [path.stem for path in found] == ["round_00", "round_01", "last"]
    (tmp_path / "run" / "checkpoints" / "em.ckpt").touch()  # --guard has put other weights into last.ckpt
    assert [path.stem for path in find_checkpoints([str(tmp_path / "run")])] == ["round_00", "round_01", "em"]
    with pytest.raises(WeightsError, match="holds no checkpoints"):
        find_checkpoints([str(tmp_path)])


def test_errors_speak_before_anything_is_computed(place, tmp_path):
    _, words = place
    run = ["--run_dir", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match=r"give --data\.labels 5"):
        match.run(["match", *words, *run, "--anchors", "5"])
    with pytest.raises(WeightsError, match="No checkpoint at"):
        match.run(["match", *words, *run, "--ckpt_path", str(tmp_path / "none.ckpt")])
    with pytest.raises(ConfigError, match="Unknown features"):
        match.run(["match", *words, *run, "--anchors", "2", "--features", "[conv1]"])
