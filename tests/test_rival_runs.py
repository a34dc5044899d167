"""The rival methods run through by the command line: fit with its final test, validate, test, predict."""

import json
import sys
from pathlib import Path

import pytest

from nvsm_lightning.cli import lightning_cli
from nvsm_lightning.toy.dataset import make_toy

sys.path.insert(0, str(Path(__file__).parent / "cli"))
from small_run import write_pictures

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
METHODS = sorted({path.stem for path in (CONFIGS / "methods").glob("*.yaml")} - {"nemo", "nvsm"})
QUICK = ("nearest", "res50_specific", "starmap")  # one of each kind
SMALL = """
data:
  init_args:
    {labels: 5, epoch_images: 16, batch_size: 8, pool_limit: 12, crop: {height: 64, width: 128, pixels_per_unit: 100}}
model:
  init_args:
    backbone: {name: small, weights: none, frozen: []}
    mesh: {vertices: 100}
trainer:
  max_epochs: 1
  check_val_every_n_epoch: 1
  precision: 32-true
  accelerator: cpu
  logger: [{class_path: nvsm_lightning.report.trackers.RunCSVLogger, init_args: {save_dir: .}}]
report: {overlays: 2, width: 96}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny embedded set, pictures with a pose CSV, and the settings that make a run small."""
    folder = tmp_path_factory.mktemp("rivals")
    make_toy(folder / "toy", train=20, test=4, size=(70, 100), progress=False)
    write_pictures(folder / "csv", 6)
    (folder / "small.yaml").write_text(SMALL)
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_fit_validate_test_predict(method, place, tmp_path, capsys):
    files = [CONFIGS / "car_7shot.yaml", CONFIGS / "datasets" / "toy.yaml", CONFIGS / "methods" / f"{method}.yaml"]
    words = [word for file in (*files, place / "small.yaml") for word in ("--config", str(file))]
    run = tmp_path / "run"
    lightning_cli.run(["fit", *words, "--data.root", str(place / "toy"), "--run_dir", str(run)])
    assert f"{method.title().replace('_', '').replace('Starmap', 'StarMap')} has no settings" in capsys.readouterr().out
    fitted = results(run)
    assert (fitted["method"], fitted["n_labels"], fitted["n_images"], fitted["em_rounds"]) == (method, 5, 4, 0)
    assert (run / "media" / "worst.png").exists()

    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    lightning_cli.run(["test", *saved, "--run_dir", str(tmp_path / "test")])
    assert results(tmp_path / "test")["mean_err_deg"] == pytest.approx(fitted["mean_err_deg"], abs=1e-4)
    lightning_cli.run(["validate", *saved, "--run_dir", str(tmp_path / "validate")])
    assert "val/acc_pi_6" in (tmp_path / "validate" / "metrics.csv").read_text()
    lightning_cli.run(["predict", *saved, "--run_dir", str(tmp_path / "predict"), "--data.folder", str(place / "csv")])
    predictions = json.loads((tmp_path / "predict" / "predictions.json").read_text())["predictions"]
    assert len(predictions) == 6 and all(0 <= row["azimuth_deg"] < 360 for row in predictions)
    capsys.readouterr()


def test_a_trunk_that_ends_where_its_weight_file_did_is_tested_without_the_file(place, tmp_path):
    """The checkpoint knows that there was no layer4."""
    import torch
    import torchvision

    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith(("layer4", "fc"))}, tmp_path / "w.pt")
    files = (CONFIGS / "car_7shot.yaml", CONFIGS / "methods" / "res50_specific.yaml", place / "small.yaml")
    words = [word for file in files for word in ("--config", str(file))]
    words += ["--model.backbone.name", "resnet18", "--model.backbone.weights", str(tmp_path / "w.pt")]
    words += ["--model.backbone.last", "auto"]
    run = tmp_path / "run"
    lightning_cli.run(["fit", *words, "--data.root", str(place / "toy"), "--run_dir", str(run)])
    (tmp_path / "w.pt").unlink()
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    lightning_cli.run(["test", *saved, "--run_dir", str(tmp_path / "test")])
    assert results(tmp_path / "test")["mean_err_deg"] == pytest.approx(results(run)["mean_err_deg"], abs=1e-4)
