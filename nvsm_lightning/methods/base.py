"""``PoseMethod``: what every method shares: pose of validation, test and prediction pictures, and their metrics."""

import time
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.metrics.state import PoseErrors


class PoseMethod(LightningModule):
    """Base of all methods. A method overrides ``estimate`` (and its training step) and has a ``mesh`` for the
    overlays.
    """

    name: str  # in tables and results.json
    mesh: Mesh

    def __init__(self) -> None:
        super().__init__()
        self.val_errors = PoseErrors()

    def estimate(self, batch: dict[str, Any]) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """Viewpoints in radians and losses of the pictures of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must override estimate()")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Tensors and cameras of a batch, moved."""
        if not isinstance(batch, dict):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        movable = (Tensor, Camera)
        return {key: value.to(device) if isinstance(value, movable) else value for key, value in batch.items()}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Errors of a batch of the validation part."""
        viewpoint, _ = self.estimate(batch)
        self.val_errors.update(viewpoint, batch["viewpoint"], batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self.log_dict(
            {f"val/{name}": float(value) for name, value in self.val_errors.compute().items()}, sync_dist=False
        )
        self.val_errors.reset()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Poses of a batch; the report callback collects them."""
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Poses of a batch, with the seconds that one picture took (features and pose, without decoding)."""
        start = time.perf_counter()
        viewpoint, loss = self.estimate(batch)
        seconds = (time.perf_counter() - start) / len(viewpoint)
        return {
            "index": batch["index"], "viewpoint": viewpoint, "truth": batch["viewpoint"], "loss": loss,
            "seconds": torch.full_like(loss, seconds),
        }  # fmt: skip
