"""Single-anchor matching: how far off is the picture that matches a labelled one, seen from a shifted pose?

The experiment of NVSM's released code. For each anchor (a labelled picture) its features are synthesised at shifted
poses; the pictures of the pool that match best should have the shifted pose. The true poses of the pool serve here to
measure, never to match.
"""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from rich.progress import track
from torch import Tensor

from nvsm_lightning.bench.contenders import Contender
from nvsm_lightning.bench.pool_features import PoolFeatures
from nvsm_lightning.bench.retrieval import TwoStage, pair_scores
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.features.backbone import STRIDE, Backbone
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.matching.feature_cache import FeatureCache
from nvsm_lightning.matching.matcher import Anchors
from nvsm_lightning.matching.shortlist import LISTED
from nvsm_lightning.methods.neural_mesh import NeuralMesh
from nvsm_lightning.metrics.pose import pose_error
from nvsm_lightning.pose.likelihood import Evidence, gather_evidence, object_scores
from nvsm_lightning.pose.space import ANGLES
from nvsm_lightning.render.renderer import FeatureRenderer

FLOOR, CHANCE = "nearest pose in the pool", "any picture"  # rows that need no features


@dataclass
class MatchingSpec:
    """The matching experiment.

    Attributes:
        anchors: labelled pictures to synthesise from: the first of the draw (raise --data.labels for more).
        azimuths_deg: shifts of the azimuth, degrees.
        elevations_deg: shifts of the elevation; left out where a data set labels azimuths only.
        thetas_deg: shifts of the in-plane angle; left out where a data set labels azimuths only.
        top: pictures taken for each anchor and shift, those with the highest score.
        synthesis: "vertex" (vertex features against map cells, interpolated afterwards: fast) or "map" (the dense
            feature map is rendered and compared, as the paper writes it). Both give the same number.
        score: "area" (mean similarity over the cells that show what the anchor has seen) or "mean" (S of the paper,
            mean over all cells of the map: of pictures of different size it prefers the larger object).
        features: untrained features to compare: layer2, layer3, layer4 (with the head upsample), project (both taps,
            what a fit starts from), random (no pretrained weights).
        same_group: also match pictures of the anchor's own group (sequence, object or CAD model), which is much easier.
            Where all pictures are of one group it tells nothing, and all are matched.
        gallery: anchors shown in the galleries; 0 draws none.
        cache: folder that keeps feature maps of the pool (bf16, 0.31 MB for a picture of 160 x 384):
            the next measurement of the same weights, crops and pictures does not read the pictures again. Empty: none.
        cache_gb: gigabytes that the folder may take; what was not used for longest is deleted.
        retrieval: "all" (every picture is scored for every anchor and shift) or "two_stage" (only those on a short list
            by sketches of the maps; needs ``cache``).
        shortlist: with two_stage: pictures that are scored for each anchor and shift.
    """

    anchors: int = 7
    azimuths_deg: list[float] = field(default_factory=lambda: [15.0 * step for step in range(-4, 5)])
    elevations_deg: list[float] = field(default_factory=lambda: [-30.0, -15.0, 0.0, 15.0, 30.0])
    thetas_deg: list[float] = field(default_factory=lambda: [-30.0, -15.0, 0.0, 15.0, 30.0])
    top: int = 3
    synthesis: Literal["vertex", "map"] = "vertex"
    score: Literal["area", "mean"] = "area"
    features: list[str] = field(default_factory=lambda: ["layer2", "layer3", "project", "random"])
    same_group: bool = False
    gallery: int = 3
    cache: str = ""
    cache_gb: float = 20.0
    retrieval: Literal["all", "two_stage"] = "all"
    shortlist: int = LISTED

    def __post_init__(self) -> None:
        if self.anchors < 1 or self.top < 1 or self.gallery < 0 or not self.azimuths_deg:
            raise ConfigError(f"The matching experiment needs >= 1 anchor, top picture and azimuth shift; got {self}.")
        if self.shortlist < self.top or self.cache_gb <= 0:
            raise ConfigError(
                f"The matching experiment needs a shortlist of at least {self.top} pictures (top) and cache_gb > 0; "
                f"got {self}."
            )
        if self.retrieval == "two_stage" and not self.cache:
            raise ConfigError(
                "--retrieval two_stage reads the feature maps twice: give a folder for them with --cache."
            )

    def shifts(self, azimuth_only: bool) -> list[tuple[str, float]]:
        """(angle, degrees) of every shift."""
        lists = (self.azimuths_deg, self.elevations_deg, self.thetas_deg)
        pairs = zip(ANGLES[:1] if azimuth_only else ANGLES, lists, strict=False)
        return [(angle, degrees) for angle, values in pairs for degrees in values]


@dataclass(frozen=True)
class Matches:
    """What one contender found; NaN scores and errors where an anchor has fewer candidates than ``top``."""

    name: str
    epochs: int | None
    index: Int[Tensor, "anchor shift top"]
    score: Float[Tensor, "anchor shift top"]
    error: Float[Tensor, "anchor shift top"]  # radians


