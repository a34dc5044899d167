"""The vertex and clutter bank: mean features kept by momentum, as buffers (CoKe / NeMo)."""

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float
from torch import Tensor, nn


class FeatureBank(nn.Module):
    """``vertex`` (V, dim): mean unit feature of every vertex; ``clutter`` (J, dim): a ring of recent background
    features.

    Args:
        vertices: number of mesh vertices V.
        dim: feature channels.
        clutter_size: J, number of clutter features kept (NeMo: 5 * 512).
        momentum: weight of the old mean; NVSM's alpha is ``1 - momentum``.
        legacy_update: divide the new mean by the batch size instead of by the visible count, as NeMo's code does.
    """

    vertex: Tensor
    clutter: Tensor
    clutter_filled: Tensor
    clutter_next: Tensor

    def __init__(
        self, vertices: int, dim: int, clutter_size: int = 2560, momentum: float = 0.9, legacy_update: bool = False
    ) -> None:
        super().__init__()
        self.momentum, self.legacy_update = momentum, legacy_update
        self.register_buffer("vertex", _random_unit(vertices, dim))
        self.register_buffer("clutter", _random_unit(clutter_size, dim))
        self.register_buffer("clutter_filled", torch.zeros((), dtype=torch.long))  # rows in use, from the first
        self.register_buffer("clutter_next", torch.zeros((), dtype=torch.long))  # next row to write

    @torch.no_grad()
    def update(
        self,
        vertex_features: Float[Tensor, "batch vertex dim"],
        visible: Bool[Tensor, "batch vertex"],
        noise: Float[Tensor, "noise dim"],
    ) -> None:
        """One momentum step: ``mu <- normalise(momentum * mu + (1 - momentum) * mean of the visible features)``.

        Under DDP the sums are taken over all ranks, so that the bank is the same on each. Vertices that no picture
        shows stay.
        """
        # No einsum: autocast would turn it into a bf16 product.
        total = (vertex_features * visible[..., None]).sum(0)
        count = visible.to(vertex_features).sum(0)
        self.move(total, count, len(vertex_features), noise)

    @torch.no_grad()
    def move(
        self,
        total: Float[Tensor, "vertex dim"],
        count: Float[Tensor, " vertex"],
        pictures: int,
        noise: Float[Tensor, "noise dim"],
    ) -> None:
        """:meth:`update` from sums over the pictures that see a vertex."""
        batch = torch.tensor(float(pictures), device=total.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for tensor in (total, count, batch):
                torch.distributed.all_reduce(tensor)
            noise = _gather_rows(noise)
        divisor = batch.expand_as(count) if self.legacy_update else count.clamp_min(1)
        mean = total / divisor[:, None]
        moved = nnf.normalize(self.momentum * self.vertex + (1 - self.momentum) * mean, dim=-1)
        self.vertex.copy_(torch.where((count > 0)[:, None], moved, self.vertex))
        self.push_clutter(noise)

    @torch.no_grad()
    def push_clutter(self, noise: Float[Tensor, "noise dim"]) -> None:
        """Write background features over the oldest rows of the ring (NeMo's own ring left 400 rows random for
        ever).
        """
        rows = (self.clutter_next + torch.arange(len(noise), device=noise.device)) % len(self.clutter)
        kept = slice(-len(self.clutter), None)  # of more rows than the ring has, the last ones
        self.clutter[rows[kept]] = nnf.normalize(noise[kept], dim=-1).to(self.clutter)
        self.clutter_next.copy_((self.clutter_next + len(noise)) % len(self.clutter))
        self.clutter_filled.copy_((self.clutter_filled + len(noise)).clamp_max(len(self.clutter)))

    @torch.no_grad()
    def set_vertices(self, total: Float[Tensor, "vertex dim"], count: Float[Tensor, " vertex"]) -> None:
        """Set the means from sums over a whole pass (accumulation); vertices never seen keep their value."""
        mean = nnf.normalize(total / count.clamp_min(1)[:, None], dim=-1)
        self.vertex.copy_(torch.where((count > 0)[:, None], mean, self.vertex))

    @property
    def clutter_mean(self) -> Float[Tensor, " dim"]:
        """The single clutter feature of inference: the normalised mean of the ring; zero while nothing was written."""
        rows = self.clutter[: int(self.clutter_filled)]
        return nnf.normalize(rows.mean(0), dim=0) if len(rows) else torch.zeros_like(self.clutter[0])


def _random_unit(rows: int, dim: int) -> Tensor:
    return nnf.normalize(torch.randn(rows, dim), dim=-1)


def _gather_rows(rows: Tensor) -> Tensor:
    gathered = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)
