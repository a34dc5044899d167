"""The command line's own behaviour, on the smallest method there is."""

import csv
import json
import math

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from small_run import MeanPose, write_pictures

import nvsm_lightning.data  # noqa: F401 - class_path: PoseCSV
from nvsm_lightning.cli import lightning_cli, main
from nvsm_lightning.cli.lightning_cli import option_value, run_command, split_arguments
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.errors import ConfigError, DataError, WeightsError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures and a configuration."""
    folder = tmp_path_factory.mktemp("cli")
    write_pictures(folder / "pictures")
    config = {
        "model": {"class_path": "MeanPose"},
        "data": {
            "class_path": "PoseCSV",
            "init_args": {
                "root": str(folder / "pictures"), "labels": 5, "epoch_images": 32, "crop": {"height": 32, "width": 64},
            },
        },
        "trainer": {"max_epochs": 2, "logger": [{"class_path": "nvsm_lightning.report.trackers.RunCSVLogger",
                                                 "init_args": {"save_dir": "."}}]},
        "report": {"overlays": 2, "width": 96},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def nvsm(place, *words):
    return run_command([words[0], "--config", str(place / "config.yaml"), *words[1:]], MeanPose, PoseData, Trainer)


@pytest.fixture(scope="module")
def fitted(place):
    """The run folder of a finished fit."""
    nvsm(place, "fit", "--run_dir", str(place / "run"), "--seed_everything", "3", "--data.labels", "6")
    return place / "run"


def test_a_fit_leaves_the_whole_run_folder(fitted):
    names = {str(path.relative_to(fitted)) for path in fitted.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml", "checkpoints/last.ckpt", "metrics.csv", "results.json", "tables/results.csv",
        "tables/results.md",
        "tables/predictions.csv", "tables/labels.txt", "media/worst.png", "media/median.png", "media/best.png",
    }  # fmt: skip


def test_results_hold_what_the_design_asks_for(fitted):
    results = json.loads((fitted / "results.json").read_text())
    assert {
        "acc_pi_6", "acc_pi_18", "med_err_deg", "mean_err_deg", "flip_180_rate", "n_images", "n_labels", "seed",
        "dataset",
        "method", "seconds_per_image", "git_commit", "azimuth_mae_deg", "azimuth_median_deg",
    } <= set(results)  # fmt: skip
    assert (results["n_labels"], results["seed"], results["n_images"]) == (6, 3, 8)
    assert (results["dataset"], results["method"]) == ("csv", "mean_pose")
    assert set(results["baselines"]) == {"prior_only", "random"}
    with (fitted / "tables" / "results.csv").open() as file:
        line = next(csv.DictReader(file))
    legacy = pytest.approx(results["med_err_deg"] / math.sqrt(2), rel=1e-3)
    assert results["med_err_deg_legacy_sqrt2"] == legacy and float(line["med_err_deg_legacy_sqrt2"]) == legacy


def test_predictions_table_agrees_with_the_results(fitted):
    with (fitted / "tables" / "predictions.csv").open() as file:
        errors = [float(row["error_deg"]) for row in csv.DictReader(file)]
    results = json.loads((fitted / "results.json").read_text())
    assert sum(errors) / len(errors) == pytest.approx(results["mean_err_deg"], abs=1e-3)


def test_the_saved_configuration_repeats_the_run_elsewhere(fitted, place):
    saved = yaml.safe_load((fitted / "config.yaml").read_text())
    assert saved["run_dir"] is None
    assert saved["trainer"]["default_root_dir"] is None
    run_command(
        ["fit", "--config", str(fitted / "config.yaml"), "--run_dir", str(place / "again")], MeanPose, PoseData, Trainer
    )
    first, second = (json.loads((place / name / "results.json").read_text()) for name in ("run", "again"))
    assert first["mean_err_deg"] == second["mean_err_deg"]


def test_test_of_the_checkpoint_gives_the_numbers_of_the_fit(fitted, place):
    words = ["test", "--config", str(fitted / "config.yaml"), "--ckpt_path", str(fitted / "checkpoints" / "last.ckpt")]
    before = (fitted / "results.json").read_text()
    cli = run_command(words, MeanPose, PoseData, Trainer)
    assert cli.run_folder.parent == fitted
    assert (fitted / "results.json").read_text() == before
    first, second = json.loads(before), json.loads((cli.run_folder / "results.json").read_text())
    assert first["acc_pi_6"] == second["acc_pi_6"]
    assert first["mean_err_deg"] == second["mean_err_deg"]


def test_predict_writes_poses_and_pictures_and_lists_what_it_skips(fitted, place, tmp_path):
    write_pictures(tmp_path / "mine", 3)
    (tmp_path / "mine" / "01.jpg").write_bytes(b"broken")
    cli = nvsm(
        place,
        "predict",
        "--ckpt_path",
        str(fitted / "checkpoints" / "last.ckpt"),
        "--data.folder",
        str(tmp_path / "mine"),
    )
    content = json.loads((cli.run_folder / "predictions.json").read_text())
    assert [row["file"] for row in content["predictions"]] == ["00.jpg", "02.jpg"]
    told = [content["predictions"][0][f"{name}_deg"] for name in ("azimuth", "elevation", "theta")]
    assert told == pytest.approx(torch.rad2deg(cli.model.pose.detach()).tolist(), abs=2e-3)
    assert [row["file"] for row in content["skipped"]] == ["01.jpg"]
    assert sorted(path.name for path in (cli.run_folder / "media").iterdir()) == ["00.jpg.png", "02.jpg.png"]


def test_a_fit_resumes_in_its_own_folder_and_keeps_its_metrics(place, tmp_path):
    run = tmp_path / "run"
    nvsm(place, "fit", "--run_dir", str(run), "--trainer.max_epochs", "1", "--test_after_fit", "false")
    cli = nvsm(place, "fit", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "3")
    assert cli.run_folder == run
    with (run / "metrics.csv").open() as file:
        validated = [row["epoch"] for row in csv.DictReader(file) if row["val/loss"]]
    assert validated == ["0", "1", "2"]
    assert yaml.safe_load((run / "config_first.yaml").read_text())["trainer"]["max_epochs"] == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] is None, "what starts from it is another fit"


def test_a_few_labels_and_a_folder_of_pictures_are_enough_for_a_fit(place, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(lightning_cli, "rank_zero_info", said.append)
    with (write_pictures(tmp_path) / "labels.csv").open() as file:
        rows = list(csv.reader(file))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(row[:-1] for row in rows[:6])  # five labels, no split
    run = tmp_path / "run"
    words = ("--data.root", str(tmp_path), "--data.unlabelled", str(tmp_path), "--trainer.max_epochs", "1")
    cli = nvsm(place, "fit", "--run_dir", str(run), *words)
    assert len(cli.datamodule.labelled) == 5 and len(cli.datamodule.pool) == 19
    assert (run / "checkpoints" / "last.ckpt").is_file() and not (run / "results.json").exists()
    assert [text for text in said if "No picture is there to test it on" in text]


def test_a_new_fit_in_an_old_folder_leaves_nothing_of_the_old_one(place, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "matches_round_07.csv").touch()
    (tmp_path / "results.json").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "em.ckpt").write_text("em")
    (tmp_path / "checkpoints" / "last.ckpt").write_text("old")  # a resumed fit must not take it for its own
    quiet = ("--test_after_fit", "false", "--trainer.enable_progress_bar", "false")
    cli = nvsm(place, "fit", "--run_dir", str(tmp_path), "--trainer.max_epochs", "1", *quiet)
    assert cli.trainer.progress_bar_callback is None
    assert not (tmp_path / "tables" / "matches_round_07.csv").exists()
    assert not (tmp_path / "results.json").exists()
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "checkpoints" / "previous.ckpt").read_text() == "old"
    assert not (tmp_path / "checkpoints" / "em.ckpt").exists()
    assert (tmp_path / "checkpoints" / "previous_em.ckpt").read_text() == "em"


def test_a_fit_that_cannot_begin_takes_nothing_from_the_folder(place, tmp_path):
    (tmp_path / "results.json").write_text("old")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "em.ckpt").write_text("old")
    with pytest.raises(DataError):
        nvsm(place, "fit", "--run_dir", str(tmp_path), "--data.root", str(tmp_path / "nowhere"))
    assert (tmp_path / "results.json").read_text() == (tmp_path / "checkpoints" / "em.ckpt").read_text() == "old"


def test_a_file_that_speaks_of_another_method_does_not_stop_a_test(fitted, place, tmp_path):
    """kitti.yaml has settings of NeMo's model, and any method may be tested on KITTI: the checkpoint's own count."""
    other = tmp_path / "other.yaml"
    other.write_text("model: {init_args: {space: {azimuths: 36}}}\nreport: {overlays: 0}\n")
    words = ["--config", str(other), "--ckpt_path", str(fitted / "checkpoints" / "last.ckpt")]
    cli = nvsm(place, "test", *words, "--run_dir", str(tmp_path / "tested"))
    assert isinstance(cli.model, MeanPose) and not list((tmp_path / "tested").glob("media/*"))


def test_ctrl_c_in_a_fit_says_how_to_go_on(place, tmp_path, monkeypatch, capsys):
    def interrupt(self, *batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(MeanPose, "training_step", interrupt)
    monkeypatch.setattr(main, "dispatch", lambda words: nvsm(place, *words))
    assert main.main(["fit", "--run_dir", str(tmp_path)]) == 130
    assert "goes on from <run>/checkpoints/last.ckpt" in capsys.readouterr().err


def test_the_checkpoint_decides_the_architecture_and_options_the_rest(fitted, place):
    checkpoint = place / "other" / "checkpoints" / "last.ckpt"
    nvsm(place, "fit", "--run_dir", str(place / "other"), "--model.backbone.dim", "16", "--test_after_fit", "false")
    cli = nvsm(place, "test", "--ckpt_path", str(checkpoint), "--model.lr", "0.5", "--run_dir", str(place / "tested"))
    assert cli.model.backbone.dim == 16
    assert cli.model.lr == 0.5
    named = place / "named.yaml"
    named.write_text(f"ckpt_path: {checkpoint}\n")  # in a file as on the command line
    assert nvsm(place, "test", "--config", str(named), "--run_dir", str(place / "again")).model.backbone.dim == 16


def test_a_fit_takes_the_user_at_his_word_and_says_when_the_checkpoint_does_not_fit(fitted, place):
    words = (
        "--ckpt_path",
        str(fitted / "checkpoints" / "last.ckpt"),
        "--model.backbone.dim",
        "16",
        "--run_dir",
        str(place / "no"),
    )
    with pytest.raises(WeightsError, match=r"last\.ckpt does not fit .* size mismatch for trunk.weight"):
        nvsm(place, "fit", *words)


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_of_another_category_is_refused(command, fitted, place, tmp_path):
    words = (
        "--ckpt_path",
        str(fitted / "checkpoints" / "last.ckpt"),
        "--data.category",
        "bus",
        "--run_dir",
        str(tmp_path),
    )
    with pytest.raises(ConfigError, match="trained for category 'car', but the data is of category 'bus'"):
        nvsm(place, command, *words)


def test_a_picture_given_as_configuration_is_named(place, tmp_path):
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigError, match=r"picture\.yaml is no text file"):
        nvsm(place, "fit", "--config", str(tmp_path / "picture.yaml"))


def test_commands_on_a_trained_model_ask_for_it(place, tmp_path):
    with pytest.raises(ConfigError, match="--ckpt_path"):
        nvsm(place, "test", "--run_dir", str(tmp_path))


def test_a_command_that_cannot_begin_leaves_no_empty_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        nvsm(place, "fit", "--data.root", "nowhere")
    with pytest.raises(ConfigError):
        nvsm(place, "fit", "--model.lr", "-1")
    assert not list(tmp_path.iterdir())


def test_own_errors_come_through_parser_and_trainer_unharmed(place, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        nvsm(place, "fit", "--data.root", "nowhere", "--run_dir", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^lr must be positive; got -1.0\.$"):
        nvsm(place, "fit", "--model.lr", "-1", "--run_dir", str(tmp_path))


def test_a_last_epoch_that_would_not_be_saved_is_refused(place, tmp_path):
    """What the fit tests would be in no file."""
    words = ("fit", "--run_dir", str(tmp_path / "run"), "--checkpoint.every_n_epochs", "2", "--trainer.max_epochs")
    with pytest.raises(ConfigError, match="every_n_epochs 2: the last of 3 epochs would not be saved"):
        nvsm(place, *words, "3")
    assert not (tmp_path / "run").exists()
    cli = nvsm(place, *words, "2", "--test_after_fit", "false")
    assert (cli.run_folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model.backbone.dimm", "3"), "Did you mean 'backbone.dim'?"),
        (("--trainer.max_epoch", "3"), "Did you mean 'trainer.max_epochs'?"),
        (("--data.lables", "3"), "Did you mean 'labels'?"),
        (("--data.lables", "3"), "All settings: nvsm fit --data.help PoseCSV"),
        (("--labels", "3"), "Did you mean 'data.labels'?"),
        (("--last_share", "0.9"), "Did you mean 'model.selection.last_share'?"),
        (("--seed", "3"), "Did you mean 'seed_everything'?"),
        (("--model.lr", "x"), "Expected a <class 'float'>. Got value: x"),
        (("--config", "nothere.yaml"), "File does not exist"),
    ],
)
def test_a_wrong_setting_is_refused_in_two_lines_with_a_suggestion(place, words, message, capsys):
    with pytest.raises(SystemExit) as status:
        nvsm(place, "fit", *words)
    error = capsys.readouterr().err
    assert status.value.code == 2
    assert message in error
    assert error.startswith("nvsm: error: ")
    assert len(error.splitlines()) <= 3


def test_a_wrong_key_in_a_file_is_refused_with_a_suggestion(place, tmp_path, capsys):
    (tmp_path / "typo.yaml").write_text("model:\n  init_args:\n    backbon:\n      dim: 3\n")
    with pytest.raises(SystemExit):
        nvsm(place, "fit", "--config", str(tmp_path / "typo.yaml"))
    assert "Did you mean" in capsys.readouterr().err


def test_later_files_win_over_earlier_ones_and_options_over_files(place, tmp_path):
    (tmp_path / "a.yaml").write_text("model:\n  init_args:\n    lr: 0.25\n    backbone:\n      dim: 16\n")
    words = ("fit", "--model.lr", "0.5", "--config", str(tmp_path / "a.yaml"), "--run_dir", str(tmp_path / "run"))
    cli = nvsm(place, *words, "--trainer.fast_dev_run", "true")
    assert (cli.model.lr, cli.model.backbone.dim) == (0.5, 16)


def test_arguments_are_split_into_files_and_options():
    words = ["fit", "--a", "1", "-c", "x.yaml", "--config=y.yaml", "--b=2", "--print_config"]
    assert split_arguments(words) == ("fit", ["x.yaml", "y.yaml"], ["--a", "1", "--b=2", "--print_config"])


def test_the_last_value_of_an_option_counts():
    assert option_value(["--ckpt_path", "a", "--ckpt_path=b"], "ckpt_path") == "b"
    assert option_value(["--other", "a"], "ckpt_path") is None


def test_checkpoints_load_without_running_code(fitted):
    torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
