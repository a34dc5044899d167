"""The shipped configurations run through: fit with its final test, test, predict; pictures and networks cut down."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from PIL import Image

from nvsm_lightning.cli import lightning_cli
from nvsm_lightning.cli.main import main
from nvsm_lightning.toy.dataset import make_toy

sys.path.insert(0, str(Path(__file__).parent / "cli"))
from small_run import write_pictures

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = """
data:
  init_args:
    {labels: 5, epoch_images: 16, batch_size: 8, pool_limit: 12, crop: {height: 64, width: 128, pixels_per_unit: 100}}
model:
  init_args:
    backbone: {name: small, weights: none, frozen: [], dim: 32}
    mesh: {vertices: 100}
    space: {azimuths: 12}
    solver: {steps: 2}
    milestones: []
trainer:
  max_epochs: 2
  precision: 32-true
  accelerator: cpu
  em: {epochs_per_round: 1, warmup_epochs: 0, restarts: []}
  logger: [{class_path: nvsm_lightning.report.trackers.RunCSVLogger, init_args: {save_dir: .}}]
report: {overlays: 2, width: 96}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny embedded set, pictures with a pose CSV, and the settings that make a run small."""
    folder = tmp_path_factory.mktemp("runs")
    make_toy(folder / "toy", train=20, test=4, size=(70, 100), progress=False)
    write_pictures(folder / "csv")
    (folder / "small.yaml").write_text(SMALL)
    return folder


def nvsm(place: Path, command: str, *words: str, files: tuple[str, ...] = ()) -> None:
    shipped = [word for name in ("car_7shot", *files) for word in ("--config", str(CONFIGS / f"{name}.yaml"))]
    # The gates of the E-step are opened: what a random network matches is no matter here.
    gates = () if "methods/nemo" in files else ("--model.selection.ring_deg", "180")
    lightning_cli.run([command, *shipped, "--config", str(place / "small.yaml"), *gates, *words])


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(
    ("data", "method", "rounds"),
    [("toy", "nvsm", 2), ("toy", "nemo", 0), ("pascal3d", "nvsm", 1), ("csv", "nvsm", 1), ("csv", "nemo", 0)],
)
def test_fit_test_predict(data, method, rounds, place, tmp_path):
    root = str(place / ("csv" if data == "csv" else "toy"))
    files = (f"datasets/{data}", f"methods/{method}")
    run = tmp_path / "run"
    words = ("--data.root", root, "--trainer.em.rounds", str(rounds))
    nvsm(place, "fit", *words, "--run_dir", str(run), files=files)
    fitted = results(run)
    assert (fitted["method"], fitted["n_labels"], fitted["em_rounds"]) == (method, 5, rounds)
    assert fitted["synthetic"] == (data == "toy")
    assert len(list((run / "tables").glob("matches_round_*.csv"))) == rounds

    checkpoint = str(run / "checkpoints" / "last.ckpt")
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", checkpoint]
    lightning_cli.run(["test", *saved, "--run_dir", str(tmp_path / "test")])
    tested = results(tmp_path / "test")
    assert tested["mean_err_deg"] == pytest.approx(fitted["mean_err_deg"], abs=1e-4)
    assert tested["posterior"]["temperature"] == fitted["posterior"]["temperature"]  # it comes with the checkpoint
    assert tested["posterior"]["space"] == "SO(3)"

    lightning_cli.run(["predict", *saved, "--run_dir", str(tmp_path / "predict"), "--data.folder", str(place / "csv")])
    predictions = json.loads((tmp_path / "predict" / "predictions.json").read_text())["predictions"]
    assert len(predictions) == 24
    assert all(0 <= row["azimuth_deg"] < 360 for row in predictions)
    with (tmp_path / "predict" / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert all(0 <= float(row["flip_mass"]) <= 1 and float(row["mode_mass"]) <= 1 and row["entropy"] for row in table)
    assert [row["file"] for row in table] == [row["file"] for row in predictions]
    assert [float(row["azimuth_deg"]) for row in table] == pytest.approx([row["azimuth_deg"] for row in predictions])
    pictures = sorted((tmp_path / "predict" / "media").glob("*.png"))
    assert len(pictures) == 24
    with Image.open(pictures[0]) as picture:
        assert picture.width > 96, "a rose stands beside the overlay"


def test_weights_and_biases_gets_panels_and_numbers_without_account_or_network(place, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:1")
    loggers = "[{class_path: nvsm_lightning.report.trackers.RunWandbLogger, init_args: {save_dir: .}}]"
    words = ("--data.root", str(place / "toy"), "--trainer.em.rounds", "2", "--trainer.logger", loggers)
    nvsm(place, "fit", *words, "--run_dir", str(tmp_path / "run"))
    wandb.finish()  # as the end of the process does
    [record] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    pictures = {path.name.rsplit("_", 2)[0] for path in record.parent.glob("files/media/images/em/*.png")}
    assert pictures == {"gates", "matches", "features", "azimuth"}
    assert len(list(record.parent.glob("files/media/images/em/*.png"))) == 2 * len(pictures)
    deadline = time.monotonic() + 30
    while b"test/acc_pi_6" not in (told := record.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)  # another process writes
    for key in (b"em/kept", b"em/precision_30", b"train/loss", b"test/acc_pi_6"):
        assert key in told, key


def test_a_fit_with_a_moving_average_is_tested_saved_and_resumed_with_it(place, tmp_path):
    words = ("--data.root", str(place / "toy"), "--trainer.em.rounds", "2", "--trainer.em.keep_rounds", "true")

    def fit(name: str, epochs: int) -> Path:
        run = ("--trainer.max_epochs", str(epochs), "--run_dir", str(tmp_path / name))
        nvsm(place, "fit", *words, *run, files=("options/ema",))
        return tmp_path / name

    whole, part = fit("whole", 3), fit("part", 2)
    saved = ["--config", str(part / "config.yaml"), "--ckpt_path", str(part / "checkpoints" / "last.ckpt")]
    lightning_cli.run(["test", *saved, "--run_dir", str(tmp_path / "test")])
    assert results(tmp_path / "test")["mean_err_deg"] == pytest.approx(results(part)["mean_err_deg"], abs=1e-4)
    lightning_cli.run(["fit", *saved, "--trainer.max_epochs", "3"])
    predictions = "tables/predictions.csv"
    assert (part / predictions).read_text() == (whole / predictions).read_text()
    assert results(part)["mean_err_deg"] != results(tmp_path / "test")["mean_err_deg"]


def test_one_command_makes_the_embedded_set_it_needs(place, tmp_path, monkeypatch):
    asked = []

    def make(root):
        asked.append(root)
        make_toy(root, train=20, test=4, size=(70, 100), progress=False)

    monkeypatch.setattr("nvsm_lightning.toy.dataset.make_toy", make)
    root = tmp_path / "new" / "toy"
    nvsm(place, "fit", "--data.root", str(root), "--run_dir", str(tmp_path / "run"), "--trainer.em.rounds", "1")
    assert asked == [root]
    assert results(tmp_path / "run")["n_images"] == 4


def test_another_folder_becomes_the_test_part(place, tmp_path):
    make_toy(tmp_path / "others", seed=5, train=6, test=3, size=(70, 100), progress=False)
    words = (
        "--data.root",
        str(place / "toy"),
        "--data.test_root",
        str(tmp_path / "others"),
        "--trainer.em.rounds",
        "1",
    )
    nvsm(place, "fit", *words, "--run_dir", str(tmp_path / "run"))
    assert results(tmp_path / "run")["n_images"] == 9


def test_a_truncated_picture_of_the_pool_is_skipped_counted_and_listed(tmp_path, place):
    root = write_pictures(tmp_path / "csv")
    rows = list(csv.DictReader((root / "labels.csv").open()))
    for row in rows[:12]:  # no angles: the pool
        if row["split"] == "train":
            row.update(azimuth_deg="", elevation_deg="", theta_deg="")
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (root / "00.jpg").write_bytes((root / "00.jpg").read_bytes()[:700])
    words = ("--data.root", str(root), "--data.labels", "4", "--trainer.em.rounds", "1")
    words = (*words, "--run_dir", str(tmp_path / "run"))
    nvsm(place, "fit", *words, files=("datasets/csv",))
    assert results(tmp_path / "run")["n_skipped"] == 1
    listed = list(csv.DictReader((tmp_path / "run" / "tables" / "skipped.csv").open()))
    assert [row["key"] for row in listed] == ["00.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data.root", "nowhere"), "'nowhere' does not exist"),
        (("--data.labels", "9"), "9 labels were asked for, but the train part has only 8"),
        (("--model.backbone.name", "resnet18", "--model.backbone.weights", "{weights}"), "are not of a resnet18"),
        (("--model.backbone.weights", "gone.pt"), "No weight file at gone.pt"),
    ],
)
def test_bad_input_gives_one_clear_line(words, message, place, tmp_path, capsys):
    import torch

    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "w.pt")
    shipped = ["car_7shot", "datasets/csv"]
    arguments = [part for name in shipped for part in ("--config", str(CONFIGS / f"{name}.yaml"))]
    arguments += ["--config", str(place / "small.yaml"), "--data.root", str(place / "csv")]
    arguments += ["--run_dir", str(tmp_path / "run"), "--trainer.em.rounds", "1"]
    arguments += [word.format(weights=tmp_path / "w.pt") for word in words]
    assert main(["fit", *arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nvsm: error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def wait(process, event):
    while not event() and process.poll() is None:
        time.sleep(0.02)


def test_a_killed_fit_resumes_to_the_same_numbers(place, tmp_path):
    """Killed outright in the middle of round 2, resumed from the checkpoint that is there, against a fit left alone."""
    words = ("--data.root", str(place / "toy"), "--trainer.em.rounds", "3", "--trainer.em.epochs_per_round", "3")
    words = (*words, "--trainer.max_epochs", "9", "--data.epoch_images", "64")
    nvsm(place, "fit", *words, "--run_dir", str(tmp_path / "whole"))
    killed = tmp_path / "killed"
    files = [str(CONFIGS / "car_7shot.yaml"), str(place / "small.yaml")]
    command = [sys.executable, "-m", "nvsm_lightning", "fit", *(part for file in files for part in ("--config", file))]
    command += ["--model.selection.ring_deg", "180", *words, "--run_dir", str(killed)]
    checkpoint = killed / "checkpoints" / "last.ckpt"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)) as fit:
        wait(fit, lambda: (killed / "tables" / "matches_round_01.csv").exists())
        matched = checkpoint.stat().st_mtime_ns
        # One epoch of the round more: the resumed fit begins inside an M-step, with no E-step before it.
        wait(fit, lambda: checkpoint.exists() and checkpoint.stat().st_mtime_ns > matched)
        fit.kill()
    assert checkpoint.exists() and not (killed / "results.json").exists()
    lightning_cli.run(["fit", "--config", str(killed / "config.yaml"), "--ckpt_path", str(checkpoint)])
    for name in ("mean_err_deg", "med_err_deg", "acc_pi_6", "acc_pi_18"):
        assert results(killed)[name] == results(tmp_path / "whole")[name]
    matches = "tables/matches_round_02.csv"
    assert (killed / matches).read_text() == (tmp_path / "whole" / matches).read_text()
