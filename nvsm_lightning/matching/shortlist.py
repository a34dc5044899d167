"""A cheap pre-selection of the pictures that may match: the principal components of their pooled maps.

The inner product of two maps is nearly that of their averages over blocks of cells and of their strongest channels, and
of those averages few combinations vary from picture to picture. So a picture is kept as some hundred numbers, and the
exact score then decides among the few that match best by them. How long a list must be on real pictures:
experiments/matching_speed.md.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Int
from torch import Tensor

CELLS = 2  # blocks of so many cells each way are averaged
CHANNELS = 64  # principal channels that are kept
COMPONENTS = 512  # numbers of a sketch
SAMPLE = 2000  # pictures that the components are taken from
# Pictures on a short list: the ten best are among 65 of 2,580; four times the pool wants half as many more.
LISTED = 100


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


def channel_rows(
    pooled_maps: Float[Tensor, "picture dim h w"], basis: Float[Tensor, "dim channel"]
) -> Float[Tensor, "picture number"]:
    """The pooled maps in the principal channels, as rows for :func:`.products.map_products`."""
    return torch.einsum("pdhw,dc->pchw", pooled_maps, basis).flatten(1)


@dataclass(frozen=True)
class SketchBasis:
    """What sketches are made with; orthonormal columns, so that products of sketches stand for products of maps.

    Attributes:
        channels: the principal channels.
        components: the principal components of pooled maps in these channels.
    """

    channels: Float[Tensor, "dim channel"]
    components: Float[Tensor, "number component"]

    @classmethod
    def of(cls, pooled_maps: Float[Tensor, "picture dim h w"], components: int = COMPONENTS) -> "SketchBasis":
        """The basis of a sample of a pool; as many components as the sample has, if those are fewer."""
        channels = principal_channels(pooled_maps)
        rows = channel_rows(pooled_maps, channels)
        moment, turn = torch.linalg.eigh((rows @ rows.T).double())  # few pictures, many numbers: the smaller matrix
        kept = moment.flip(0)[:components] > 1e-6 * moment[-1]
        turn = turn.flip(1)[:, :components][:, kept] / moment.flip(0)[:components][kept].sqrt()
        return cls(channels, rows.T @ turn.to(rows))

    def sketch(self, pooled_maps: Float[Tensor, "picture dim h w"]) -> Float[Tensor, "picture component"]:
        """Sketches of pooled maps."""
        return channel_rows(pooled_maps, self.channels) @ self.components

    def sketch_queries(self, maps: Float[Tensor, "query channel h w"]) -> Float[Tensor, "query component"]:
        """Sketches of maps (not pooled) that were synthesised from vertex features in the principal channels."""
        return pooled(maps).flatten(1) @ self.components


def shortlist(
    score: Float[Tensor, "query picture"], allowed: Bool[Tensor, " picture"], length: int = LISTED
) -> Int[Tensor, "query listed"]:
    """For every query the ``length`` of the allowed pictures that match best by their sketches."""
    length = min(int(allowed.sum()), length)
    return score.masked_fill(~allowed, -torch.inf).topk(length).indices
