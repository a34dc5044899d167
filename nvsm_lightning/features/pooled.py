"""One vector for a whole picture: the trunk's last tap averaged over a few parts of the picture."""

import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import PretrainedTrunk, TrunkSpec


class PooledTrunk(PretrainedTrunk):
    """``forward`` maps RGB pictures in 0..1 to vectors of ``dim`` numbers.

    Args:
        spec: which network. Its last stage is read: layer4 where the weights have one, else layer3 (``spec.last``).
        parts: (rows, columns) over which features are averaged. (1, 1) is a ResNet's own global pooling; more parts
            keep where in the picture something is.
    """

    def __init__(self, spec: TrunkSpec, parts: tuple[int, int] = (1, 1)) -> None:
        super().__init__(spec, to_layer4=True)
        if min(parts) < 1:
            raise ConfigError(f"A picture is pooled over at least 1 x 1 parts; got {parts[0]} x {parts[1]}.")
        self.parts = parts
        self.dim = self.trunk.channels[-1] * parts[0] * parts[1]
        self.finish(None)

    @property
    def stage(self) -> str:
        """The stage that is read."""
        return "layer4" if getattr(self.trunk, "layer4", None) is not None else "layer3"

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The last tap, averaged in each part; not normalised."""
        pooled = self.through(lambda part: nnf.adaptive_avg_pool2d(self.trunk(part)[-1].float(), self.parts), image)
        return pooled.flatten(1)
