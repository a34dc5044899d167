"""Res50-General: a classifier of azimuth, elevation and theta bins shared by all categories."""

from typing import Any

import torch.nn.functional as nnf
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from nvsm_lightning.features.backbone import TrunkSpec
from nvsm_lightning.features.pooled import PooledTrunk
from nvsm_lightning.geometry.bins import AngleBins, mirrored_scores
from nvsm_lightning.methods.base import PoseMethod
from nvsm_lightning.methods.category_mesh import MeshSpec, category_mesh
from nvsm_lightning.training.optimizers import counted_from_start, two_rates


class Res50General(PoseMethod):
    """A pretrained network, pooled over the picture, and one linear layer onto three times 41 bins. In the papers the
    network is a ResNet-50; any ``backbone`` will do.

    It shares with NeMo what is not the method, so that tables compare methods: labels, mirror images, augmentation,
    number of training pictures, optimiser. (The reference trains 90 epochs by SGD.)

    Args:
        category: object category; follows --data.category.
        backbone: the network that reads pictures; its last stage is pooled.
        mesh: what overlays draw; the method knows no shape.
        bins: of each angle; odd.
        parts: [rows, columns] of the picture over which features are averaged; empty = all of it, as a ResNet does, or
            [4, 8] where the network ends at layer3.
        legacy: read elevation and theta half a bin too low, as the reference code does.
        mirror_average: at test time average the scores with those of the mirrored picture, as the reference code does
            (symmetric categories).
        learning_rate: of Adam, for the pretrained trunk.
        head_learning_rate: of Adam, for the linear layer, which starts from nothing.
        weight_decay: of Adam.
        milestones: epochs after which both learning rates are multiplied by 0.2; negative: so many before the end.
    """

    name = "res50_general"

    def __init__(
        self,
        category: str = "car",
        backbone: TrunkSpec = TrunkSpec(),  # noqa: B008
        mesh: MeshSpec = MeshSpec(),  # noqa: B008
        bins: int = 41,
        parts: list[int] = [],  # noqa: B006
        legacy: bool = False,
        mirror_average: bool = True,
        learning_rate: float = 1e-4,
        head_learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        milestones: list[int] = [],  # noqa: B006
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.category, self.bins, self.mirror_average = category, AngleBins(bins, legacy), mirror_average
        self.learning_rate, self.head_learning_rate, self.weight_decay = learning_rate, head_learning_rate, weight_decay
        self.milestones = list(milestones)
        self.mesh = category_mesh(mesh, category)
        self.backbone = PooledTrunk(backbone, parts)
        self.head = nn.Linear(self.backbone.dim, self.heads() * 3 * bins)

    def heads(self) -> int:
        """How many sets of bins the linear layer has."""
        return 1

    def configure_optimizers(self) -> Any:
        """See :func:`nvsm_lightning.training.optimizers.two_rates`."""
        trunk, head = self.backbone.parameters(), self.head.parameters()
        rates = (self.learning_rate, self.head_learning_rate)
        milestones = counted_from_start(self.milestones, self._trainer)
        return two_rates(trunk, head, *rates, self.weight_decay, milestones)

    def on_fit_start(self) -> None:
        """Say which stage is read: it depends on the weights."""
        spec, parts = self.backbone.spec, self.backbone.parts
        rank_zero_info(
            f"{self.name}: {spec.name} up to {self.backbone.stage}, pooled over {parts[0]} x {parts[1]} parts"
        )

    def scores(
        self, image: Float[Tensor, "batch 3 height width"], batch: dict[str, Any]
    ) -> Float[Tensor, "batch 3 bin"]:
        """Scores (logits) of the bins of each angle."""
        return self.head(self.backbone(image)).unflatten(1, (3, self.bins.count)).float()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Sum of the three cross-entropies, averaged over the pictures by weight; unknown angles do not count."""
        scores, target = self.scores(batch["image"], batch), self.bins.encode(batch["viewpoint"])
        entropy = nnf.cross_entropy(scores.mT, target, ignore_index=self.bins.count, reduction="none").sum(1)
        loss = (entropy * batch["weight"]).sum() / batch["weight"].sum().clamp_min(1e-8)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        return loss

    def estimate(self, batch: dict[str, Any]) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """Centres of the likeliest bins, and the negative log-likelihood of these bins."""
        scores = self.scores(batch["image"], batch)
        if self.asks_mirror():
            scores = (scores + mirrored_scores(self.scores(batch["image"].flip(-1), batch))) / 2
        best, bins = scores.log_softmax(-1).max(-1)
        return self.bins.decode(bins), -best.sum(-1)
