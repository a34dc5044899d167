"""Matching unlabelled pictures with synthesised features: NVSM's E-step.

What each picture loses at every pose, its refined modes, and, once the whole pool is known, one pose a picture with its
score and margin.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error
from nvsm_lightning.matching.calibration import CALIBRATIONS, calibrate
from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence, gather_evidence, object_scores
from nvsm_lightning.pose.solver import distinct_modes, refine
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.render.renderer import FeatureRenderer

SOURCES = ("bank", "anchors", "anchors_mean")
ENGINES = ("table", "products", "products_bf16")
FINAL = ("none", "robust", "balanced")  # those that leave the losses their scale
BANKS = ("training", "labels", "many")
MODES = 2  # refined of every picture: a car and its front/back twin
MODE_DISTANCE = math.pi / 2


@dataclass
class MatchSettings:
    """How pictures are matched.

    Attributes:
        source: what is synthesised: "bank" (mean features of all labelled, later also pseudo-labelled pictures),
            "anchors" (features of each labelled picture at poses around its own, the best anchor counting; finer in
            angle, confuses front and back more often) or "anchors_mean" (the mean over the anchors that reach a pose).
        score: of the bank: "area" (object minus clutter similarity, mean over the covered cells, so that poses of
            different silhouettes compare), "likelihood" (the objective of NeMo, over all cells), or "auto": likelihood
            where boxes stand for cameras, as every silhouette then fills the box; else area, which is better by 10 to
            30 points on frozen features. Anchors are scored by area, over the cells of what each has seen; the poses
            that they find are refined on the bank.
        clutter: share of the clutter similarity that is subtracted; 0 leaves the object's similarity alone (with score
            "likelihood" the S of the paper: the mean over all cells).
        mirror: also score the mirrored picture at the mirrored poses and take the mean (mirror-consistent scoring; only
            where ``--data.mirror`` says that the category is symmetric). Doubles the time of the features.
        calibration: what a score is compared with before the best pose is taken: "none", "zscore" (mean and deviation
            of the pose over the pool, which takes the pool to be uniform in pose), "robust" (the mean over the
            pictures whose best pose is elsewhere) or "balanced" (the mean over all, rare views counting as much as
            frequent ones), see :mod:`nvsm_lightning.matching.calibration`.
        calibration_deg: robust: elsewhere = further than this; balanced: poses nearer than this are one view.
        calibration_rounds: E-steps that are calibrated so, from the first. The bias is that of untrained features; once
            a network has learned from good pseudo labels its scores are better than their robust null (2,600 cars,
            after four rounds: 93 % of the pool right without calibration, 88 % with it).
        later_calibration: of the E-steps after these. Balanced suits trained features and not untrained ones (2,600
            cars, first E-step: 68 and 70 % of the pool right with it, 81 with robust).
        final_calibration: null that is taken off the losses of estimates once the fit has ended: "none", "robust" or
            "balanced", over the pool (or ``trainer.em.pool_per_round`` pictures of it) as the final network scores it.
            Views that few pseudo labels show score less, and are taken for their opposites where nothing is taken off.
        final_bank: what the bank holds for estimates once the fit has ended: "training" (means over labelled and
            pseudo-labelled pictures, as training has moved them), "labels" (means over the labelled pictures alone, by
            the final network; a vertex that none of them shows keeps its mean), or "many" (labels where there are
            ``trainer.em.many_labels`` of them, else training). A bank made of pseudo labels repeats
            some of what they are off by in common, above all in elevation; with seven labels (EPFL cars) that is not
            worse than means over so few pictures.
        anchor_ring_deg: with source anchors: poses up to this far from an anchor's own are synthesised from it.
        steps: Adam steps that refine the best pose of a picture; 0 keeps the grid pose.
        engine: how the poses of the grid are scored: "table" (similarity table of every picture, drawn by its own
            camera), "products" (maps synthesised once a camera, float32 matrix products with the pictures' maps) or
            "products_bf16". Score "area" only. The same numbers up to rounding where pictures share cameras
            (``--data.crop.camera canonical``); else distances are rounded to 10 % and boxes to cells.
    """

    source: str = "bank"
    score: str = "auto"
    clutter: float = 1.0
    mirror: bool = False
    calibration: str = "none"
    calibration_deg: float = 45.0
    calibration_rounds: int = 1
    later_calibration: str = "none"
    final_calibration: str = "none"
    final_bank: str = "training"
    anchor_ring_deg: float = 45.0
    steps: int = 12
    engine: str = "table"

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ConfigError(f"Unknown source {self.source!r} of the E-step. Choose one of {SOURCES}.")
        if self.source != "bank" and self.score == "likelihood":
            raise ConfigError(
                f"model.match.source {self.source} is scored by area, not by likelihood, which asks about all cells: "
                "an anchor has seen some of them. Set model.match.score auto or area, or source bank."
            )
        if self.engine not in ENGINES:
            raise ConfigError(f"Unknown engine {self.engine!r} of the E-step. Choose one of {ENGINES}.")
        for kind in (self.calibration, self.later_calibration):
            if kind not in CALIBRATIONS:
                raise ConfigError(f"Unknown calibration {kind!r} of the E-step. Choose one of {CALIBRATIONS}.")
        if self.final_calibration not in FINAL:
            raise ConfigError(f"Unknown final_calibration {self.final_calibration!r}. Choose one of {FINAL}.")
        if self.final_bank not in BANKS:
            raise ConfigError(f"Unknown final_bank {self.final_bank!r}. Choose one of {BANKS}.")
        if not 0 <= self.clutter <= 1:
            raise ConfigError(f"match.clutter is the share that is subtracted, between 0 and 1, not {self.clutter}.")
        if self.calibration_rounds < 1 or not 0 <= self.calibration_deg <= 180:
            raise ConfigError(f"The E-step needs calibration_rounds >= 1 and calibration_deg in [0, 180]; got {self}.")
        if self.score not in ("auto", *OBJECTIVES):
            raise ConfigError(
                f"Unknown score {self.score!r} of the E-step. Choose auto or one of {sorted(OBJECTIVES)}."
            )

    def calibration_in(self, round: int) -> str:
        """The calibration of an E-step, counted from 0."""
        return self.calibration if round < self.calibration_rounds else self.later_calibration

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
    mean: bool = False,
) -> Float[Tensor, "batch pose"]:
    """``1 - max_a S_a``: for every grid pose the best anchor within ``ring`` radians of it; with ``mean`` the mean S_a
    of the anchors within it.

    ``S_a`` is the mean, over the cells in which vertices seen by the anchor are rendered, of object minus clutter
    similarity; zeros of hidden vertices neither help nor hurt. Poses that no anchor reaches get infinity.
    """
    losses = torch.full((len(feature_map), len(grid)), torch.inf, device=feature_map.device)
    total, reached = torch.zeros_like(losses), torch.zeros_like(losses)
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
        total[:, near] += (1 - value).nan_to_num(posinf=0.0)
        reached[:, near] += value.isfinite()
    return torch.where(reached > 0, total / reached, torch.inf) if mean else losses


def mirrored_poses(grid: Float[Tensor, "pose 3"]) -> Int[Tensor, " pose"]:
    """For every grid pose the position of the pose that the mirrored picture shows (the nearest one of the grid)."""
    return viewpoint_error(mirror_viewpoint(grid)[:, None], grid[None]).argmin(1)


def refined_modes(
    evidence: Evidence,
    losses: Float[Tensor, "batch pose"],
    space: PoseSpace,
    renderer: FeatureRenderer,
    objective: str,
    steps: int,
) -> Float[Tensor, "batch mode 3"]:
    """The best grid pose of each picture and the best one a quarter turn or more away, refined by ``steps`` Adam steps
    on ``evidence``: which of them the picture has is decided when the whole pool is known.
    """
    start = distinct_modes(losses, space.grid().to(losses), MODES, MODE_DISTANCE)
    if steps:
        start = refine(evidence, start, renderer, space.free_mask().to(losses), steps, 0.1, 0.3, objective)[0]
    start[..., 0] %= 2 * torch.pi
    return start


@dataclass(frozen=True)
class Choice:
    """One pose for each picture of the pool; NaN for skipped pictures.

    Attributes:
        viewpoint: the best pose, refined.
        score: its similarity S, not calibrated.
        margin: by how much the calibrated loss of the best pose beats that of its best rival.
        best: the best pose of the grid, before refinement.
    """

    viewpoint: Float[Tensor, "pool 3"]
    score: Float[Tensor, " pool"]
    margin: Float[Tensor, " pool"]
    best: Int[Tensor, " pool"]


def calibrated_losses(
    losses: Float[Tensor, "pool pose"], apart: Float[Tensor, "pose pose"], settings: MatchSettings, round: int
) -> Float[Tensor, "pool pose"]:
    """Losses by the calibration of an E-step, poses ``apart`` by so many radians; infinite in rows of skipped
    pictures."""
    radius = math.radians(settings.calibration_deg)
    calibrated = calibrate(losses, apart, settings.calibration_in(round), radius)
    return calibrated.nan_to_num(nan=torch.inf, posinf=torch.inf)


def choose(
    losses: Float[Tensor, "pool pose"],
    modes: Float[Tensor, "pool mode 3"],
    grid: Float[Tensor, "pose 3"],
    settings: MatchSettings,
    rival: float,
    round: int = 0,
) -> Choice:
    """The best pose of every picture by its calibrated losses.

    The margin is the loss of the best grid pose more than ``rival`` radians away minus that of the best grid pose: both
    from the same table before refinement, because a refined rival may walk into the winner.
    """
    apart = viewpoint_error(grid[:, None], grid[None])
    calibrated, rows = calibrated_losses(losses, apart, settings, round), torch.arange(len(losses))
    best, skipped = calibrated.argmin(1), losses.isnan().any(1)
    rival_loss = calibrated.masked_fill(apart[best] <= rival, torch.inf).amin(1)
    margin = (rival_loss - calibrated[rows, best]).nan_to_num(posinf=0.0)
    # The refined mode that belongs to the best grid pose, if one does (calibration may choose a third).
    distance, mode = viewpoint_error(modes, grid[best][:, None]).nan_to_num(nan=torch.inf).min(1)
    viewpoint = torch.where((distance <= rival)[:, None], modes[rows, mode], grid[best])
    missing = torch.where(skipped, torch.nan, 0.0)
    return Choice(viewpoint + missing[:, None], 1 - losses[rows, best], margin + missing, best)
