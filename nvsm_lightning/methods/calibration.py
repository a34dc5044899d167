"""The temperature of a method's pose distribution: fitted after every validation, kept in the checkpoint."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from nvsm_lightning.metrics.posterior import fit_point
from nvsm_lightning.metrics.state import unique_rows
from nvsm_lightning.pose.solver import PoseEstimate, ScoredPoses
from nvsm_lightning.pose.uncertainty import CIRCLE, SO3, Measured, fit_temperature, space_name

KEY = "pose_calibration"  # of a checkpoint


@dataclass(frozen=True)
class Calibration:
    """What was fitted on validation pictures.

    Attributes:
        temperature: of the posterior; 1 where nothing was fitted.
        n_images: validation pictures with a known pose; 0: not calibrated.
        concentration: of the von Mises or matrix-Fisher distribution around the estimated pose, for comparison.
        floored_concentration: of the same with a uniform share ...
        floored_share: ... of this size.
    """

    temperature: float = 1.0
    n_images: int = 0
    concentration: float | None = None
    floored_concentration: float | None = None
    floored_share: float | None = None

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Into a checkpoint."""
        checkpoint[KEY] = asdict(self)

    @classmethod
    def load(cls, checkpoint: dict[str, Any]) -> "Calibration":
        """From a checkpoint; one of earlier versions has none, and counts as not calibrated."""
        return cls(**checkpoint.get(KEY, {}))


class ScoredPictures(Metric):
    """What the solver scored of every picture once, over batches and processes."""

    full_state_update = False
    index: list[Tensor]
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.grid = torch.zeros(0, 3)
        self.measured: Measured | None = None

    def update(
        self, estimate: PoseEstimate, truth: Float[Tensor, "batch 3"], index: Int[Tensor, " batch"], measured: Measured
    ) -> None:
        """Add a batch: viewpoints in radians, and the position of each picture in its list."""
        scored = estimate.scored
        self.grid, self.measured = scored.grid, measured
        parts = (truth, estimate.viewpoint, scored.grid_loss, scored.mode_loss, scored.mode.flatten(1))
        self.index.append(index)
        self.rows.append(torch.cat([part.float() for part in parts], 1))

    def compute(self) -> dict[str, Any]:
        """The fields of :class:`Calibration` (torchmetrics takes no class of ours) of all pictures of known pose; not
        calibrated if there are none.
        """
        return asdict(self._fit())

    def _fit(self) -> Calibration:
        if self.measured is None:
            return Calibration()
        _, rows = unique_rows(dim_zero_cat(self.index), dim_zero_cat(self.rows).double())
        rows = rows[rows[:, list(self.measured.angles)].isfinite().all(1)]
        if not len(rows):
            return Calibration()
        poses = len(self.grid)
        modes = (rows.shape[1] - 6 - poses) // 4
        truth, viewpoint, grid_loss, mode_loss, mode = rows.split([3, 3, poses, modes, 3 * modes], 1)
        scored = ScoredPoses(self.grid, grid_loss, mode.unflatten(1, (modes, 3)), mode_loss)
        temperature = fit_temperature(scored, torch.where(truth.isfinite(), truth, viewpoint), self.measured)
        space = space_name(self.measured.angles)
        if space not in (CIRCLE, SO3):
            return Calibration(temperature, len(rows))
        error = self.measured.distance(viewpoint, truth)
        alone, _ = fit_point(error, space == CIRCLE, torch.zeros(1))
        return Calibration(temperature, len(rows), alone, *fit_point(error, space == CIRCLE))
