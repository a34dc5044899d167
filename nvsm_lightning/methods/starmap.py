"""StarMap (ECCV 2018): surface coordinates, depth and an object map of every cell, and a similarity fit."""

from typing import Any

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nvsm_lightning.features.backbone import STRIDE, Backbone, BackboneSpec
from nvsm_lightning.geometry.cameras import Camera, mirror_camera, project
from nvsm_lightning.geometry.registration import fit_map
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, rotation_from_viewpoint, viewpoint_from_rotation
from nvsm_lightning.methods.base import PoseMethod
from nvsm_lightning.methods.category_mesh import MeshSpec, category_mesh
from nvsm_lightning.render.renderer import FeatureRenderer
from nvsm_lightning.training.optimizers import counted_from_start, two_rates

LEAST = 4  # cells that determine a similarity, and leave something to tell whether it fits


class StarMap(PoseMethod):
    """Predicts for every cell whether it shows the object (heat), which point of the object's surface (canonical view
    feature, object coordinates) and how deep that point lies; the viewpoint is the rotation of the weighted similarity
    between surface points and points in space.

    The reference learns these at annotated keypoints. No data set here has them, so they are learned on the whole
    visible surface, as the mesh rendered at the labelled pose shows it: a cuboid stands for a car. The reference's
    hourglass is replaced by ``backbone`` and two convolutions, RMSprop by the optimiser that the methods here share.

    Args:
        category: object category; follows --data.category.
        backbone: the network that reads pictures.
        mesh: whose surface is learned.
        threshold: heat above which a cell takes part in the fit; where fewer than four are, all do.
        coordinate_weight: factor of the squared errors of surface points and depth (CAD units) beside the
            cross-entropy of the heat.
        hidden: channels between the two convolutions.
        mirror_average: at test time also fit the mirrored picture and keep the pose that leaves less (symmetric
            categories).
        learning_rate: of Adam, for the pretrained trunk.
        head_learning_rate: of Adam, for everything after it.
        weight_decay: of Adam.
        milestones: epochs after which both learning rates are multiplied by 0.2; negative: so many before the end.
        engine: renderer engine: auto, torch, numba, triton or nvdiffrast.
    """

    name = "starmap"

    def __init__(
        self,
        category: str = "car",
        backbone: BackboneSpec = BackboneSpec(),  # noqa: B008
        mesh: MeshSpec = MeshSpec(),  # noqa: B008
        threshold: float = 0.5,
        coordinate_weight: float = 20.0,
        hidden: int = 128,
        mirror_average: bool = False,
        learning_rate: float = 1e-4,
        head_learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        milestones: list[int] = [],  # noqa: B006
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.threshold, self.coordinate_weight, self.mirror_average = threshold, coordinate_weight, mirror_average
        self.learning_rate, self.head_learning_rate, self.weight_decay = learning_rate, head_learning_rate, weight_decay
        self.milestones, self.engine = list(milestones), engine
        self.mesh = category_mesh(mesh, category)
        self.backbone = Backbone(backbone)
        self.head = nn.Sequential(
            nn.Conv2d(backbone.dim, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 5, 3, padding=1)
        )

    def configure_optimizers(self) -> Any:
        """See :func:`nvsm_lightning.training.optimizers.two_rates`."""
        head = [*self.backbone.head.parameters(), *self.head.parameters()]
        rates = (self.learning_rate, self.head_learning_rate)
        milestones = counted_from_start(self.milestones, self._trainer)
        return two_rates(self.backbone.trunk.parameters(), head, *rates, self.weight_decay, milestones)

    def start_training(self, data: Any) -> None:
        """Before the first epoch: centre the features on the labelled pictures (no label used)."""
        batches = (self.transfer_batch_to_device(batch, self.device, 0) for batch in data.anchor_dataloader())
        self.backbone.calibrate((batch["image"], batch["camera"]) for batch in batches)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch h w"], Float[Tensor, "batch 3 h w"], Float[Tensor, "batch h w"]]:
        """Heat (logits), surface points and depth beyond the object's centre, CAD units."""
        features = self.backbone(image)
        out = self.head(
            features * features.shape[1] ** 0.5
        ).float()  # unit vectors have entries too small to start with
        return out[:, 0], out[:, 1:4], out[:, 4]

    @torch.no_grad()
    def targets(
        self, viewpoint: Float[Tensor, "batch 3"], camera: Camera, size: tuple[int, int]
    ) -> tuple[Bool[Tensor, "batch h w"], Float[Tensor, "batch 3 h w"], Float[Tensor, "batch h w"]]:
        """Object mask, surface points and depth of a map of ``size`` at known poses; ``camera`` in map pixels."""
        renderer = FeatureRenderer(self.mesh, size, self.engine).to(viewpoint.device)
        uvz = project(renderer.vertices, rotation_from_viewpoint(viewpoint), camera)
        depth = uvz[..., 2:] - camera.distance[:, None, None]
        points = renderer.vertices.expand(len(uvz), -1, -1)
        drawn, mask = renderer.render(torch.cat((points, depth), -1), uvz)
        return mask & camera.shows(size), drawn[:, :3], drawn[:, 3]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy of the heat, and mean square of surface points and depth over the object."""
        heat, points, depth = self(batch["image"])
        camera = batch["camera"].scaled(1 / STRIDE)
        mask, true_points, true_depth = self.targets(batch["viewpoint"], camera, (heat.shape[-2], heat.shape[-1]))
        weight = batch["weight"][:, None, None].expand_as(heat)
        seen = nnf.binary_cross_entropy_with_logits(heat, mask.float(), weight)
        square = (points - true_points).square().sum(1) + (depth - true_depth).square()
        place = (square * mask * weight).sum() / (mask * weight).sum().clamp_min(1e-8)
        loss = seen + self.coordinate_weight * place
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self.log_dict({"train/heat": seen, "train/place": place}, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def estimate(self, batch: dict[str, Any]) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """Viewpoints, and the root mean square that the fit leaves, CAD units."""
        viewpoint, left = self._fit(batch["image"], batch["camera"])
        if self.asks_mirror():
            image = batch["image"].flip(-1)
            other, other_left = self._fit(image, mirror_camera(batch["camera"], image.shape[-1]))
            better = other_left < left
            viewpoint = torch.where(better[:, None], mirror_viewpoint(other), viewpoint)
            left = torch.minimum(left, other_left)
        return viewpoint, left

    def _fit(self, image: Tensor, camera: Camera) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        heat, points, depth = self(image)
        score = heat.sigmoid()
        weight = score * (score > self.threshold)
        empty = (weight > 0).flatten(1).sum(1) < LEAST
        weight = torch.where(empty[:, None, None], score, weight)
        rotation, left = fit_map(points, depth, weight, camera.scaled(1 / STRIDE), self.mesh.vertices)
        return viewpoint_from_rotation(rotation), left
