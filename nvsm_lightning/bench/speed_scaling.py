"""A training step in one process and in two: wall time, and what the second process costs in CPU time.

Every process reads its share of the batch, banks and losses go through the process group as in a fit, and gradients
are summed over the processes (what DistributedDataParallel does, in one piece and without overlap).
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from nvsm_lightning.bench.speed_rows import Row
from nvsm_lightning.bench.speed_training import BATCH, SIZES, Size, make_batch, make_model

ROUNDS = 3  # steps measured, after one that is not
PROCESSES = (1, 2)


def measure(budget_s: float) -> list[Row]:
    """The shortest wall time of a step, and the CPU time of all its processes; as many steps as the budget allows, of a
    step of two seconds, three at least.
    """
    size, rounds = SIZES["EPFL cars"], max(ROUNDS, int(budget_s / 8))
    what = f"{BATCH} crops of {size.height}x{size.width}, ResNet-18, float32, 1 thread a process, forward and backward"
    wall, cpu = [], []
    for processes in PROCESSES:
        steps = run(processes, size, rounds)
        wall.append(steps[..., 0].amax(0).amin().item())  # a step ends with its last process
        cpu.append(steps[..., 1].sum(0).median().item())
    rows = []
    for name, seconds, note in (("wall, shortest step", wall, "a second core is needed, and idle"),
                                ("CPU of all processes", cpu, "")):  # fmt: skip
        first = f"training step, 1 process: {name}"
        rows += [Row(first, what, 1000 * seconds[0] / BATCH, "ms/picture", note=note),
                 Row(f"training step, 2 processes: {name}", what, 1000 * seconds[1] / BATCH, "ms/picture", first,
                     seconds[0] / seconds[1], note=note)]  # fmt: skip
    return rows


def run(processes: int, size: Size, rounds: int) -> torch.Tensor:
    """Wall and CPU seconds of every step in every process: [process, step, 2]."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_steps, (processes, size, rounds, folder), processes)
        return torch.stack([torch.load(Path(folder) / f"{rank}.pt") for rank in range(processes)])


def _steps(rank: int, processes: int, size: Size, rounds: int, folder: str) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=processes)
    torch.manual_seed(0)
    model, mine = make_model(size), {key: _share(value, rank, processes) for key, value in make_batch(size).items()}
    used = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = []
    for _ in range(1 + rounds):
        distributed.barrier()
        start = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
        model.loss(mine, 0)["loss"].backward()
        slopes = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in used])
        distributed.all_reduce(slopes)
        model.zero_grad()
        found.append(torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64) - start)
    torch.save(torch.stack(found[1:]), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def _share(values: Any, rank: int, processes: int) -> Any:
    return values[torch.arange(rank, BATCH, processes)]
