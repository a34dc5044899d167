"""Retrieval in two stages: a short list of pictures by pooled, projected maps, then the exact score of those."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.matching.feature_cache import Shard
from nvsm_lightning.matching.matcher import Anchors
from nvsm_lightning.matching.products import area_queries, map_products
from nvsm_lightning.matching.shared_cameras import shared_cameras
from nvsm_lightning.matching.shortlist import pooled, principal_channels, shortlist, sketch
from nvsm_lightning.matching.synthesis import map_similarity, synthesise
from nvsm_lightning.render.renderer import FeatureRenderer

SAMPLE = 2000  # pictures that the principal channels are taken from
PAIRS = 16  # scored together: a map of every channel is large
Shards = Callable[[], Iterator[tuple[Int[Tensor, " picture"], Shard]]]


class TwoStage:
    """Retrieval from a pool of shards.

    Args:
        shards: goes through the pool.
        renderer: of the mesh and the maps' size.
        share: of the pool that is on a short list.
        score: "area" or "mean", see :class:`.matching.MatchingSpec`.
    """

    def __init__(self, shards: Shards, renderer: FeatureRenderer, share: float = 0.1, score: str = "area") -> None:
        self.shards, self.renderer, self.share, self.score = shards, renderer, share, score
        parts = [(position, shard.pooled.clone(), shard.camera) for position, shard in shards() if len(position)]
        self.position = torch.cat([part[0] for part in parts])
        self.camera, self.group = shared_cameras(Camera.stack([part[2] for part in parts]))
        maps = torch.cat([part[1] for part in parts])
        self.basis = principal_channels(maps[:: -(-len(maps) // SAMPLE)].float())
        self.sketches = torch.cat([sketch(part.float(), self.basis) for part in maps.split(SAMPLE)])

    def lists(
        self, anchor: Anchors, poses: Float[Tensor, "pose 3"], allowed: Bool[Tensor, " pool"]
    ) -> Int[Tensor, "pose listed"]:
        """Positions in the pool of the pictures that one anchor, seen from each pose, may match best."""
        vertex, seen = anchor.vertex[0], anchor.visible[0].to(anchor.vertex)
        score = torch.empty(len(poses), len(self.position))
        for number in range(len(self.camera)):
            camera = self.camera[number : number + 1].to(vertex.device)
            maps, area = area_queries(vertex, seen, torch.zeros_like(vertex[0]), poses, camera, self.renderer)
            if self.score == "mean":
                maps = maps * area[:, None, None, None]
            of = self.group == number
            score[:, of] = map_products(sketch(pooled(maps).cpu(), self.basis), self.sketches[of])
        return self.position[shortlist(score, allowed[self.position], self.share)]

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
                for part in torch.arange(len(pose)).split(PAIRS):
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
