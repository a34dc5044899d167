"""A cheap pre-selection of the pictures that may match: pooled cells, few channels.

The inner product of two smooth maps is nearly that of their averages over blocks of cells and of their strongest
channels; that costs tens to hundreds of times less, and the exact score then decides among the few that are left. How
long a list holds the best ten on real pictures: experiments/matching_speed.md (a tenth of the pool; on smooth synthetic
maps 16 channels and a twentieth seem enough).
"""

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHANNELS = 32  # principal channels that are kept
CELLS = 4  # blocks of so many cells each way are averaged
LEAST = 32  # pictures on a short list of a small pool


def pooled(maps: Float[Tensor, "picture dim h w"], cells: int = CELLS) -> Float[Tensor, "picture dim h2 w2"]:
    """Means over blocks of cells; the blocks at the lower and right edge may be smaller."""
    return nnf.avg_pool2d(maps, cells, ceil_mode=True, count_include_pad=False)


def principal_channels(
    maps: Float[Tensor, "picture dim h w"], channels: int = CHANNELS
) -> Float[Tensor, "dim channel"]:
    """The orthonormal directions with the largest second moment: what keeps most of all inner products."""
    cells = maps.transpose(0, 1).flatten(1).double()
    _, directions = torch.linalg.eigh(cells @ cells.T)
    return directions[:, -min(channels, len(cells)) :].flip(1).to(maps.dtype)


def sketch(
    pooled_maps: Float[Tensor, "picture dim h w"], basis: Float[Tensor, "dim channel"]
) -> Float[Tensor, "picture number"]:
    """The pooled maps in the principal channels, as rows for :func:`.products.map_products`."""
    return torch.einsum("pdhw,dc->pchw", pooled_maps, basis).flatten(1)


def shortlist(
    score: Float[Tensor, "query picture"], allowed: Bool[Tensor, " picture"], share: float
) -> Int[Tensor, "query listed"]:
    """For every query the ``share`` of the allowed pictures that matches best by its sketch, at least ``LEAST``."""
    count = int(allowed.sum())
    length = min(count, max(LEAST, round(share * count)))
    return score.masked_fill(~allowed, -torch.inf).topk(length).indices
