"""Where a run lives: one folder with config.yaml, checkpoints/, metrics.csv, results.json, media/ and tables/."""

import contextlib
import os
from datetime import datetime
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from nvsm_lightning.errors import ConfigError

VARIABLE = "NVSM_RUN_FOLDER"  # the first process tells the others of a distributed run, which would read another clock


def choose_run_folder(command: str, wanted: str | None, name: str, checkpoint: str | None = None) -> Path:
    """The folder of this run, absolute.

    In this order: ``wanted`` as it is (``--run_dir`` or ``--trainer.default_root_dir``); for a fit that resumes from
    ``<run>/checkpoints/x.ckpt``, that run itself; for another command on such a checkpoint, ``<run>/<command>_<time>``,
    so that nothing of the fit is overwritten; else ``runs/<name>/<time>``. Several tasks that SLURM has started as one
    step share the name of that step, for their clocks differ.

    Raises:
        ConfigError: torchrun has started several processes, and nothing says what they share.
    """
    if wanted:
        return Path(wanted).expanduser().resolve()
    if VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[VARIABLE])
    names = (os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID"))
    shared = all(names) and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    stamp = f"{names[0]}.{names[1]}" if shared else f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    origin = run_of_checkpoint(checkpoint)
    if origin and command == "fit":
        return origin
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("torchrun starts processes of which each would choose a folder: name it, --run_dir runs/NAME")
    folder = (origin / f"{command}_{stamp}" if origin else Path("runs") / name / stamp).resolve()
    free, number = folder, 2
    while free.exists() and not shared:  # two runs in one second
        free, number = folder.with_name(f"{folder.name}_{number}"), number + 1
    os.environ[VARIABLE] = str(free)
    return free


def leave_no_empty_folder() -> None:
    """Remove the folder that :func:`choose_run_folder` has chosen last, and that of its group, if nothing is in it: of
    a command that could not begin."""
    chosen = [Path(os.environ[VARIABLE])] if VARIABLE in os.environ else []
    for empty in (each for folder in chosen for each in (folder, folder.parent, folder.parent.parent)):
        with contextlib.suppress(OSError):  # it holds something, or is not there
            empty.rmdir()


def run_of_checkpoint(checkpoint: str | None) -> Path | None:
    """The run folder that a checkpoint lies in, or None when it was moved out of one."""
    if not checkpoint:
        return None
    folder = Path(checkpoint).expanduser().resolve().parent
    inside = folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file()
    return folder.parent if inside else None


class FreshFolder(Callback):
    """Removes what an earlier fit left in the folder and the new one may not write again (another number of rounds),
    when the new one begins and not before: one that cannot begin takes nothing away. Checkpoints of the earlier, from
    which the new one must not be resumed, are kept as ``previous.ckpt`` and ``previous_em.ckpt``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the folder, once a machine."""
        if int(os.environ.get("LOCAL_RANK", 0)):
            return
        checkpoints = self.folder / "checkpoints"
        for name, kept in (("last", "previous"), ("em", "previous_em")):
            with contextlib.suppress(FileNotFoundError):  # another node of the same fit may clear it, too
                (checkpoints / f"{name}.ckpt").replace(checkpoints / f"{kept}.ckpt")
        for pattern in (
            "results.json", "guard.json", "config_first.yaml", "tables/*.csv", "tables/*.md", "media/*.png",
            "checkpoints/round_*.ckpt",
        ):  # fmt: skip
            for file in self.folder.glob(pattern):
                file.unlink(missing_ok=True)
