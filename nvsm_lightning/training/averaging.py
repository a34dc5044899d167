"""A moving average of the weights, which E-steps, validation, checkpoints and the final test use.

Lightning's :class:`WeightAveraging` keeps the average, saves it, and puts it in place for validation and at the end.
Three things are missing there for EM, and are here:

- E-steps run between epochs, where Lightning has no hook: :class:`~nvsm_lightning.training.loop.EMLoop` has some.
- Its ``EMAWeightAveraging`` averages every buffer, also whole numbers, whose fraction is then cut off: the counters of
  the clutter ring run wrong. Here they are copied. (With copies of all buffers instead, the bank would hold features
  that the averaged weights do not make.) Means of unit vectors are shorter; here vertices are unit vectors again.
- An E-step refills the bank. The averaged model gets its bank of that, the weights in training one of their own.
"""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn import functional

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.bank import FeatureBank


class MovingAverage(WeightAveraging):
    """Exponential moving average of weights and buffers, moved after every step.

    Args:
        decay: weight of the old average; it reaches back about 1 / (1 - decay) steps, which should be less than a round
            has.
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"MovingAverage: decay must lie in 0..1, 1 excluded; got {decay}.")
        super().__init__(avg_fn=partial(average, decay))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the averaged model where training takes place."""
        self._device = trainer.strategy.root_device  # the model itself is moved there only later
        super().setup(trainer, pl_module, stage)

    @torch.no_grad()
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move the average; means of unit vectors are made unit vectors again."""
        super().on_train_batch_end(*args, **kwargs)
        assert self._average_model is not None
        for module in self._average_model.modules():
            if isinstance(module, FeatureBank):
                module.vertex.copy_(functional.normalize(module.vertex, dim=-1))

    def on_measure_start(self, trainer: Trainer, method: LightningModule) -> None:
        """Put the averaged model in place; before the first step there is none."""
        if trainer.global_step > 0:
            self.on_validation_epoch_start(trainer, method)

    def on_measure_end(self, trainer: Trainer, method: LightningModule) -> None:
        """Put the weights in training back."""
        if trainer.global_step > 0:
            self.on_validation_epoch_end(trainer, method)

    def on_e_step_start(self, trainer: Trainer, method: LightningModule, number: int) -> None:
        """Match with the averaged model."""
        self.on_measure_start(trainer, method)

    def on_e_step_end(self, trainer: Trainer, method: Any, number: int) -> None:
        """Go on training the other weights, with a bank of their own (a restart fills it by itself)."""
        self.on_measure_end(trainer, method)
        goes_on = trainer.global_step > 0 and not trainer.em.restarts_after(number)  # type: ignore[attr-defined]
        if goes_on and hasattr(method, "refill_bank"):
            method.refill_bank(trainer.datamodule)  # type: ignore[attr-defined]

    def on_restart(self, trainer: Trainer, method: LightningModule, number: int) -> None:
        """The average begins again, with the next step."""
        assert self._average_model is not None
        self._average_model.n_averaged.zero_()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in place, also where a finished fit was resumed, which trains nothing."""
        assert self._average_model is not None
        self._copy_average_to_current(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the average of a checkpoint."""
        if self._average_model is not None:  # else nothing is trained, and the weights loaded are the average
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def average(decay: float, mean: Tensor, current: Tensor, count: Tensor) -> Tensor:
    """The moved average; whole numbers and truth values are taken over. ``count``: steps so far."""
    # lerp: what does not change (a picture's mean colour) stays the same to the last bit
    return mean.lerp(current, 1 - decay) if mean.is_floating_point() else current
