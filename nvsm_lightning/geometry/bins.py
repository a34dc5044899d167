"""Viewpoints as three classes: the bins of the ResNet baselines of NeMo and NVSM."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nvsm_lightning.geometry.viewpoints import wrap_angle


@dataclass(frozen=True)
class AngleBins:
    """``count`` bins of ``2 pi / count`` for each of azimuth, elevation and theta.

    Azimuth bin k holds ``[k, k + 1)`` bin widths. Elevation and theta bin k hold ``(k, k + 1]`` bin widths from half a
    turn below zero, so that with an odd count the middle bin is centred at zero.

    Attributes:
        count: number of bins; odd, so that mirroring an angle mirrors its bin (41: NeMo's later code; 21: StarMap).
        legacy: decode elevation and theta as the reference code does, at the lower edge of their bin instead of its
            centre: half a bin (4.39 degrees of 41 bins) too low.
    """

    count: int = 41
    legacy: bool = False

    @property
    def width(self) -> float:
        """Of a bin, radians."""
        return 2 * math.pi / self.count

    def encode(self, viewpoint: Float[Tensor, "*batch 3"]) -> Int64[Tensor, "*batch 3"]:
        """Bins of viewpoints in radians; ``count`` where an angle is unknown (NaN).

        Example: (30, 10, 5) degrees are bins (3, 21, 21) of 41.
        """
        turns = viewpoint.double() / self.width
        azimuth = (turns[..., :1] % self.count).floor()
        rest = (wrap_angle(viewpoint[..., 1:].double()) / self.width + self.count / 2 - 1).ceil()
        bins = torch.cat((azimuth, rest), -1).clamp(0, self.count - 1)
        return torch.where(viewpoint.isfinite(), bins, float(self.count)).long()

    def decode(self, bins: Int64[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """The centres of bins, radians: azimuth in [0, 2 pi), elevation and theta in (-pi, pi)."""
        offset = torch.full((3,), (1 - self.count) / 2, device=bins.device)
        offset[0] = 0.5
        if self.legacy:
            offset[1:] -= 0.5
        return (bins + offset) * self.width


def mirrored_scores(scores: Float[Tensor, "batch 3 bin"]) -> Float[Tensor, "batch 3 bin"]:
    """Scores of the bins of ``(-azimuth, elevation, -theta)``: bin k of azimuth and theta becomes ``count - 1 - k``."""
    return torch.stack((scores[:, 0].flip(-1), scores[:, 1], scores[:, 2].flip(-1)), 1)
