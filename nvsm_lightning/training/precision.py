"""``--trainer.precision auto``: bf16 where it is the faster one.

Some processors convolve three times as fast in bf16 as in float32 (those with AMX, or AMD's since Zen 4), others that
know the type are slower with it; the name of the type in their flags does not tell.
"""

import os
import time

import torch

from nvsm_lightning.errors import ConfigError

AUTO = "auto"
STARTED = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # numbers of processes that torchrun and srun have started
VARIABLE = "NVSM_PRECISION"  # what the first process has chosen, for those it starts


def choose_precision(accelerator: str) -> str:
    """``bf16-mixed`` or ``32-true``, the faster on this machine; the processes that this one starts choose the same.

    Args:
        accelerator: as ``--trainer.accelerator``: ``cpu``, or anything else for a GPU where there is one.

    Raises:
        ConfigError: a launcher (torchrun, srun) has started several processes on CPUs: each would measure by itself,
            and they might differ.
    """
    if os.environ.get(VARIABLE) not in ("bf16-mixed", "32-true"):
        cuda = accelerator != "cpu" and torch.cuda.is_available()
        if not cuda and any(int(os.environ.get(name, 1)) > 1 for name in STARTED):
            raise ConfigError(
                "--trainer.precision auto: each of the processes that were started would choose by itself. Name one, "
                "bf16-mixed or 32-true; `nvsm doctor` tells the faster."
            )
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else bf16_speed() >= 1
        os.environ[VARIABLE] = "bf16-mixed" if fast else "32-true"
    return os.environ[VARIABLE]


def bf16_speed() -> float:
    """How many times as fast as in float32 this processor convolves in bf16."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # what is drawn after it stays what it was
        return convolution_seconds(torch.float32) / convolution_seconds(torch.bfloat16)


def convolution_seconds(kind: torch.dtype) -> float:
    """CPU time of a typical convolution of a ResNet-18 on a batch of crops, forward and backward: the best of five."""
    layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(kind).to(memory_format=torch.channels_last)
    maps = torch.randn(8, 128, 16, 44).to(dtype=kind, memory_format=torch.channels_last).requires_grad_()
    times = []
    for _ in range(5):
        start = time.process_time()
        layer(maps).sum().backward()
        times.append(time.process_time() - start)
    return min(times)
