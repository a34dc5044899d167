"""The neural mesh model: a mesh with a mean feature at every vertex, a clutter bank and a backbone (NeMo). Plain
PyTorch.

:class:`NeuralMesh` holds everything that NeMo and NVSM share and knows nothing of Lightning: its loss on labelled
pictures, its bank and its pose estimate.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import STRIDE, Backbone, BackboneSpec
from nvsm_lightning.features.bank import FeatureBank
from nvsm_lightning.geometry.cameras import Camera, mirror_camera, project
from nvsm_lightning.geometry.meshes import Mesh, category_cuboid, read_mesh
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, rotation_from_viewpoint
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.pose.likelihood import Evidence, gather_evidence, occlusion_map
from nvsm_lightning.pose.solver import PoseEstimate, SolverSettings, solve
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.render.renderer import FeatureRenderer
from nvsm_lightning.training.contrast import (
    ContrastSettings,
    background_loss,
    contrastive_loss,
    draw_background,
    near_vertices,
)


@dataclass
class MeshSpec:
    """Which mesh stands for the category.

    Attributes:
        file: OFF or OBJ file in CAD units; empty = the category's cuboid.
        vertices: about how many vertices the cuboid has.
    """

    file: str = ""
    vertices: int = 1000


def category_mesh(spec: MeshSpec, category: str) -> Mesh:
    """The mesh that a spec asks for."""
    return read_mesh(Path(spec.file)) if spec.file else category_cuboid(category, spec.vertices)


@dataclass
class BankSettings:
    """The vertex and clutter bank, with NeMo's values (§2.6).

    Attributes:
        momentum: weight of the old mean in an update.
        clutter_size: background features kept.
        legacy_update: divide by the batch size instead of the visible count, as NeMo's code does.
        legacy_nearest: read the cell a vertex falls into instead of interpolating.
    """

    momentum: float = 0.9
    clutter_size: int = 2560
    legacy_update: bool = False
    legacy_nearest: bool = False


class NeuralMesh(nn.Module):
    """Backbone, mesh and feature bank of one category; see the module docstring."""

    near: Tensor

    def __init__(
        self, category: str, backbone: BackboneSpec, mesh: MeshSpec, bank: BankSettings, contrast: ContrastSettings,
        space: PoseSpace, solver: SolverSettings, engine: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        self.mesh: Mesh = category_mesh(mesh, category)
        self.backbone = Backbone(backbone)
        self.bank_settings, self.contrast, self.space, self.solver = bank, contrast, space, solver
        self.bank = FeatureBank(
            len(self.mesh.vertices), backbone.dim, bank.clutter_size, bank.momentum, bank.legacy_update
        )
        self.register_buffer("near", near_vertices(self.mesh.vertices, contrast.near_distance), persistent=False)
        self.engine = engine
        self._renderers: dict[tuple[Any, ...], FeatureRenderer] = {}

    def renderer(self, feature_map: Float[Tensor, "batch dim h w"]) -> FeatureRenderer:
        """The renderer for maps of this size, on this device."""
        key = (*feature_map.shape[-2:], feature_map.device)
        if key not in self._renderers:
            # Lightning tests in inference mode; a copy made in it could never meet the solver's gradients.
            with torch.inference_mode(False):
                mesh = Mesh(self.mesh.vertices.to(feature_map.device), self.mesh.faces.to(feature_map.device))
            self._renderers[key] = FeatureRenderer(mesh, (feature_map.shape[-2], feature_map.shape[-1]), self.engine)
        return self._renderers[key]

    def features(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
        """The feature map F of unit vectors at stride 8."""
        if image.shape[-1] % STRIDE or image.shape[-2] % STRIDE:
            raise ConfigError(
                f"Crops must have sides divisible by {STRIDE}; got {tuple(image.shape[-2:])}. Change data.crop."
            )
        return self.backbone(image)

    def read(
        self, feature_map: Float[Tensor, "batch dim h w"], viewpoint: Float[Tensor, "batch 3"], camera: Camera
    ) -> tuple[Float[Tensor, "batch vertex dim"], Bool[Tensor, "batch vertex"]]:
        """Features and visibility of the vertices at known poses, by the bank's way of reading; ``camera`` in map
        pixels.
        """
        nearest = self.bank_settings.legacy_nearest
        return vertex_features(feature_map, viewpoint, camera, self.renderer(feature_map), nearest)

    def loss(self, batch: dict[str, Any], step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        """Contrastive loss of a labelled batch (§2.5) and, as a side effect, one bank update after the logits (§2.6).

        The background cells are drawn by ``step`` and by the place of each picture in the batch of all processes
        together, so that a step can be repeated. The batch is worked on in the chunks of the backbone, dealt out as
        the sampler deals a step to processes: one process computes what several compute, to the last bit with two.
        """
        pictures, size = len(batch["image"]), batch["image"].shape[-2:]
        order = torch.rand(
            world * pictures, size[0] // STRIDE, size[1] // STRIDE, generator=torch.Generator().manual_seed(step)
        )[rank::world]  # the data's sampler deals the pictures of a step out in the same way
        # Copies: the update below writes into the buffers that the backward pass still needs.
        means, clutter = self.bank.vertex.clone(), self.bank.clutter[: max(1, int(self.bank.clutter_filled))].clone()
        parts = self.backbone.spec.chunks(pictures)
        read = [self._read_part({**batch, "order": order}, slice(part, None, parts)) for part in range(parts)]
        pairs = torch.stack([(visible * weight[:, None]).sum() for _, visible, weight, _ in read])
        shares = shares_of_pairs(pairs, world)
        main, background = means.new_zeros(()), means.new_zeros(())
        for (vertex, visible, weight, noise), share in zip(read, shares, strict=True):
            main = (
                main
                + share * contrastive_loss(vertex, visible, weight, means, clutter, self.near, self.contrast) / parts
            )
            background = background + background_loss(noise, means) / parts
        vertex, visible, _, noise = (torch.cat(each) for each in zip(*read, strict=True))
        self.bank.update(vertex.detach(), visible, noise.detach(), parts)
        total = main + self.contrast.background_weight * background
        return {"loss": total, "main": main.detach(), "background": background.detach()}

    def _read_part(self, batch: dict[str, Any], part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vertex features, visibility, weights and background features of some pictures of a batch."""
        # Autocast keeps the bf16 copies of the weights it has made and would add up their gradients in bf16.
        torch.clear_autocast_cache()
        viewpoint, camera = batch["viewpoint"][part], batch["camera"][part].scaled(1 / STRIDE)
        feature_map = self.features(batch["image"][part])
        vertex, visible = self.read(feature_map, viewpoint, camera)
        count = self.contrast.noise_per_image
        return (
            vertex,
            visible,
            batch["weight"][part],
            self._background(feature_map, viewpoint, camera, count, batch["order"][part]),
        )

    def _background(
        self, feature_map: Tensor, viewpoint: Tensor, camera: Camera, count: int, order: Tensor
    ) -> Float[Tensor, "noise dim"]:
        renderer = self.renderer(feature_map)
        with torch.no_grad():
            uvz = project(renderer.vertices, rotation_from_viewpoint(viewpoint), camera)
            covered = renderer.fragments(uvz).mask
        shown = camera.shows(renderer.size)
        return draw_background(feature_map, covered, shown, count, order.to(feature_map.device))

    @torch.no_grad()
    def accumulate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Set the vertex bank to the mean features over a whole pass, and fill the clutter ring from it
        (``accumulate_memory``, §3).
        """
        # double: the sum of many float32 features would depend on how they are dealt into batches
        total = torch.zeros_like(self.bank.vertex, dtype=torch.float64)
        count = torch.zeros(len(total), dtype=torch.float64, device=total.device)
        generator = torch.Generator().manual_seed(0)  # one for the whole pass: the draw depends on no batch size
        for batch in batches:
            feature_map = self.features(batch["image"])
            camera = batch["camera"].scaled(1 / STRIDE)
            vertex, visible = self.read(feature_map, batch["viewpoint"], camera)
            weight = visible.double() * batch["weight"][:, None]
            total += (vertex * weight[..., None]).sum(0)  # no einsum: autocast would turn it into a bf16 product
            count += weight.sum(0)
            cells_each = 4 * self.contrast.noise_per_image
            order = torch.rand(len(feature_map), *feature_map.shape[-2:], generator=generator)
            self.bank.push_clutter(self._background(feature_map, batch["viewpoint"], camera, cells_each, order))
        self.bank.set_vertices(total.float(), count.float())

    def evidence_of(
        self, feature_map: Float[Tensor, "batch dim h w"], camera: Camera
    ) -> tuple[Evidence, FeatureRenderer]:
        """Similarity table and clutter scores of feature maps against the bank; ``camera`` in crop pixels."""
        tables = gather_evidence(feature_map, self.bank.vertex, self.bank.clutter_mean, camera.scaled(1 / STRIDE))
        return tables, self.renderer(feature_map)

    @torch.no_grad()
    def estimate(self, image: Float[Tensor, "batch 3 height width"], camera: Camera) -> PoseEstimate:
        """Pose of each picture by render-and-compare (§2.8); ``camera`` in crop pixels."""
        evidence, renderer = self.evidence_of(self.features(image), camera)
        return solve(evidence, self.space, renderer, self.solver)

    @torch.no_grad()
    def occlusion(
        self, image: Float[Tensor, "batch 3 height width"], camera: Camera, viewpoint: Float[Tensor, "batch 3"]
    ) -> Float[Tensor, "batch h w"]:
        """Occlusion map at a pose, see :func:`nvsm_lightning.pose.likelihood.occlusion_map`."""
        evidence, renderer = self.evidence_of(self.features(image), camera)
        return occlusion_map(evidence, viewpoint, renderer)

    @torch.no_grad()
    def mirror_estimate(
        self, image: Float[Tensor, "batch 3 height width"], camera: Camera, estimate: PoseEstimate
    ) -> PoseEstimate:
        """The better, by loss, of ``estimate`` and the pose of the mirrored picture mirrored back (§1.5):
        symmetric categories only.
        """
        mirrored = self.estimate(image.flip(-1), mirror_camera(camera, image.shape[-1]))
        better = mirrored.loss < estimate.loss
        return PoseEstimate(
            torch.where(better[:, None], mirror_viewpoint(mirrored.viewpoint), estimate.viewpoint),
            torch.minimum(mirrored.loss, estimate.loss),
            torch.where(better[:, None], mirror_viewpoint(mirrored.start), estimate.start),
        )


def shares_of_pairs(pairs: Float[Tensor, " part"], world: int) -> Float[Tensor, " part"]:
    """The number of (picture, vertex) pairs of each part of the batch over the mean number of all parts of all
    ``world`` processes: weighted so, the mean of the parts' losses is the mean over all pairs of the whole batch.
    """
    if world * len(pairs) == 1:
        return torch.ones_like(pairs)
    total = pairs.sum()
    if world > 1:
        torch.distributed.all_reduce(total)
    return pairs * (world * len(pairs)) / total.clamp_min(1e-8)
