"""Two real processes, as `configs/hardware/ddp.yaml` starts them: what happens when one of them is killed."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nvsm_lightning.cli import lightning_cli
from nvsm_lightning.toy.dataset import make_toy

sys.path.insert(0, str(Path(__file__).parent))
from killed_fit import MATCHING
from test_runs import CONFIGS, SMALL, results

GATES = "--model.selection.ring_deg 180 --model.selection.last_share 1.0"
SIZE = "--trainer.em.rounds 2 --data.pool_limit 13 --data.epoch_images 32"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """Arguments of a small fit."""
    folder = tmp_path_factory.mktemp("processes")
    make_toy(folder / "toy", train=20, test=5, size=(70, 100), progress=False)
    (folder / "small.yaml").write_text(SMALL)
    files = [CONFIGS / "car_7shot.yaml", CONFIGS / "hardware" / "ddp.yaml", folder / "small.yaml"]
    configs = [part for file in files for part in ("--config", str(file))]
    return ["fit", *configs, "--data.root", str(folder / "toy"), *GATES.split(), *SIZE.split()]


def labels(run: Path) -> tuple[list[str], torch.Tensor]:
    """Names and poses (degrees) of the pseudo labels of the second round."""
    rows = list(csv.DictReader((run / "tables" / "matches_round_01.csv").open()))
    angles = [[float(row[f"{name}_deg"]) for name in ("azimuth", "elevation", "theta")] for row in rows]
    return [row["key"] for row in rows], torch.tensor(angles)


def two_processes(words: list[str], kill: str) -> subprocess.CompletedProcess:
    """A fit of two processes, of which one is killed while the other is busy ("rank round"), or none ("-1 -1")."""
    command = [sys.executable, str(Path(__file__).parent / "killed_fit.py"), *words, "--data.batch_size", "8"]
    root = str(Path(__file__).resolve().parents[1])
    environment = dict(os.environ, KILL=kill, PYTHONPATH=root, NVSM_DEBUG="1")
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MATCHING / 2)


def alive(output: str) -> list[int]:
    """Processes that told their number and are still there some seconds later."""
    numbers = [int(line.split()[1]) for line in output.splitlines() if line.startswith("process ")]
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{number}").exists() for number in numbers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert numbers
    return [number for number in numbers if Path(f"/proc/{number}").exists()]


@pytest.mark.slow
def test_a_process_that_dies_in_the_e_step_ends_the_job_and_the_fit_goes_on(words, tmp_path) -> None:
    """First process 1 is killed, then in the resumed fit process 0; resumed again it ends with the labels that one
    process gives (all in float32). The others would match for ``MATCHING`` seconds more: none waits for a collective.
    """
    run = tmp_path / "two"
    for lost, arguments in ((1, ["--run_dir", str(run)]), (0, ["--run_dir", str(run), "--ckpt_path", "{last}"])):
        arguments = [word.format(last=run / "checkpoints" / "last.ckpt") for word in arguments]
        ended = two_processes([*words, *arguments], f"{lost} 1")
        assert ended.returncode == (2 if lost == 1 else -9)
        assert alive(ended.stdout) == []
        killed = next(float(line.split()[2]) for line in ended.stdout.splitlines() if line.startswith("killed at "))
        assert time.monotonic() - killed < 30  # seconds, until nothing of the job is left
        message = next(line for line in ended.stderr.splitlines() if line.startswith("nvsm: error: "))
        assert f"process {lost} of 2 (counted from 0) is gone" in message
        assert f"--ckpt_path {run}/checkpoints/last.ckpt" in message
        assert (run / "tables" / "matches_round_00.csv").exists()
        assert not (run / "tables" / "matches_round_01.csv").exists()
    ended = two_processes([*words, "--run_dir", str(run), "--ckpt_path", str(run / "checkpoints/last.ckpt")], "-1 -1")
    assert ended.returncode == 0, ended.stderr

    alone = ["--data.batch_size", "16", "--trainer.devices", "1", "--trainer.strategy", "auto"]
    lightning_cli.run([*words, *alone, "--run_dir", str(tmp_path / "one")])
    (ours, poses), (theirs, expected) = labels(run), labels(tmp_path / "one")
    assert ours == theirs and len(ours) >= 8
    turned = (poses - expected + 180) % 360 - 180
    pictures = [(folder / "tables" / "predictions.csv").read_text().splitlines() for folder in (run, tmp_path / "one")]
    assert [line.split(",")[0] for line in pictures[0]] == [line.split(",")[0] for line in pictures[1]]  # 5, each once
    assert results(run)["med_err_deg"] == pytest.approx(results(tmp_path / "one")["med_err_deg"], abs=0.5)
    assert turned.abs().amax() < 0.1  # matching rounds differently for another number of pictures, 0.01 degrees here
