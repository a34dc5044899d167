"""Matching unlabelled pictures with synthesised features (E-step a, b; §4.4).

Gives the best pose of each picture, its score and its margin.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence, gather_evidence, object_scores
from nvsm_lightning.pose.solver import distinct_modes, refine
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.render.renderer import FeatureRenderer


@dataclass
class MatchSettings:
    """How pictures are matched.

    Attributes:
        source: what is synthesised: "bank" (mean features of all labelled, later also pseudo-labelled pictures) or
            "anchors" (features of each labelled picture at poses around its own, the best anchor counting; finer in
            angle, confuses front and back more often).
        score: "area" (object minus clutter similarity, mean over the covered cells, so that poses of different
            silhouettes compare), "likelihood" (the objective of NeMo, over all cells), or "auto": likelihood where
            boxes stand for cameras, as every silhouette then fills the box; else area, which is better by 10 to 30
            points on frozen features.
        anchor_ring_deg: with source anchors: poses up to this far from an anchor's own are synthesised from it.
        steps: Adam steps that refine the best pose of a picture; 0 keeps the grid pose.
    """

    source: str = "bank"
    score: str = "auto"
    anchor_ring_deg: float = 45.0
    steps: int = 12

    def __post_init__(self) -> None:
        if self.source not in ("bank", "anchors"):
            raise ConfigError(f"Unknown source {self.source!r} of the E-step. Choose bank or anchors.")
        if self.score not in ("auto", *OBJECTIVES):
            raise ConfigError(
                f"Unknown score {self.score!r} of the E-step. Choose auto or one of {sorted(OBJECTIVES)}."
            )

    def objective(self, camera: Camera) -> str:
        """The score for a set of pictures, by the cameras of its labelled ones."""
        if self.score != "auto":
            return self.score
        return "likelihood" if bool(camera.box.isfinite().all()) else "area"


@dataclass(frozen=True)
class Anchors:
    """Labelled pictures as sources of synthesis: vertex features (zero where hidden), visibility and pose of each."""

    vertex: Float[Tensor, "anchor vertex dim"]
    visible: Bool[Tensor, "anchor vertex"]
    viewpoint: Float[Tensor, "anchor 3"]


def anchor_losses(
    feature_map: Float[Tensor, "batch dim h w"],
    clutter_feature: Float[Tensor, " dim"],
    camera: Camera,
    anchors: Anchors,
    grid: Float[Tensor, "pose 3"],
    ring: float,
    renderer: FeatureRenderer,
) -> Float[Tensor, "batch pose"]:
    """``1 - max_a S_a``: for every grid pose the best anchor within ``ring`` radians of it.

    ``S_a`` is the mean, over the cells in which vertices seen by the anchor are rendered, of object minus clutter
    similarity; zeros of hidden vertices neither help nor hurt. Poses that no anchor reaches get infinity.
    """
    losses = torch.full((len(feature_map), len(grid)), torch.inf, device=feature_map.device)
    for number in range(len(anchors.viewpoint)):
        near = viewpoint_error(grid, anchors.viewpoint[number]) <= ring
        if not near.any():
            continue
        poses = grid[near].expand(len(feature_map), -1, -1)
        evidence = gather_evidence(feature_map, anchors.vertex[number], clutter_feature, camera)
        seen = anchors.visible[number].to(evidence.table)
        presence = Evidence(seen.expand_as(evidence.table), evidence.clutter, camera)
        score, _ = object_scores(evidence, poses, renderer)
        rendered, _ = object_scores(presence, poses, renderer)
        area = rendered.sum(-1)
        value = (score - rendered * evidence.clutter[:, None]).sum(-1) / area.clamp_min(1)
        value = value.masked_fill(area < 1, -torch.inf)  # a pose that shows nothing of what the anchor has seen
        losses[:, near] = torch.minimum(losses[:, near], 1 - value)
    return losses


def match_pictures(
    evidence: Evidence,
    losses: Float[Tensor, "batch pose"],
    space: PoseSpace,
    renderer: FeatureRenderer,
    objective: str,
    steps: int,
    rival: float,
) -> Float[Tensor, "batch 5"]:
    """Rows (azimuth, elevation, theta, score, margin) of a batch from its grid losses.

    The margin is the loss of the best grid pose more than ``rival`` radians away minus that of the best grid pose: both
    from the same table before refinement, because a refined rival may walk into the winner. Refinement runs on
    ``evidence`` (the bank) by ``objective``, ``steps`` Adam steps.
    """
    grid = space.grid().to(losses)
    best = losses.argmin(1)
    rows = torch.arange(len(best), device=losses.device)
    far = viewpoint_error(grid[best][:, None], grid[None]) > rival
    rival_loss = losses.masked_fill(~far, torch.inf).amin(1)
    margin = (rival_loss - losses[rows, best]).nan_to_num(posinf=0.0)
    viewpoint, score = grid[best], 1 - losses[rows, best]
    if steps:
        start = distinct_modes(losses, grid, 1, rival)
        free = space.free_mask().to(losses)
        viewpoint = refine(evidence, start, renderer, free, steps, 0.1, 0.3, objective)[0][:, 0]
        viewpoint[:, 0] %= 2 * torch.pi
    return torch.cat((viewpoint, score[:, None], margin[:, None]), 1)
