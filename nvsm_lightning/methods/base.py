"""``PoseMethod``: what every method shares: pose of validation, test and prediction pictures, and their metrics."""

import time
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor

from nvsm_lightning.features.backbone import STRIDE
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.geometry.viewpoints import only_azimuths
from nvsm_lightning.methods.calibration import Calibration, ScoredPictures
from nvsm_lightning.metrics.state import PoseErrors
from nvsm_lightning.pose.solver import PoseEstimate
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.pose.uncertainty import Measured, describe_posterior, log_volume, space_name


class PoseMethod(LightningModule):
    """Base of all methods (all settings of one: ``--model.help NAME``).

    A method overrides ``estimate`` (and its training step) and has a ``mesh`` for the overlays. One that scores many
    poses overrides ``score`` and sets ``space``, and gets a distribution over poses.
    """

    name: str  # in tables and results.json
    mesh: Mesh
    space: PoseSpace

    def __init__(self) -> None:
        super().__init__()
        self.val_errors = PoseErrors()
        self.val_scored = ScoredPictures()
        self.calibration = Calibration()

    def estimate(self, batch: dict[str, Any]) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """Viewpoints in radians and losses of the pictures of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must override estimate()")

    def score(self, batch: dict[str, Any]) -> PoseEstimate | None:
        """The estimate with all that was scored on the way; None: the method scores no poses."""
        return None

    def solve(
        self, batch: dict[str, Any]
    ) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"], PoseEstimate | None]:
        """Viewpoints in radians, losses, and :meth:`score` where there is one."""
        scored = self.score(batch)
        return (*self.estimate(batch), None) if scored is None else (scored.viewpoint, scored.loss, scored)

    @property
    def azimuth_only(self) -> bool:
        """Whether the data at hand label nothing else."""
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return bool(getattr(data, "azimuth_only", False))

    @property
    def measured(self) -> Measured:
        """The angles over which the distribution is judged on the data at hand."""
        return Measured(self.space.free_mask(), self.azimuth_only)

    def posterior_info(self) -> dict[str, Any]:
        """For reports: the space of the distribution, its log volume, and the fields of :class:`Calibration`; {} if
        there is no distribution.
        """
        if not hasattr(self, "space"):
            return {}
        angles = self.measured.angles
        return {"space": space_name(angles), "log_volume": log_volume(angles), **asdict(self.calibration)}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Tensors and cameras of a batch, moved."""
        if not isinstance(batch, dict):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        movable = (Tensor, Camera)
        return {key: value.to(device) if isinstance(value, movable) else value for key, value in batch.items()}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Errors of a batch of the validation part."""
        viewpoint, _, scored = self.solve(batch)
        truth = only_azimuths(batch["viewpoint"]) if self.azimuth_only else batch["viewpoint"]
        self.val_errors.update(viewpoint, truth, batch["index"])
        if scored is not None:
            self.val_scored.update(scored, batch["viewpoint"], batch["index"], self.measured)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics; fit the temperature of the distribution over poses."""
        self.log_dict(
            {f"val/{name}": float(value) for name, value in self.val_errors.compute().items()}, sync_dist=False
        )
        self.val_errors.reset()
        if self.val_scored.update_called:
            self.calibration = Calibration(**self.val_scored.compute())
            self.val_scored.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The temperature with the weights that it belongs to."""
        self.calibration.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.calibration = Calibration.load(checkpoint)

    def asks_mirror(self) -> bool:
        """Whether the mirror image of a picture is asked too: ``mirror_average``, unless left and right differ."""
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        return bool(getattr(self, "mirror_average", False)) and getattr(data, "mirror", True)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Poses of a batch; the report callback collects them."""
        return self.predict_step(batch, batch_idx)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Poses of a batch and what is known of their distribution, with the seconds that one picture took (features,
        pose and distribution, without decoding).
        """
        start = time.perf_counter()
        viewpoint, loss, found = self.solve(batch)
        posterior, placement = {}, {}
        if found is not None and found.placement is not None:  # in pixels of the crop
            placement = {"placement": found.placement * found.placement.new_tensor([1.0, STRIDE, STRIDE])}
        if found is not None:
            temperature = self.calibration.temperature
            posterior = describe_posterior(found.scored, viewpoint, batch["viewpoint"], self.measured, temperature)
        seconds = (time.perf_counter() - start) / len(viewpoint)
        return {
            "index": batch["index"], "viewpoint": viewpoint, "truth": batch["viewpoint"], "loss": loss,
            "seconds": torch.full_like(loss, seconds), "posterior": posterior, **placement,
        }  # fmt: skip
