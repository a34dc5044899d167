"""The step of several processes: every process does its share, and their times are told apart."""

import pytest
import torch

from nvsm_lightning.bench import speed_scaling
from nvsm_lightning.bench.speed_training import Size


@pytest.mark.slow
def test_two_processes_share_a_batch() -> None:
    steps = speed_scaling.run(2, Size(32, 64, 60), 2)
    assert steps.shape == (2, 2, 2) and (steps > 0).all()


def test_rows_compare_the_slowest_process_and_the_sum_of_their_cpu_times(monkeypatch) -> None:
    """Two steps; (wall, CPU) seconds of one process, then of two."""
    times = {1: [[(8.0, 5.0), (6.0, 4.0)]], 2: [[(3.0, 2.0), (4.0, 2.0)], [(5.0, 3.0), (1.0, 3.0)]]}
    monkeypatch.setattr(speed_scaling, "run", lambda processes, size, rounds: torch.tensor(times[processes]))
    rows = {row.name: row for row in speed_scaling.measure(0.0)}
    wall = rows["training step, 2 processes: wall, shortest step"]
    assert wall.value == pytest.approx(1000 * 4 / 16) and wall.ratio == pytest.approx(6 / 4)
    cpu = rows["training step, 2 processes: CPU of all processes"]
    assert cpu.value == pytest.approx(1000 * 5 / 16) and cpu.ratio == pytest.approx(4 / 5)
