"""The torchmetrics state around the pure functions: collects pictures over batches and processes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from nvsm_lightning.metrics.pose import pose_error, pose_metrics


class PoseErrors(Metric):
    """:func:`pose_metrics` over every picture once.

    A distributed sampler pads the last batch with repeated pictures; the index of each picture is kept, so that a
    repeated one counts once (Lightning issue 7929 leaves this to the metric).
    """

    full_state_update = False
    index: list[Tensor]
    error: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("error", default=[], dist_reduce_fx="cat")

    def update(
        self,
        predicted: Float[Tensor, "picture 3"],
        truth: Float[Tensor, "picture 3"],
        index: Int[Tensor, " picture"],
    ) -> None:
        """Add a batch: viewpoints in radians, and the position of each picture in its list.

        A picture whose truth is unknown (NaN) is not counted.
        """
        self.index.append(index)
        self.error.append(pose_error(predicted, truth))

    def errors(self) -> tuple[Int[Tensor, " picture"], Float[Tensor, " picture"]]:
        """Indices in rising order, each once, and their errors in radians (this process only, before a reduction)."""
        return unique_rows(dim_zero_cat(self.index), dim_zero_cat(self.error))

    def compute(self) -> dict[str, float]:
        """See :func:`pose_metrics`."""
        return pose_metrics(self.errors()[1])


def unique_rows(
    index: Int[Tensor, " row"], values: Float[Tensor, "row ..."]
) -> tuple[Int[Tensor, " unique"], Float[Tensor, "unique ..."]]:
    """Sort rows by index and keep the first row of each index."""
    order = index.argsort(stable=True)
    index = index[order]
    first = torch.ones_like(index, dtype=torch.bool)
    first[1:] = index[1:] != index[:-1]
    return index[first], values[order][first]
