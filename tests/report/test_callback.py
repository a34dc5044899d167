import csv
import json
import math
from types import SimpleNamespace

import pytest
import torch

from nvsm_lightning.data.record import Record, viewpoints
from nvsm_lightning.geometry.cameras import canonical_camera
from nvsm_lightning.geometry.meshes import cuboid
from nvsm_lightning.report.callback import RunReport, snake_case

TRUTH = torch.tensor([[0.0, 0.1, 0.0], [1.0, 0.1, 0.0], [2.0, 0.1, 0.0]])


class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return len(TRUTH)

    def __getitem__(self, index):
        return {"image": torch.rand(3, 40, 60), "camera": canonical_camera(40, 60, 40.0)}


class Recorder:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.metrics, self.pictures = {}, []

    def log_metrics(self, metrics, step):
        self.metrics.update(metrics)

    def log_image(self, key, images, step):
        self.pictures.append(key)


def record(number, group=""):
    return Record(None, f"{number}.jpg", "car", "test", tuple(TRUTH[number].tolist()), group=group)


def report(folder, predicted, groups=("a", "a", "b"), further=None, **attributes):
    """Let the callback see a test of three pictures; returns its results, logger and the trainer."""
    records = [record(number, group) for number, group in enumerate(groups)]
    labels = {"labelled": records[:2], "label_viewpoints": viewpoints(records[:2])}
    data = SimpleNamespace(test=records, pool=[], name="cars", category="car", **labels, **attributes)
    loader = torch.utils.data.DataLoader(Pictures())
    trainer = SimpleNamespace(
        datamodule=data, default_root_dir=str(folder), is_global_zero=True, test_dataloaders=loader,
        loggers=[Recorder()], global_step=5, current_epoch=1,
    )  # fmt: skip
    module = SimpleNamespace(mesh=cuboid((-0.2, -0.4, -0.1), (0.2, 0.4, 0.1), 50), name="method")
    callback = RunReport(overlays=2, width=60)
    callback.on_test_start(trainer, module)
    outputs = {"index": torch.arange(3), "viewpoint": predicted, "truth": TRUTH, "loss": torch.zeros(3)}
    callback.on_test_batch_end(trainer, module, {**outputs, "seconds": 0.3, **(further or {})}, None, 0)
    callback.on_test_epoch_end(trainer, module)
    callback.teardown(trainer, module, "test")
    return json.loads((folder / "results.json").read_text()), trainer.loggers[0]


def test_numbers_pictures_and_loggers(tmp_path, capsys):
    predicted = TRUTH + torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [math.pi, 0, 0]])
    results, logger = report(tmp_path, predicted)
    assert results["acc_pi_6"] == pytest.approx(200 / 3)
    assert results["flip_180_rate"] == pytest.approx(1 / 3)
    assert results["seconds_per_image"] == pytest.approx(0.1)
    assert results["n_labels"] == 2
    assert results["groups"]["a"]["acc_pi_6"] == 100.0
    assert results["groups"]["b"]["flip_180_rate"] == 1.0
    assert logger.metrics["test/acc_pi_6"] == results["acc_pi_6"]
    assert logger.pictures == ["test/worst", "test/median", "test/best"]
    with (tmp_path / "tables" / "predictions.csv").open() as file:
        row = list(csv.DictReader(file))[1]
    told = [float(row[name]) for name in ("azimuth_deg", "elevation_deg", "theta_deg", "true_azimuth_deg", "error_deg")]
    assert told == pytest.approx([math.degrees(x) for x in (1.2, 0.1, 0.0, 1.0, 0.2 * math.cos(0.1))], abs=0.1)
    printed = capsys.readouterr().out
    assert "photographs" in printed
    assert "ACC pi/6 by group: a 100.0, b 0.0" in printed


def test_rendered_pictures_are_never_called_photographs(tmp_path, capsys):
    results, _ = report(tmp_path, TRUTH, synthetic=True)
    assert results["synthetic"]
    assert "rendered pictures, not comparable with results on photographs" in capsys.readouterr().out


def test_where_only_the_azimuth_is_labelled_an_assumed_elevation_is_not_compared(tmp_path, capsys):
    results, _ = report(tmp_path, TRUTH + torch.tensor([0.0, 1.0, 0.5]), azimuth_only=True)
    assert results["mean_err_deg"] == pytest.approx(0.0, abs=1e-3)
    assert "Only azimuths are compared" in capsys.readouterr().out


def test_the_tables_count_an_error_near_a_threshold_as_the_results_do(tmp_path):
    predicted = TRUTH + torch.tensor([[math.radians(degrees), 0, 0] for degrees in (9.99997, 10.00003, 0.0)])
    results, _ = report(tmp_path, predicted, azimuth_only=True)
    with (tmp_path / "tables" / "predictions.csv").open() as file:
        below = [float(row["error_deg"]) < 10 for row in csv.DictReader(file)]
    assert below == [True, False, True]
    assert results["acc_pi_18"] == pytest.approx(200 / 3)


def test_a_broken_prediction_counts_and_is_written_down(tmp_path):
    predicted = TRUTH.clone()
    predicted[1] = math.nan
    results, _ = report(tmp_path, predicted)
    assert results["flip_180_rate"] == pytest.approx(1 / 3)
    assert results["azimuth_mae_deg"] == pytest.approx(60)
    lines = (tmp_path / "tables" / "predictions.csv").read_text().splitlines()
    assert lines[2].startswith("1.jpg,,,,")


def test_where_the_solver_placed_the_object_is_written_down(tmp_path):
    report(tmp_path, TRUTH, further={"placement": torch.tensor([[0.0, 8.0, 0.0], [0.0, -4.0, 0.0], [0.1, 0.0, 2.5]])})
    lines = (tmp_path / "tables" / "predictions.csv").read_text().splitlines()
    assert lines[0].endswith("group,log_distance_factor,shift_u_px,shift_v_px")
    assert lines[1].endswith("a,0.0000,8.0000,0.0000") and lines[3].endswith("b,0.1000,0.0000,2.5000")


def test_one_group_is_no_group(tmp_path):
    results, _ = report(tmp_path, TRUTH, groups=("", "", ""))
    assert results["groups"] == {}


@pytest.mark.parametrize(
    ("name", "expected"), [("EPFLCars", "epfl_cars"), ("PoseCSV", "pose_csv"), ("Pascal3D", "pascal3_d")]
)
def test_snake_case(name, expected):
    assert snake_case(name) == expected
