"""NeMo (ICLR 2021): neural mesh model trained on labelled pictures only."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.methods.base import PoseMethod
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.neural_mesh import BankSettings, NeuralMesh
from nvsm_lightning.pose.solver import PoseEstimate, SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.contrast import ContrastSettings
from nvsm_lightning.training.optimizers import counted_from_start, stage_rates

BANK_PICTURES = 512  # enough for the first means of the bank; training goes on moving them


class NeMo(PoseMethod):
    """Contrastive training of a backbone and a vertex bank on labelled pictures; pose by feature-level
    render-and-compare.

    Args:
        category: object category; follows --data.category.
        backbone: the network that reads pictures.
        mesh: the mesh that stands for the category.
        bank: vertex and clutter bank.
        contrast: constants of the contrastive loss.
        space: poses that are searched.
        solver: how a pose is found.
        learning_rate: of Adam, for the pretrained trunk.
        head_learning_rate: of Adam, for the head, which starts from nothing.
        layer_decay: every stage of the trunk learns at so many times the rate of the stage above it; the topmost one at
            learning_rate. 1: all at the same rate.
        weight_decay: of Adam.
        milestones: epochs after which both learning rates are multiplied by 0.2; negative: so many before the end.
        mirror_average: at test time also solve the mirrored picture and keep the pose with the lower loss, or the
            middle of both where they stand at one peak (symmetric categories); twice the time.
        oracle_subtype: with several meshes, tell the method the true subtype of a test picture where the data set has
            it, as NeMo's own evaluation does; the name in tables says so. Default: try all, take the likeliest.
        engine: renderer engine: auto, torch, numba, triton or nvdiffrast.
    """

    name = "nemo"

    def __init__(
        self,
        category: str = "car",
        backbone: BackboneSpec = BackboneSpec(),  # noqa: B008
        mesh: MeshSpec = MeshSpec(),  # noqa: B008
        bank: BankSettings = BankSettings(),  # noqa: B008
        contrast: ContrastSettings = ContrastSettings(),  # noqa: B008
        space: PoseSpace = PoseSpace(),  # noqa: B008
        solver: SolverSettings = SolverSettings(),  # noqa: B008
        learning_rate: float = 1e-4,
        head_learning_rate: float = 1e-3,
        layer_decay: float = 1.0,
        weight_decay: float = 1e-4,
        milestones: list[int] = [],  # noqa: B006
        mirror_average: bool = False,
        oracle_subtype: bool = False,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not 0 < layer_decay <= 1:
            raise ConfigError(f"model.layer_decay must lie above 0 and not above 1; got {layer_decay}.")
        self.layer_decay = layer_decay
        self.learning_rate, self.head_learning_rate, self.weight_decay = learning_rate, head_learning_rate, weight_decay
        self.milestones, self.mirror_average = list(milestones), mirror_average
        self.model = NeuralMesh(category, backbone, mesh, bank, contrast, space, solver, engine)
        self.mesh, self.space = self.model.mesh, space
        self.oracle_subtype = oracle_subtype
        if oracle_subtype:
            self.name = f"{self.name}_oracle_subtype"

    def configure_optimizers(self) -> Any:
        """Adam with learning rates for trunk (falling by ``layer_decay``) and head; steps down at the milestones."""
        trunk, head = self.model.backbone.trunk, self.model.backbone.head.parameters()
        rates = (self.learning_rate, self.head_learning_rate)
        milestones = counted_from_start(self.milestones, self._trainer)
        return stage_rates(trunk, head, *rates, self.weight_decay, milestones, self.layer_decay)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
        """The feature map."""
        return self.model.features(image)

    def estimate(self, batch: dict[str, Any]) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """Poses and losses by render-and-compare."""
        estimate = self.score(batch)
        return estimate.viewpoint, estimate.loss

    def score(self, batch: dict[str, Any]) -> PoseEstimate:
        """The same with all scored poses."""
        subtype = batch.get("subtype") if self.oracle_subtype else None
        estimate = self.model.estimate(batch["image"], batch["camera"], subtype)
        if self.asks_mirror():
            estimate = self.model.mirror_estimate(batch["image"], batch["camera"], estimate, subtype)
        return estimate

    def describe(self, batch: dict[str, Any]) -> Float[Tensor, "batch dim"]:
        """What the network says of pictures, laid out over 4 x 8 fields: what `--data.anchors kmeans` groups by."""
        feature_map = self.model.backbone.raw(self.transfer_batch_to_device(batch, self.device, 0)["image"])
        return adaptive_avg_pool2d(feature_map, (4, 8)).flatten(1).float().cpu()

    def start_training(self, data: Any) -> None:
        """Before the first epoch: centre the features on the training pictures (no label used) and fill the bank from
        the labelled ones.
        """
        anchors = data.anchor_dataloader(limit=BANK_PICTURES)
        batches = (self.transfer_batch_to_device(batch, self.device, 0) for batch in anchors)
        self.model.backbone.calibrate((batch["image"], batch["camera"]) for batch in batches)
        self.fill_bank(anchors)

    def fill_bank(self, loader: Any) -> None:
        """Set the bank to the mean features of all pictures of a loader."""
        self.model.accumulate(self.transfer_batch_to_device(batch, self.device, 0) for batch in loader)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Contrastive loss; the background draw depends on the step alone, so that a resumed fit repeats it."""
        losses = self.model.loss(batch, self.global_step, self.global_rank, self.trainer.world_size)
        self.log("train/loss", losses["loss"], prog_bar=True, on_step=True, on_epoch=False)
        parts = {f"train/{name}": losses[name] for name in ("main", "background")}
        self.log_dict(parts, on_step=False, on_epoch=True, sync_dist=True)
        return losses["loss"]
