"""What a fit with E-steps ends with: the bank and the null of every pose that its estimates are made with."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.matching.calibration import pose_null
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.methods.nemo import BANK_PICTURES
from nvsm_lightning.methods.neural_mesh import NeuralMesh

NULL = "pose_null"  # of a checkpoint
TRAINING_BANK = "training_bank"  # of a checkpoint


class FinalEstimates(LightningModule):
    """The part of NVSM that ends a fit (``match.final_bank``, ``match.final_calibration``), once the weights are those
    that will be tested; beside a NeMo, whose ``model`` and ``fill_bank`` it uses. A fit that goes on afterwards goes on
    with the bank that it was trained with.
    """

    model: NeuralMesh
    fill_bank: Callable[[Any], None]
    match_settings: MatchSettings
    finished = False
    training_bank: dict[str, Tensor] | None = None  # while the one in place is of the labelled pictures alone

    def _null_of(self) -> dict[str, Any]:
        """What the null is measured for: other poses or losses have another."""
        return {"starts": self.model.starts().cpu(), "objective": self.model.solver.objective}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As usual, with the null, what it was measured for, and the bank that training would go on with."""
        super().on_save_checkpoint(checkpoint)
        if self.model.null is not None:
            checkpoint[NULL] = {"losses": self.model.null, **self._null_of()}
        if self.training_bank is not None:
            checkpoint[TRAINING_BANK] = self.training_bank

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take both back.

        Raises:
            ConfigError: what its poses lose by themselves is of other poses or another score than this model's.
        """
        super().on_load_checkpoint(checkpoint)
        self.training_bank = checkpoint.get(TRAINING_BANK)
        stored, mine = checkpoint.get(NULL), self._null_of()
        self.model.null = None if stored is None else stored["losses"]
        if stored is None:
            return
        same_poses = stored["starts"].shape == mine["starts"].shape and stored["starts"].allclose(mine["starts"])
        if not same_poses or stored["objective"] != mine["objective"]:
            raise ConfigError(
                f"The checkpoint has losses of {len(stored['starts'])} poses by the score {stored['objective']}, which "
                f"are taken off; the solver starts from {len(mine['starts'])}, and has {mine['objective']}. Leave "
                "model.space, model.solver.name and model.solver.objective as they were."
            )

    def on_train_start(self) -> None:
        """A finished fit goes on: ahead of any E-step, with the bank of training."""
        self._restore_bank()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """What has been measured of earlier weights is forgotten."""
        self._restore_bank()
        self.model.null, self.finished = None, False

    def _restore_bank(self) -> None:
        if (bank := self.training_bank) is not None:
            loop: Any = self.trainer.fit_loop
            loop.measuring(lambda: self.model.bank.load_state_dict(bank))  # an average's, if there is one, was replaced
            self.training_bank = None

    def on_validation_start(self) -> None:
        """Ahead of the last validation, which fits the temperature, set what the final estimates are made with.
        (Where an epoch has several, ahead of each of the last epoch's: it cannot be told which is the last.)
        """
        self._finish()

    def on_train_epoch_end(self) -> None:
        """The same where there is no validation part."""
        self._finish()

    def on_train_end(self) -> None:
        """Say so where the fit has ended before its last epoch, and this was not done."""
        if self._final_settings() and not self.finished:
            names = " and ".join(self._final_settings())
            rank_zero_warn(f"The fit ended before trainer.max_epochs: estimates are without {names}.")

    def _final_settings(self) -> list[str]:
        """What is due at the end of a fit that has E-steps."""
        trainer: Any = self.trainer
        if not trainer.em.rounds:
            return []
        bank, many = self.match_settings.final_bank, trainer.em.many(len(trainer.datamodule.labelled))
        due = {
            "match.final_bank": bank == "labels" or (bank == "many" and many),
            "match.final_calibration": self.match_settings.final_calibration != "none",
        }
        return [name for name, wanted in due.items() if wanted]

    def _finish(self) -> None:
        """At the end of a fit, once: :meth:`set_final`, of the weights that will be tested."""
        trainer: Any = self.trainer
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        ending = fitting and trainer.current_epoch + 1 == trainer.max_epochs
        if ending and not self.finished and self._final_settings():
            trainer.fit_loop.measuring(self.set_final)
            self.finished = True

    def set_final(self) -> None:
        """The bank of the final estimates (``match.final_bank``), then the null of every pose over the pool, as that
        bank scores it (``match.final_calibration``).
        """
        due = self._final_settings()
        if "match.final_bank" in due:
            self.training_bank = {name: value.clone() for name, value in self.model.bank.state_dict().items()}
            self.fill_bank(self.trainer.datamodule.anchor_dataloader(limit=BANK_PICTURES))  # type: ignore[attr-defined]
        if "match.final_calibration" in due:
            self.measure_null()

    def measure_null(self) -> None:
        """Set ``model.null`` from the losses of the pool. Without gradients and in evaluation mode."""
        kind, radius = self.match_settings.final_calibration, math.radians(self.match_settings.calibration_deg)
        loop: Any = self.trainer.fit_loop
        grid, shape = self.model.starts(), (len(self.model.meshes), len(self.model.starts()))

        def losses(batch: dict[str, Any]) -> Float[Tensor, "batch column"]:
            """Of every mesh at every start."""
            return self.model.start_losses(batch["image"], batch["camera"]).flatten(1)

        # those pictures that come after the ones of the last round
        rows = loop.over_pool(losses, shape[0] * shape[1], loop.em.rounds, "what each pose loses by itself").cpu()
        apart = viewpoint_error(grid[:, None], grid[None])
        nulls = [pose_null(each, apart, kind, radius) for each in rows.unflatten(1, shape).unbind(1)]
        self.model.null = torch.stack(nulls).to(self.device)
