from pathlib import Path

import pytest

from nvsm_lightning.cli.run_folder import VARIABLE, choose_run_folder, run_of_checkpoint
from nvsm_lightning.errors import ConfigError

TORCHRUN = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE")


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in (VARIABLE, "LOCAL_RANK", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", *TORCHRUN):
        monkeypatch.setenv(name, "")  # remembered, so that what the code sets is undone
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def checkpoint(run: Path) -> str:
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    return str(run / "checkpoints" / "last.ckpt")


def test_a_wanted_folder_is_taken_as_it_is(tmp_path):
    assert choose_run_folder("fit", "here", "name") == tmp_path / "here"


def test_runs_lie_below_their_name_and_never_share_a_folder(tmp_path):
    first = choose_run_folder("fit", None, "cars")
    first.mkdir(parents=True)
    second = choose_run_folder("fit", None, "cars")
    assert first.parent == second.parent == tmp_path / "runs" / "cars"
    assert first != second


def test_a_resumed_fit_goes_on_in_its_run(tmp_path):
    assert choose_run_folder("fit", None, "x", checkpoint(tmp_path / "run")) == tmp_path / "run"


def test_a_test_of_a_checkpoint_never_overwrites_the_fit(tmp_path):
    folder = choose_run_folder("test", None, "x", checkpoint(tmp_path / "run"))
    assert folder.parent == tmp_path / "run"
    assert folder.name.startswith("test_")


def test_a_checkpoint_outside_of_a_run_gives_a_new_run(tmp_path):
    (tmp_path / "last.ckpt").touch()
    assert run_of_checkpoint(str(tmp_path / "last.ckpt")) is None
    assert choose_run_folder("fit", None, "x", str(tmp_path / "last.ckpt")).parent == tmp_path / "runs" / "x"


def test_the_other_processes_of_a_run_use_the_folder_of_the_first(monkeypatch):
    first = choose_run_folder("fit", None, "cars")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_run_folder("fit", None, "cars") == first


def test_under_torchrun_the_folder_is_asked_for(monkeypatch, tmp_path):
    """Its processes share no clock and no name."""
    for name, value in zip(("LOCAL_RANK", *TORCHRUN), ("0", "none", "2"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"--run_dir runs/NAME"):
        choose_run_folder("fit", None, "cars")
    assert choose_run_folder("fit", "here", "cars") == tmp_path / "here"
    assert choose_run_folder("fit", None, "x", checkpoint(tmp_path / "run")) == tmp_path / "run"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert choose_run_folder("fit", None, "cars").parent == tmp_path / "runs" / "cars"


def test_under_slurm_the_tasks_of_a_step_share_a_folder_and_two_fits_of_a_job_do_not(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first = choose_run_folder("fit", None, "cars")  # two commands in one batch script
    first.mkdir(parents=True)
    assert choose_run_folder("fit", None, "cars") != first
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    shared = choose_run_folder("fit", None, "cars")  # srun starts every process of one fit
    shared.mkdir()
    assert shared == choose_run_folder("fit", None, "cars") == tmp_path / "runs" / "cars" / "77.3"
