"""What a test or a prediction returns for each picture, collected over batches and processes."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvsm_lightning.geometry.viewpoints import wrap_angle
from nvsm_lightning.metrics.state import unique_rows


@dataclass
class PictureRows:
    """One row a picture: index, predicted and true viewpoint, loss; plus the seconds they took.

    ``add`` takes the outputs of ``test_step`` or ``predict_step``: ``index`` [B], ``viewpoint`` [B, 3] and optionally
    ``truth`` [B, 3] (radians, NaN = unknown), ``loss`` [B], ``placement`` [B, 3] (``Camera.placed``, crop pixels),
    ``seconds`` ([B], or the sum over the batch) and ``posterior`` (a dictionary of tensors [B, ...], the same for every
    batch).
    """

    index: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    posterior: list[dict[str, Tensor]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, outputs: dict[str, Any]) -> None:
        """Add the outputs of a batch."""
        viewpoint = outputs["viewpoint"].detach().cpu().double()
        unknown = torch.full_like(viewpoint, torch.nan)
        truth, loss = outputs.get("truth", unknown), outputs.get("loss", unknown[:, 0])
        self.index.append(outputs["index"].detach().cpu())
        parts = truth, loss[:, None], outputs.get("placement", unknown)
        self.values.append(torch.cat((viewpoint, *(part.detach().cpu().double() for part in parts)), -1))
        self.posterior.append({key: value.detach().cpu() for key, value in outputs.get("posterior", {}).items()})
        self.seconds += float(torch.as_tensor(outputs.get("seconds", 0.0)).sum())

    def gathered(self) -> "Rows":
        """All rows of all processes in the order of their index, each picture once (samplers may repeat some)."""
        index = torch.cat(self.index) if self.index else torch.zeros(0, dtype=torch.long)
        values = torch.cat(self.values) if self.values else torch.zeros(0, 10, dtype=torch.double)
        names = self.posterior[0] if self.posterior else {}
        posterior = {name: torch.cat([batch[name] for batch in self.posterior]) for name in names}
        mine = (index, values, self.seconds, posterior)
        parts = [mine]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [parts[0]] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, mine)
        seen = sum(len(part[0]) for part in parts)
        every = torch.cat([part[0] for part in parts])
        index, values = unique_rows(every, torch.cat([part[1] for part in parts]))
        known = [part[3] for part in parts if part[3]]  # a process without pictures has none
        merged = {name: unique_rows(every, torch.cat([part[name] for part in known]))[1] for name in (known or [{}])[0]}
        seconds = sum(part[2] for part in parts) / max(seen, 1)
        return Rows(index, values[:, :3], values[:, 3:6], values[:, 6], seconds, merged, values[:, 7:])


@dataclass(frozen=True)
class Rows:
    """Index, viewpoint and truth in radians, and loss of each picture; seconds a picture on one process; what the
    method says of the distribution of each; where it found the object (NaN: where the labels say).
    """

    index: Int[Tensor, " picture"]
    viewpoint: Float[Tensor, "picture 3"]
    truth: Float[Tensor, "picture 3"]
    loss: Float[Tensor, " picture"]
    seconds_per_image: float
    posterior: dict[str, Tensor]
    placement: Float[Tensor, "picture 3"]

    @property
    def viewpoint_deg(self) -> Float[Tensor, "picture 3"]:
        """Viewpoints in degrees, azimuths from 0 to 360, the other angles from -180 to 180: a solver, or the middle of
        a picture and its mirror image, may leave them beyond."""
        return torch.cat((self.viewpoint[:, :1] % (2 * torch.pi), wrap_angle(self.viewpoint[:, 1:])), -1).rad2deg()
