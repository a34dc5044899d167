"""The neural mesh model: a mesh with a mean feature at every vertex, a clutter bank and a backbone (NeMo). Plain
PyTorch.

:class:`NeuralMesh` holds everything that NeMo and NVSM share and knows nothing of Lightning: its loss on labelled
pictures, its bank and its pose estimate. A category may have several meshes, one a subtype (NeMo's MultiCuboid and
DownSample): then each has its own rows of the vertex bank, and all share backbone and clutter, so that likelihoods
under different meshes compare.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import STRIDE, Backbone, BackboneSpec
from nvsm_lightning.features.bank import FeatureBank
from nvsm_lightning.features.reading import read_points
from nvsm_lightning.geometry.cameras import Camera, mirror_camera, project
from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.methods.category_mesh import MeshSpec, category_meshes
from nvsm_lightning.methods.mirrored import better_of
from nvsm_lightning.pose.likelihood import Evidence, gather_evidence, occlusion_map, pose_loss
from nvsm_lightning.pose.solver import PoseEstimate, ScoredPoses, SolverSettings, searched_space, solve, start_losses
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.render.renderer import FeatureRenderer, rasterize
from nvsm_lightning.training.contrast import (
    ContrastSettings,
    background_loss,
    draw_background,
    near_vertices,
    pair_loss,
    shares_of_pairs,
)


@dataclass
class BankSettings:
    """The vertex and clutter bank, with NeMo's values.

    Attributes:
        momentum: weight of the old mean in an update.
        clutter_size: background features kept.
        legacy_update: divide by the batch size instead of the visible count, as NeMo's code does.
        legacy_nearest: read the cell a vertex falls into instead of interpolating.
        refill: when it is set anew to the mean features of a whole pass: "each_round" (before training and after every
            E-step) or "once" (before training only; from there on it is moved by momentum alone).
        hidden_below: in occlusion maps, a cell of the object is also called hidden where what is seen is less similar
            to the mesh than this. Against the clutter feature alone (-1, the paper's rule) few pasted occluders are
            found: they look like neither object nor background. Stanford cars, five models of 7 to 2,600 labels: the
            best value lay at 0.3 to 0.5 with 30 % of the object hidden and at 0.45 to 0.55 with 70 %.
    """

    momentum: float = 0.9
    clutter_size: int = 2560
    legacy_update: bool = False
    legacy_nearest: bool = False
    refill: Literal["each_round", "once"] = "each_round"
    hidden_below: float = 0.45


class NeuralMesh(nn.Module):
    """Backbone, mesh and feature bank of one category; see the module docstring."""

    seen: Tensor

    def __init__(
        self, category: str, backbone: BackboneSpec, mesh: MeshSpec, bank: BankSettings, contrast: ContrastSettings,
        space: PoseSpace, solver: SolverSettings, engine: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        meshes = category_meshes(mesh, category)
        self.meshes, self.mesh = list(meshes.values()), next(iter(meshes.values()))
        self.subtypes = torch.tensor(list(meshes))  # of each mesh
        counts = [len(each.vertices) for each in self.meshes]
        self.rows = [slice(sum(counts[:number]), sum(counts[: number + 1])) for number in range(len(counts))]
        self.backbone = Backbone(backbone)
        self.bank_settings, self.contrast, self.space, self.solver = bank, contrast, space, solver
        self.bank = FeatureBank(sum(counts), backbone.dim, bank.clutter_size, bank.momentum, bank.legacy_update)
        for number, each in enumerate(self.meshes):
            near = near_vertices(each.vertices, contrast.near_distance)
            self.register_buffer(f"near_{number}", near, persistent=False)
        # A mesh that no picture has been read with has random features: it is never taken.
        self.register_buffer("seen", torch.zeros(len(counts), dtype=torch.bool), persistent=len(counts) > 1)
        # What each mesh loses at each start of the solver on whatever picture [mesh, pose]; None: nothing is taken off.
        # No buffer: nothing that a moving average of the weights should average.
        self.null: Float[Tensor, "mesh pose"] | None = None
        self.engine = engine
        self._renderers: dict[tuple[Any, ...], FeatureRenderer] = {}

    def renderer(self, feature_map: Float[Tensor, "batch dim h w"], number: int = 0) -> FeatureRenderer:
        """The renderer of mesh ``number`` for maps of this size, on this device."""
        key = (number, *feature_map.shape[-2:], feature_map.device)
        if key not in self._renderers:
            # Lightning tests in inference mode; a copy made in it could never meet the solver's gradients.
            with torch.inference_mode(False):
                mesh = self.meshes[number]
                mesh = Mesh(mesh.vertices.to(feature_map.device), mesh.faces.to(feature_map.device))
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
        self,
        feature_map: Float[Tensor, "batch dim h w"],
        viewpoint: Float[Tensor, "batch 3"],
        camera: Camera,
        number: int = 0,
    ) -> tuple[Float[Tensor, "batch vertex dim"], Bool[Tensor, "batch vertex"]]:
        """Features and visibility of the vertices of mesh ``number`` at known poses, by the bank's way of reading;
        ``camera`` in map pixels.
        """
        nearest = self.bank_settings.legacy_nearest
        return vertex_features(feature_map, viewpoint, camera, self.renderer(feature_map, number), nearest)

    def loss(self, batch: dict[str, Any], step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        """Contrastive loss of a labelled batch and, as a side effect, one bank update after the logits.

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
        entries = [
            entry
            for part in range(parts)
            for entry in self._read_part({**batch, "order": order}, slice(part, None, parts))
        ]
        pairs = torch.stack([entry.weight.sum() for entry in entries])
        main, background = means.new_zeros(()), means.new_zeros(())
        for entry, share in zip(entries, shares_of_pairs(pairs, world), strict=True):
            own, near = means[self.rows[entry.number]], getattr(self, f"near_{entry.number}")
            seen = entry.feature, entry.vertex, entry.weight
            main = main + share * pair_loss(*seen, own, clutter, near, self.contrast) / len(entries)
            background = background + entry.share * background_loss(entry.noise, own) / parts
        self._update(entries, pictures)
        total = main + self.contrast.background_weight * background
        return {"loss": total, "main": main.detach(), "background": background.detach()}

    @torch.no_grad()
    def _update(self, entries: "list[_Entry]", pictures: int) -> None:
        """One step of the bank."""
        shape = len(entries), *self.bank.vertex.shape
        total, count = self.bank.vertex.new_zeros(shape), self.bank.vertex.new_zeros(shape[:2])
        for part, entry in enumerate(entries):  # each has its own sum, as so many processes would add them up
            rows = self.rows[entry.number]
            total[part, rows].index_add_(0, entry.vertex, entry.feature.to(total))
            count[part, rows].index_add_(0, entry.vertex, torch.ones_like(entry.weight).to(count))
        total, count = total.sum(0), count.sum(0)
        self.bank.move(total, count, pictures, torch.cat([entry.noise for entry in entries]))  # sums over the processes
        self._mark_seen(count)

    def _mark_seen(self, count: Tensor) -> None:
        self.seen |= torch.stack([(count[rows] > 0).any() for rows in self.rows])

    def _read_part(self, batch: dict[str, Any], part: slice) -> "list[_Entry]":
        """What the loss needs of some pictures of a batch, one entry a mesh."""
        # Autocast keeps the bf16 copies of the weights it has made and would add up their gradients in bf16.
        torch.clear_autocast_cache()
        viewpoint, camera = batch["viewpoint"][part], batch["camera"][part].scaled(1 / STRIDE)
        feature_map = self.features(batch["image"][part])
        subtype = batch["subtype"][part] if "subtype" in batch else None
        order, entries = batch["order"][part].to(viewpoint.device), []
        for number, of in self._by_mesh(feature_map, viewpoint, camera, subtype):
            seen = feature_map[of], viewpoint[of], camera[of]
            with torch.no_grad():
                renderer = self.renderer(feature_map, number)
                uvz = project(renderer.vertices, rotation_from_viewpoint(seen[1]), seen[2])
                picture, vertex = renderer.visible(uvz).nonzero(as_tuple=True)
            feature = read_points(seen[0], picture, uvz[picture, vertex, :2], self.bank_settings.legacy_nearest)
            noise = self._background(*seen, self.contrast.noise_per_image, order[of], number)
            share, weight = len(seen[1]) / len(viewpoint), batch["weight"][part][of][picture]
            entries.append(_Entry(number, feature, vertex, weight, noise, share))
        return entries

    @torch.no_grad()
    def _by_mesh(
        self,
        feature_map: Float[Tensor, "batch dim h w"],
        viewpoint: Float[Tensor, "batch 3"],
        camera: Camera,
        subtype: Int[Tensor, " batch"] | None,
        filled: bool | None = None,
    ) -> "list[tuple[int, slice | Tensor]]":
        """(mesh, pictures that are read with it) at known poses: the mesh of the known subtype, else the likeliest.

        While the bank is empty nothing is likely: a picture of unknown subtype is then read with every mesh.
        """
        if len(self.meshes) == 1:
            return [(0, slice(None))]
        number = self.numbers(subtype, len(viewpoint)).to(viewpoint.device)
        if int(self.bank.clutter_filled) > 0 if filled is None else filled:
            number = torch.where(number < 0, self.likeliest(feature_map, viewpoint, camera), number)
        groups = [(mesh, ((number == mesh) | (number < 0)).nonzero()[:, 0]) for mesh in range(len(self.meshes))]
        return [(mesh, of) for mesh, of in groups if len(of)]

    def numbers(self, subtype: Int[Tensor, " batch"] | None, count: int) -> Int[Tensor, " batch"]:
        """The mesh of each subtype (``cad_index``); -1 where it is unknown or has no mesh here."""
        if subtype is None:
            return torch.full((count,), -1)
        same = subtype.cpu()[:, None] == self.subtypes
        return torch.where(same.any(1), same.int().argmax(1), -1)

    def trained(self) -> list[int]:
        """The meshes that pictures were read with; the only mesh always."""
        return [0] if len(self.meshes) == 1 else self.seen.nonzero()[:, 0].tolist()

    def likeliest(
        self, feature_map: Float[Tensor, "batch dim h w"], viewpoint: Float[Tensor, "batch 3"], camera: Camera
    ) -> Int[Tensor, " batch"]:
        """The mesh under which each picture is likeliest at a known pose; ``camera`` in map pixels."""
        losses = []
        for number in range(len(self.meshes)):
            evidence = gather_evidence(feature_map, self._vertex(number), self.bank.clutter_mean, camera)
            losses.append(pose_loss(evidence, viewpoint[:, None], self.renderer(feature_map, number))[:, 0])
        return torch.stack(losses).masked_fill(~self.seen[:, None], torch.inf).argmin(0)

    def _vertex(self, number: int) -> Float[Tensor, "vertex dim"]:
        return self.bank.vertex[self.rows[number]]

    def _background(
        self, feature_map: Tensor, viewpoint: Tensor, camera: Camera, count: int, order: Tensor, number: int
    ) -> Float[Tensor, "noise dim"]:
        renderer = self.renderer(feature_map, number)
        with torch.no_grad():
            uvz = project(renderer.vertices, rotation_from_viewpoint(viewpoint), camera)
            covered = rasterize(uvz, renderer.faces, renderer.size, renderer.engine) >= 0
        shown = camera.shows(renderer.size)
        return draw_background(feature_map, covered, shown, count, order.to(feature_map.device))

    @torch.no_grad()
    def accumulate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Set the vertex bank to the mean features over a whole pass, and fill the clutter ring from it
        (``accumulate_memory`` in NeMo's code).
        """
        # double: the sum of many float32 features would depend on how they are dealt into batches
        total = torch.zeros_like(self.bank.vertex, dtype=torch.float64)
        count = torch.zeros(len(total), dtype=torch.float64, device=total.device)
        generator = torch.Generator().manual_seed(0)  # one for the whole pass: the draw depends on no batch size
        filled = int(self.bank.clutter_filled) > 0
        for batch in batches:
            feature_map = self.features(batch["image"])
            viewpoint, camera = batch["viewpoint"], batch["camera"].scaled(1 / STRIDE)
            order = torch.rand(len(feature_map), *feature_map.shape[-2:], generator=generator)
            for number, of in self._by_mesh(feature_map, viewpoint, camera, batch.get("subtype"), filled):
                seen = feature_map[of], viewpoint[of], camera[of]
                vertex, visible = self.read(*seen, number)
                weight = visible.double() * batch["weight"][of][:, None]
                # no einsum: autocast would turn it into a bf16 product
                total[self.rows[number]] += (vertex * weight[..., None]).sum(0)
                count[self.rows[number]] += weight.sum(0)
                order_of = order[of.cpu() if isinstance(of, Tensor) else of]
                self.bank.push_clutter(self._background(*seen, 4 * self.contrast.noise_per_image, order_of, number))
        self.bank.set_vertices(total.float(), count.float())
        self._mark_seen(count)

    def evidence_of(
        self, feature_map: Float[Tensor, "batch dim h w"], camera: Camera, number: int = 0
    ) -> tuple[Evidence, FeatureRenderer]:
        """Similarity table and clutter scores of feature maps against the bank of mesh ``number``; ``camera`` in crop
        pixels.
        """
        tables = gather_evidence(feature_map, self._vertex(number), self.bank.clutter_mean, camera.scaled(1 / STRIDE))
        return tables, self.renderer(feature_map, number)

    def _all(self, feature_map: Tensor, camera: Camera) -> Iterator[tuple[Evidence, FeatureRenderer]]:
        return (self.evidence_of(feature_map, camera, number) for number in range(len(self.meshes)))

    @torch.no_grad()
    def estimate(
        self,
        image: Float[Tensor, "batch 3 height width"],
        camera: Camera,
        subtype: Int[Tensor, " batch"] | None = None,
    ) -> PoseEstimate:
        """Pose of each picture by NeMo's render-and-compare; ``camera`` in crop pixels.

        With several meshes all that were trained are tried and the pose of the lowest loss is taken. Where ``subtype``
        names one of them, that one alone counts: NeMo's protocol, which is told the true subtype.
        """
        feature_map = self.features(image)
        nulls = [None] * len(self.meshes) if self.null is None else self.null.to(image)
        found = [
            solve(evidence, self.space, renderer, self.solver, nulls[number])
            for number, (evidence, renderer) in enumerate(self._all(feature_map, camera))
        ]
        if len(found) == 1:
            return found[0]
        loss = torch.stack([each.loss for each in found])
        given = self.numbers(subtype, len(image)).to(loss.device)
        given = torch.where(self.seen[given], given, -1)
        other = (given >= 0) & (given != torch.arange(len(found), device=loss.device)[:, None])
        best = loss.masked_fill(other | ~self.seen[:, None], torch.inf).argmin(0)
        pick = torch.arange(len(image), device=loss.device)

        def chosen(column: Callable[[PoseEstimate], Tensor]) -> Tensor:
            """A column of the estimates under the mesh that each picture was given."""
            return torch.stack([column(each) for each in found])[best, pick]

        scored = ScoredPoses(
            found[0].scored.grid, chosen(lambda each: each.scored.grid_loss),
            chosen(lambda each: each.scored.mode), chosen(lambda each: each.scored.mode_loss),
        )  # fmt: skip
        free = found[0].placement is not None
        placement = chosen(lambda each: each.placement) if free else None  # type: ignore[arg-type, return-value]
        return PoseEstimate(
            chosen(lambda each: each.viewpoint), chosen(lambda each: each.loss), chosen(lambda each: each.start),
            scored, placement,
        )  # fmt: skip

    @torch.no_grad()
    def start_losses(
        self, image: Float[Tensor, "batch 3 height width"], camera: Camera
    ) -> Float[Tensor, "batch mesh pose"]:
        """What each picture loses at each of the :meth:`starts` under each mesh; nothing is taken off."""
        pairs = self._all(self.features(image), camera)
        found = [start_losses(evidence, self.space, renderer, self.solver)[1] for evidence, renderer in pairs]
        return torch.stack(found, 1)

    def starts(self) -> Float[Tensor, "pose 3"]:
        """The poses from which :meth:`estimate` begins."""
        return searched_space(self.space, self.solver).grid()

    @torch.no_grad()
    def occlusion(
        self,
        image: Float[Tensor, "batch 3 height width"],
        camera: Camera,
        viewpoint: Float[Tensor, "batch 3"],
        placement: Float[Tensor, "batch 3"] | None = None,
    ) -> Float[Tensor, "batch h w"]:
        """Occlusion map at a pose (and ``placement`` in map pixels, where the solver found one), see
        :func:`nvsm_lightning.pose.likelihood.occlusion_map`; of several meshes the likeliest. 0 also in the fill around
        the picture, where there is nothing to be seen or hidden.
        """
        feature_map = self.features(image)
        best = self.likeliest(feature_map, viewpoint, camera.scaled(1 / STRIDE)) if len(self.meshes) > 1 else None
        below = self.bank_settings.hidden_below
        evidence = self._all(feature_map, camera)
        maps = [occlusion_map(found, viewpoint, renderer, below, placement) for found, renderer in evidence]
        found = maps[0] if best is None else torch.stack(maps)[best, torch.arange(len(best), device=best.device)]
        return found * camera.scaled(1 / STRIDE).shows((found.shape[-2], found.shape[-1]))

    @torch.no_grad()
    def mirror_estimate(
        self,
        image: Float[Tensor, "batch 3 height width"],
        camera: Camera,
        estimate: PoseEstimate,
        subtype: Int[Tensor, " batch"] | None = None,
    ) -> PoseEstimate:
        """The better, by loss, of ``estimate`` and the pose of the mirrored picture mirrored back, or the
        middle of both where they stand at one peak: symmetric categories only.
        """
        return better_of(estimate, self.estimate(image.flip(-1), mirror_camera(camera, image.shape[-1]), subtype))


@dataclass(frozen=True)
class _Entry:
    """The (picture, vertex) pairs seen of one mesh in some pictures of one part of a batch, ``share`` of it."""

    number: int
    feature: Float[Tensor, "pair dim"]
    vertex: Int[Tensor, " pair"]
    weight: Float[Tensor, " pair"]
    noise: Float[Tensor, "noise dim"]
    share: float
