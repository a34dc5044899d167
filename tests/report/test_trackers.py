import csv

from nvsm_lightning.report.trackers import RunCSVLogger, RunWandbLogger


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def log(folder, resume, **metrics):
    logger = RunCSVLogger(str(folder), resume=resume)
    logger.log_metrics(metrics, step=0)
    logger.finalize("success")


def test_metrics_stand_directly_in_the_run_folder(tmp_path):
    log(tmp_path, False, loss=1.0)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_resumed_run_appends_even_under_new_names(tmp_path):
    log(tmp_path, False, loss=1.0)
    log(tmp_path, True, loss=2.0, accuracy=3.0)
    assert [(row["loss"], row["accuracy"]) for row in rows(tmp_path)] == [("1.0", ""), ("2.0", "3.0")]


def test_a_new_run_in_the_same_folder_starts_anew(tmp_path):
    log(tmp_path, False, loss=1.0)
    log(tmp_path, False, loss=2.0)
    assert [row["loss"] for row in rows(tmp_path)] == ["2.0"]


def test_a_run_is_offline_unless_the_agent_of_a_sweep_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert RunWandbLogger(str(tmp_path))._offline
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert not RunWandbLogger(str(tmp_path))._offline