def score_shifts(
    feature_map: Float[Tensor, "batch dim h w"],
    camera: Camera,
    anchor: Anchors,
    poses: Float[Tensor, "pose 3"],
    renderer: FeatureRenderer,
    synthesis: str = "vertex",
    score: str = "area",
) -> Float[Tensor, "batch pose"]:
    """NVSM's similarity S of every picture with the features of one anchor at every pose.

    The pictures' own cameras draw the anchor (``camera`` in map pixels), as in the E-step. See :class:`MatchingSpec`
    for ``synthesis`` and ``score``; ``anchor`` holds one anchor.
    """
    vertex, seen = anchor.vertex[0], anchor.visible[0].to(anchor.vertex)
    if synthesis == "map":
        rows = [
            pair_scores(
                feature_map[item].expand(len(poses), -1, -1, -1),
                camera[item : item + 1].expanded(len(poses)),
                anchor,
                poses,
                renderer,
                score,
            )
            for item in range(len(feature_map))
        ]  # fmt: skip - one picture at a time: a map of every channel and pose is large
        return torch.stack(rows)
    views = poses.expand(len(feature_map), -1, -1)
    evidence = gather_evidence(feature_map, vertex, torch.zeros_like(vertex[0]), camera)
    total = object_scores(evidence, views, renderer)[0].sum(-1)
    if score == "mean":
        return total / evidence.table.shape[1]
    presence = Evidence(seen.expand_as(evidence.table), evidence.clutter, camera)
    return total / object_scores(presence, views, renderer)[0].sum(-1).clamp_min(1)


