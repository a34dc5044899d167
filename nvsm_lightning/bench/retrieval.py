"""Retrieval in two stages: a short list of pictures by sketches of their maps, then the exact score of those."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.matching.feature_cache import Shard
from nvsm_lightning.matching.matcher import Anchors
from nvsm_lightning.matching.products import area_queries
from nvsm_lightning.matching.shared_cameras import shared_cameras
from nvsm_lightning.matching.shortlist import LISTED, SAMPLE, SketchBasis, shortlist
from nvsm_lightning.matching.synthesis import map_similarity, synthesise
from nvsm_lightning.render.renderer import FeatureRenderer

PAIRS = 16  # scored together: a map of every channel is large
Shards = Callable[[], Iterator[tuple[Int[Tensor, " picture"], Shard]]]


class TwoStage:
    """Retrieval from a pool of shards.

    Args:
        shards: goes through the pool.
        renderer: of the mesh and the maps' size.
        length: of a short list, pictures.
        score: "area" or "mean", see :class:`.matching.MatchingSpec`.
    """

    def __init__(self, shards: Shards, renderer: FeatureRenderer, length: int = LISTED, score: str = "area") -> None:
        self.shards, self.renderer, self.length, self.score = shards, renderer, length, score
        parts = [(position, shard) for position, shard in shards() if len(position)]
        self.position = torch.cat([position for position, _ in parts])
        self.camera, self.group = shared_cameras(Camera.stack([shard.camera for _, shard in parts]))
        step = -(-len(self.position) // SAMPLE)
        self.basis = SketchBasis.of(torch.cat([shard.pooled[::step] for _, shard in parts]).float())
        sketches = []
        while parts:  # a shard that is let go gives its pages back
            sketches.append(self.basis.sketch(parts.pop(0)[1].pooled.float()))
        self.sketches = torch.cat(sketches)

    def lists(
        self, anchor: Anchors, poses: Float[Tensor, "pose 3"], allowed: Bool[Tensor, " pool"]
    ) -> Int[Tensor, "pose listed"]:
        """Positions in the pool of the pictures that one anchor, seen from each pose, may match best."""
        vertex, seen = anchor.vertex[0], anchor.visible[0].to(anchor.vertex)
        vertex = vertex @ self.basis.channels.to(vertex)
        score = torch.empty(len(poses), len(self.position))
        for number in range(len(self.camera)):
            camera = self.camera[number : number + 1].to(vertex.device)
            maps, area = area_queries(vertex, seen, torch.zeros_like(vertex[0]), poses, camera, self.renderer)
            if self.score == "mean":
                maps = maps * area[:, None, None, None]
            of = self.group == number
            score[:, of] = self.basis.sketch_queries(maps.cpu()) @ self.sketches[of].T
        return self.position[shortlist(score, allowed[self.position], self.length)]

    def scores(
        self,
        anchors: Anchors,
        poses: Float[Tensor, "anchor pose 3"],
        allowed: Bool[Tensor, "anchor pool"],
    ) -> Float[Tensor, "anchor pose pool"]:
        """The exact score of every picture on the short list of an anchor and a pose; NaN for the others."""
        each = [
            Anchors(*(part[number : number + 1] for part in vars(anchors).values())) for number in range(len(poses))
        ]
        lists = [self.lists(*entry) for entry in zip(each, poses, allowed, strict=True)]
        score = torch.full((*poses.shape[:2], allowed.shape[1]), torch.nan)
        row = torch.full((allowed.shape[1],), -1)
        for position, shard in self.shards():
            row.fill_(-1)[position] = torch.arange(len(position))
            for number, (anchor, listed) in enumerate(zip(each, lists, strict=True)):
                pose, column = (row[listed] >= 0).nonzero(as_tuple=True)
                for part in torch.arange(len(pose)).split(PAIRS) if len(pose) else ():
                    picture = listed[pose[part], column[part]]
                    of = row[picture]
                    maps, camera = shard.maps[of].to(poses.device), shard.camera[of].to(poses.device)
                    views = poses[number, pose[part].to(poses.device)]
                    values = pair_scores(maps.float(), camera, anchor, views, self.renderer, self.score)
                    score[number, pose[part], picture] = values.cpu()
        return score


def pair_scores(
    maps: Float[Tensor, "pair dim h w"],
    camera: Camera,
    anchor: Anchors,
    poses: Float[Tensor, "pair 3"],
    renderer: FeatureRenderer,
    score: str,
) -> Float[Tensor, " pair"]:
    """Similarity S of each map with the features of one anchor at the pose beside it, drawn by its own camera."""
    vertex, seen = anchor.vertex[0], anchor.visible[0].to(anchor.vertex)
    with torch.autocast(maps.device.type, enabled=False):
        drawn = synthesise(torch.cat((vertex, seen[:, None]), 1), poses, camera, renderer)
        similarity = map_similarity(drawn[:, :-1], maps)
        if score == "mean":
            return similarity
        return similarity * maps[0, 0].numel() / drawn[:, -1].sum((1, 2)).clamp_min(1)
