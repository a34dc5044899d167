"""Lightning's Trainer with the EM loop."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.training.checkpoint_io import WholeFileIO
from nvsm_lightning.training.loop import EMLoop
from nvsm_lightning.training.precision import AUTO, choose_precision
from nvsm_lightning.training.processes import ProcessWatch
from nvsm_lightning.training.schedule import EMSchedule


class EMTrainer(Trainer):
    """A Trainer whose fit alternates E-steps and M-steps.

    Args:
        em: when E-steps happen.
        precision: as Trainer, or "auto": bf16-mixed where it is faster than 32-true (``nvsm doctor`` tells).
        args: as Trainer.
        kwargs: as Trainer.
    """

    def __init__(
        self,
        *args: Any,
        em: EMSchedule = EMSchedule(),  # noqa: B008
        precision: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        if precision == AUTO:
            precision = choose_precision(str(kwargs.get("accelerator", "auto")))
        super().__init__(*args, precision=precision, **kwargs)  # type: ignore[arg-type]
        self.callbacks.insert(0, ProcessWatch())  # type: ignore[attr-defined]
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # unless another one was asked for
            self.strategy.checkpoint_io = WholeFileIO()
        short = self.max_epochs not in (None, -1) and self.max_epochs <= em.last_start
        if em.rounds and short and not kwargs.get("fast_dev_run"):
            raise ConfigError(
                f"trainer.max_epochs={self.max_epochs} ends before the last of {em.rounds} E-steps, which comes "
                f"before epoch {em.last_start}; raise max_epochs or lower trainer.em.rounds."
            )
        self.em = em
        self.fit_loop = EMLoop(self.fit_loop, em)
        self.resumed_from: str | Path | None = None

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Learn from the labelled pictures and the pool.

        Args:
            model: to be trained.
            train_dataloaders: as Trainer; a datamodule takes their place.
            val_dataloaders: as Trainer.
            datamodule: labelled pictures and pool.
            ckpt_path: checkpoint that an interrupted fit goes on from, <run>/checkpoints/last.ckpt, with the same data
                and seed.
            weights_only: false lets a checkpoint hold other things than tensors and plain values; give it for files
                that you trust only.
        """
        self.resumed_from = ckpt_path  # the data are set up before it is read: it will say what was labelled
        super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)
