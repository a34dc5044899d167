"""Methods without training: they only look at the labelled pictures once."""

from typing import Any

import torch
from torch import Tensor, nn

from nvsm_lightning.methods.base import PoseMethod


class Unlearned(PoseMethod):
    """Base of methods that keep something of the labelled pictures, and predict with it.

    A subclass registers buffers, names them in ``kept`` and fills them in ``start_training``; their size follows the
    data, so it is taken over from a checkpoint. The single parameter has no meaning: Lightning counts steps of an
    optimiser, and writes checkpoints by that count.
    """

    kept: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(()))

    def start_training(self, data: Any) -> None:
        """Before the first epoch: fill the buffers from the labelled pictures."""
        raise NotImplementedError(f"{type(self).__name__} must override start_training()")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimiser that moves nothing."""
        return torch.optim.SGD([self.idle], lr=0.0)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Nothing is learned."""
        return self.idle * 0.0

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make room for the buffers of the checkpoint."""
        for name in self.kept:
            stored = checkpoint["state_dict"][name]
            setattr(self, name, torch.empty_like(stored, device=self.device))
