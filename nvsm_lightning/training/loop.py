"""The EM loop: Lightning's fit loop with an E-step before the epochs that the schedule names.

:meth:`EMLoop.setup_data` is where it happens. Lightning calls it before the first epoch and before every further one,
ahead of the sampler's ``set_epoch``; the labels that an E-step accepts are therefore the labels that the next epoch
trains on. Pseudo labels live in the datamodule's state, so a resumed fit has them back before anything else runs.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from lightning.pytorch import Callback
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.training.progress import matching
from nvsm_lightning.training.schedule import EMSchedule


@runtime_checkable
class Matcher(Protocol):
    """What the E-step asks of a method."""

    match_columns: int

    def start_matching(self, round: int, data: Any) -> None:
        """Prepare round ``round`` (make the features to be matched)."""

    def match(self, batch: dict[str, Any]) -> Tensor:
        """Rows ``[batch, match_columns]`` for unlabelled pictures."""

    def finish_matching(self, round: int, rows: Tensor, data: Any) -> None:
        """Take the rows of the whole pool (NaN: picture skipped or not looked at), choose pseudo labels,
        hand them to ``data.accept``.
        """

    def take_weights(self, teacher: str, data: Any) -> None:
        """Match with the weights of a finished fit (``trainer.em.teacher``)."""

    def start_afresh(self, data: Any) -> None:
        """Go back to the weights that the fit began with, keeping the pseudo labels (``trainer.em.restarts``)."""


class EpochLoop(_TrainingEpochLoop):
    """Epochs of which the last one is always validated, whatever ``check_val_every_n_epoch`` divides: the temperature
    of the poses belongs to the final weights."""

    def _should_check_val_epoch(self) -> bool:
        last = self.trainer.current_epoch + 1 == self.trainer.max_epochs
        return super()._should_check_val_epoch() or (last and self.trainer.enable_validation)


class EMLoop(_FitLoop):
    """Fit loop alternating E-steps over the unlabelled pool with M-step epochs."""

    def __init__(self, loop: _FitLoop, em: EMSchedule) -> None:
        super().__init__(loop.trainer, loop.min_epochs, loop.max_epochs)
        self.epoch_loop = EpochLoop(loop.trainer, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps)
        self.em = em
        self._prepared_epoch = -1
        self._placed = False

    def setup_data(self) -> None:
        """Run what is due before the next epoch, then let Lightning build the loader."""
        # Lightning's first call comes before a resumed fit has found its place (:meth:`reset`): what is due waits for
        # the second call, ahead of the epoch.
        if self._placed or self.epoch_progress.total.ready == 0:
            self._prepare()
        super().setup_data()

    def reset(self) -> None:
        """As usual; from here on the progress tells the epoch that comes next."""
        super().reset()
        self._placed = True

    def teardown(self) -> None:
        """As usual; a further fit has to find its place again."""
        super().teardown()
        self._placed = False

    def _prepare(self) -> None:
        """What is due before the next epoch: the method's preparations before the first one, or an E-step."""
        progress: Any = self.epoch_progress.current
        epoch = progress.processed
        inside = progress.started > epoch  # resumed in the middle: what was due before it came with the checkpoint
        if epoch == self._prepared_epoch or inside or self.done:
            return
        self._prepared_epoch = epoch
        method = self.trainer.lightning_module
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.em.rounds and not isinstance(method, Matcher):
            raise ConfigError(
                f"{type(method).__name__} has no E-step, but trainer.em.rounds is {self.em.rounds}. "
                "Use the method NVSM, or set --trainer.em.rounds 0."
            )
        if data is None and (self.em.rounds or hasattr(method, "start_training")):
            raise ConfigError(f"{type(method).__name__} needs a datamodule: call trainer.fit(method, datamodule=...).")
        if epoch == 0 and hasattr(method, "start_training"):
            self.evaluating(lambda: method.start_training(data))  # type: ignore[operator]
        number = self.em.round_at(epoch)
        if number is not None:
            self.evaluating(lambda: self.e_step(number))
            self._combined_loader = None  # the training set has changed: build a new loader

    def e_step(self, number: int) -> None:
        """Match this process's share of the pool, merge the shares, accept the pseudo labels (the same on every
        process). Callbacks that have ``on_e_step_start(trainer, method, number)`` are called first, and those that have
        ``on_e_step_end`` last and in reverse order, so that what the first one has set up is there for all; then, where
        the network starts afresh, those that have ``on_restart``. Without gradients.
        """
        trainer, method = self.trainer, self.trainer.lightning_module
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(method, Matcher)  # _prepare has seen to it
        self._call(trainer.callbacks, "on_e_step_start", number)  # type: ignore[attr-defined]
        if self.em.teacher:
            method.take_weights(self.em.teacher, data)
        if self.em.keep_rounds:
            folder = Path(trainer.default_root_dir) / "checkpoints"
            trainer.save_checkpoint(folder / f"round_{number:02d}.ckpt", weights_only=True)
        method.start_matching(number, data)
        rows = self.over_pool(method.match, method.match_columns, number, f"E-step {number + 1} of {self.em.rounds}")
        method.finish_matching(number, rows, data)
        self._call(reversed(trainer.callbacks), "on_e_step_end", number)  # type: ignore[attr-defined]
        if self.em.restarts_after(number):
            method.start_afresh(data)
            self._call(trainer.callbacks, "on_restart", number)  # type: ignore[attr-defined]

    def over_pool(
        self, function: Callable[[dict[str, Any]], Tensor], columns: int, number: int, name: str
    ) -> Float[Tensor, "pool column"]:
        """Rows ``[batch, columns]`` of ``function`` for the pictures that round ``number`` looks at, the same on every
        process; NaN for the others and for skipped ones. ``name`` stands at the progress bar.
        """
        trainer, method = self.trainer, self.trainer.lightning_module
        data = trainer.datamodule  # type: ignore[attr-defined]
        own = self.em.own_pool_in(number)
        loader = data.pool_dataloader(trainer.global_rank, trainer.world_size, number, self.em.pool_per_round, own)
        # Every process fills its own rows; the sum over processes is the whole table. One column more marks filled
        # rows.
        table = torch.zeros(len(data.pool), columns + 1, device=method.device)
        for batch in matching(trainer, loader, name):
            batch = method.transfer_batch_to_device(batch, method.device, 0)
            rows = function(batch)
            table[batch["index"]] = torch.cat((rows, torch.ones_like(rows[:, :1])), 1).to(table)
        table = trainer.strategy.reduce(table, reduce_op="sum")
        return torch.where(table[:, -1:] > 0, table[:, :-1], torch.nan)

    def _call(self, callbacks: Iterable[Callback], hook: str, *arguments: int) -> None:
        for callback in callbacks:
            if hasattr(callback, hook):
                getattr(callback, hook)(self.trainer, self.trainer.lightning_module, *arguments)

    def measuring(self, action: Any) -> None:
        """:meth:`evaluating` the weights that will be tested: between the hooks ``on_measure_start(trainer, method)``
        and ``on_measure_end`` of callbacks that have them, such as a moving average.
        """
        self._call(self.trainer.callbacks, "on_measure_start")  # type: ignore[attr-defined]
        self.evaluating(action)
        self._call(reversed(self.trainer.callbacks), "on_measure_end")  # type: ignore[attr-defined]

    def evaluating(self, action: Any) -> None:
        """Run without gradients, in evaluation mode and in the trainer's precision;
        the module itself, not its DDP wrapper.
        """
        method = self.trainer.lightning_module
        was_training = method.training
        method.eval()
        # no_grad, not inference_mode: what is computed here later meets autograd.
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            action()
        method.train(was_training)
