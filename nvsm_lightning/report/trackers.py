"""A CSV logger that writes ``metrics.csv`` straight into the run folder and goes on writing when a fit resumes."""

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
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
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: the run folder holds ``config.yaml``."""


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
