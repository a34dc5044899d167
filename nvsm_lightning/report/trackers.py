"""Loggers that write straight into the run folder: ``metrics.csv``, and an offline Weights & Biases run beside it."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only


class RunCSVLogger(CSVLogger):
    """``<save_dir>/metrics.csv``, one row a logged step.

    Args:
        save_dir: the run folder.
        resume: keep the rows that are there (Lightning's logger deletes them) and append.
        flush_logs_every_n_steps: rows kept in memory at most; a killed run loses no more than these.
    """

    def __init__(self, save_dir: str, resume: bool = False, flush_logs_every_n_steps: int = 20) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)
        self.resume = resume

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer, made on first use."""
        if self._experiment is None:
            self._experiment = _RunWriter(self.log_dir, self.resume)
        return self._experiment  # type: ignore[return-value]

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: the run folder holds ``config.yaml``."""


class RunWandbLogger(WandbLogger):
    """Weights & Biases below ``<save_dir>/wandb``, by default without network and account.

    Args:
        save_dir: the run folder.
        project: project on the server.
        name: of the run; by default chosen by wandb.
        offline: write to disk only (``wandb sync`` sends it later). A run that the agent of a sweep has started is sent
            in any case: its server waits for the numbers.
        log_model: send checkpoints as artifacts; needs ``offline: false``.
        tags: of the run.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "nvsm_lightning",
        name: str | None = None,
        offline: bool = True,
        log_model: bool = False,
        tags: list[str] | None = None,
    ) -> None:
        offline = offline and "WANDB_SWEEP_ID" not in os.environ
        super().__init__(name=name, save_dir=save_dir, project=project, offline=offline, log_model=log_model, tags=tags)
        self._wandb_init.pop("anonymous", None)  # Lightning 2.6 passes it, and wandb warns of it at each run


class _RunWriter(ExperimentWriter):
    def __init__(self, log_dir: str, resume: bool) -> None:
        self._resume = resume
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _check_log_dir_exists(self) -> None:
        """Lightning deletes an earlier file and warns; here a new run replaces it and a resumed one appends."""
        if not self._resume:
            Path(self.metrics_file_path).unlink(missing_ok=True)