class Matching:
    """The experiment on one data set.

    Args:
        model: mesh and renderer, and how vertices are read; its backbone is not used.
        data: has been set up.
        spec: the settings.
        device: where it runs.
        precision: context in which networks run, as in training.

    Raises:
        ConfigError: more anchors asked for than there are labels.
        DataError: no picture of the pool may be matched with some anchor.
    """

    def __init__(
        self,
        model: NeuralMesh,
        data: PoseData,
        spec: MatchingSpec,
        device: torch.device,
        precision: Any = nullcontext,
    ) -> None:
        self.model, self.data, self.spec, self.device = model, data, spec, device
        self.precision: Any = precision
        if spec.anchors > len(data.labelled):
            raise ConfigError(
                f"{spec.anchors} anchors need as many labelled pictures, and there are {len(data.labelled)}; "
                f"give --data.labels {spec.anchors} or lower --anchors."
            )
        self.azimuth_only = data.azimuth_only
        self.shifts = spec.shifts(self.azimuth_only)
        self.truth = data.pool_truth().float()
        records = data.labelled[: spec.anchors]
        anchor = torch.tensor([record.viewpoint for record in records]).float()
        offset = torch.zeros(len(self.shifts), 3)
        for row, (angle, degrees) in enumerate(self.shifts):
            offset[row, ANGLES.index(angle)] = math.radians(degrees)
        self.poses = anchor[:, None] + offset  # [anchor, shift, 3]
        self.candidates = self._candidates([record.group for record in records])

    @property
    def leaves_out_own_group(self) -> bool:
        """Whether pictures of an anchor's own group are not matched with it."""
        return not self.spec.same_group and len({record.group for record in (*self.data.labelled, *self.data.pool)}) > 1

    def _candidates(self, groups: list[str]) -> Bool[Tensor, "anchor pool"]:
        """Pictures of known pose that each anchor may be matched with."""
        known = self.truth[:, 0].isfinite()
        if not known.any():
            raise DataError(
                f"{self.data.root}: matching is measured with the true poses of the pool, and none of its "
                f"{len(known)} pictures has one here. Give labelled rows (split train) that are not drawn as anchors."
            )
        pool = [record.group for record in self.data.pool]
        own = [[bool(group) and group == other for other in pool] for group in groups]
        candidates = known.repeat(len(groups), 1)
        if self.leaves_out_own_group:
            candidates &= ~torch.tensor(own, dtype=torch.bool).reshape(candidates.shape)
        if not candidates.any(1).all():
            raise DataError(
                f"{self.data.root}: of the pool of {len(known)} pictures ({int(known.sum())} of known pose) an anchor "
                "may be matched with none, as all are of its own group; give more data, or --same_group true."
            )
        return candidates

    @torch.no_grad()
    def run(self, contender: Contender) -> tuple[Matches, Backbone]:
        """Match the pool with every anchor at every shift; the network is returned for the gallery."""
        backbone = contender.build().to(self.device).eval()
        if not contender.centred:
            with self.precision():
                backbone.calibrate((batch["image"], batch["camera"]) for batch in self._moved(self._anchor_batches()))
        anchors = self.anchor_features(backbone)
        if self.spec.cache:
            score = self._cached_scores(contender.name, backbone, anchors)
        else:
            score = self._scores(contender.name, backbone, anchors)
        return self.best(contender, score), backbone

    def _scores(self, name: str, backbone: Backbone, anchors: Anchors) -> Float[Tensor, "anchor shift pool"]:
        score = self._no_scores(anchors)
        loader = self.data.pool_dataloader()
        for batch in self._moved(track(loader, f"{name:<24}", total=len(loader))):
            feature_map = self.features(backbone, batch["image"])
            self._score(score, anchors, feature_map, batch["camera"].scaled(1 / STRIDE), batch["index"].cpu())
        return score

    def _cached_scores(self, name: str, backbone: Backbone, anchors: Anchors) -> Float[Tensor, "anchor shift pool"]:
        """The same from the feature cache: of all pictures, or of those on short lists."""
        with self.precision():
            kind = self.device.type
            precision = str(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
        cache = FeatureCache(Path(self.spec.cache), self.spec.cache_gb)
        features = PoolFeatures(self.data, backbone, partial(self._moved_features, backbone), name, precision, cache)
        shards = partial(features.shards, f"{name:<24}")
        first = next(iter(shard for position, shard in features.shards() if len(position)))
        if self.spec.retrieval == "two_stage":
            renderer = self.model.renderer(first.maps[:1].to(self.device))
            stages = TwoStage(shards, renderer, self.spec.shortlist, self.spec.score)
            return stages.scores(anchors, self.poses.to(self.device), self.candidates)
        score = self._no_scores(anchors)
        for position, shard in shards():
            for rows in torch.arange(len(position)).split(self.data.batch_size):
                feature_map, camera = shard.maps[rows].to(self.device).float(), shard.camera[rows].to(self.device)
                self._score(score, anchors, feature_map, camera, position[rows])
        return score

    def _no_scores(self, anchors: Anchors) -> Float[Tensor, "anchor shift pool"]:
        return torch.full((len(anchors.viewpoint), len(self.shifts), len(self.data.pool)), torch.nan)

    def _score(
        self, score: Tensor, anchors: Anchors, feature_map: Tensor, camera: Camera, position: Int[Tensor, " picture"]
    ) -> None:
        """Fill in the scores of some pictures; ``camera`` in map pixels."""
        renderer = self.model.renderer(feature_map)
        for number in range(len(score)):
            one = Anchors(*(part[number : number + 1] for part in vars(anchors).values()))
            poses = self.poses[number].to(self.device)
            rows = score_shifts(feature_map, camera, one, poses, renderer, self.spec.synthesis, self.spec.score)
            score[number, :, position] = rows.T.cpu()

    def _moved_features(self, backbone: Backbone, image: Tensor) -> Float[Tensor, "batch dim h w"]:
        return self.features(backbone, image.to(self.device))

    def features(self, backbone: Backbone, image: Tensor) -> Float[Tensor, "batch dim h w"]:
        """Feature maps in the precision of training."""
        with self.precision():
            return backbone(image)

    def anchor_features(self, backbone: Backbone) -> Anchors:
        """Vertex features of the anchors at their own poses."""
        vertex, visible, viewpoint = [], [], []
        for batch in self._moved(self._anchor_batches()):
            feature_map = self.features(backbone, batch["image"])
            read, seen = self.model.read(feature_map, batch["viewpoint"], batch["camera"].scaled(1 / STRIDE))
            vertex.append(read)
            visible.append(seen)
            viewpoint.append(batch["viewpoint"])
        parts = (torch.cat(part)[: self.spec.anchors] for part in (vertex, visible, viewpoint))
        return Anchors(*parts)

    def best(self, contender: Contender, score: Float[Tensor, "anchor shift pool"]) -> Matches:
        """The pictures with the highest score, and their errors."""
        score = score.masked_fill(~self.candidates[:, None] | score.isnan(), -torch.inf)
        best, index = score.topk(min(self.spec.top, score.shape[-1]))
        nothing = best.isinf()
        error = pose_error(self.poses[:, :, None].expand(*index.shape, 3).flatten(0, 2), self.truth[index.flatten()])
        error = error.view_as(best).masked_fill(nothing, torch.nan)
        return Matches(contender.name, contender.epochs, index, best.masked_fill(nothing, torch.nan), error)

    def references(self) -> list[Matches]:
        """Two rows that need no features: the pictures that are nearest in pose (no match can be better), and all."""
        size = (*self.poses.shape[:2], len(self.truth))
        error = pose_error(
            self.poses[:, :, None].expand(*size, 3).flatten(0, 2), self.truth.repeat(size[0] * size[1], 1)
        )
        error = error.view(size).masked_fill(~self.candidates[:, None], torch.nan)
        index = torch.arange(size[2]).expand(size)
        low, nearest = error.nan_to_num(torch.inf).topk(min(self.spec.top, size[2]), largest=False)
        low = low.masked_fill(low.isinf(), torch.nan)
        none = torch.full_like(error, torch.nan)
        return [
            Matches(FLOOR, None, nearest, none[..., : low.shape[-1]], low),
            Matches(CHANCE, None, index, none, error),
        ]

    def _anchor_batches(self) -> Iterable[dict[str, Any]]:
        return self.data.anchor_dataloader()

    def _moved(self, batches: Iterable[Any]) -> Iterable[dict[str, Any]]:
        for batch in batches:
            movable = (Tensor, Camera)
            yield {key: value.to(self.device) if isinstance(value, movable) else value for key, value in batch.items()}
