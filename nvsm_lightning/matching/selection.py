"""Which matches of NVSM's E-step become pseudo labels: rings, gates and quotas."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.viewpoints import azimuth_bin, viewpoint_error
from nvsm_lightning.matching.pseudo import PseudoLabels

TURN_BINS = 12
GATES = ("margin", "product", "ranks")
LEAST_WEIGHT = 0.1  # of a soft label: what was kept counts a little at least


@dataclass
class SelectionSettings:
    """The gates of the E-step. Our choices where NVSM's poster gives no numbers.

    Attributes:
        ring_deg: a pose is open in round t when it lies within ``ring_deg * (t + 1)`` of a labelled pose: the pose
            samples grow outwards.
        gate: what a match is ranked by: "margin", "product" (margin times score: sure of front against back, and a
            good match at all; more precise where the features are weak, as precise elsewhere), or "ranks" (the sum of
            the places by margin and by score).
        first_share: share of the pool (of the pictures that the round looks at) kept in the first round, the best by
            the gate.
        last_share: share kept in the last round; linear in between.
        bin_floor: each of 12 azimuth bins keeps at least ``bin_floor`` times the round's share of its own pictures, so
            that the easy views do not crowd out the others.
        min_score: lowest score S of a match; -2, the lowest there is, lets all pass.
        score_quantile: matches below this quantile of the pool's scores are dropped.
        agree_deg: drop matches whose best poses by the two sources (bank and anchors), each by its own calibrated
            losses, are further apart than this; 0 = do not ask, else both are matched.
        weight: "hard" (every pseudo label counts as a label) or "soft" (those ranked below the median of the kept ones
            weigh less in the loss, in proportion to what they are ranked by).
        rival_deg: the rival of the margin is the best pose at least this far away.
    """

    ring_deg: float = 45.0
    gate: str = "product"
    first_share: float = 0.35
    last_share: float = 0.6
    bin_floor: float = 0.5
    min_score: float = -2.0
    score_quantile: float = 0.0
    agree_deg: float = 0.0
    weight: str = "hard"
    rival_deg: float = 30.0

    def __post_init__(self) -> None:
        if self.gate not in GATES:
            raise ConfigError(f"Unknown gate {self.gate!r} of the E-step. Choose one of {GATES}.")
        if self.weight not in ("hard", "soft"):
            raise ConfigError(f"Unknown weight {self.weight!r} of the E-step. Choose hard or soft.")
        if not 0 <= self.score_quantile < 1 or self.agree_deg < 0:
            raise ConfigError(f"Selection needs score_quantile in [0, 1) and agree_deg >= 0; got {self}.")
        if not 0 < self.rival_deg < 180:
            raise ConfigError(f"Selection needs rival_deg between 0 and 180: no pose is further away; got {self}.")
        if not 0 < self.first_share <= 1 or not 0 < self.last_share <= 1 or not 0 <= self.bin_floor <= 1:
            raise ConfigError(f"Selection needs shares in (0, 1] and bin_floor in [0, 1]; got {self}.")

    def share(self, round: int, rounds: int) -> float:
        """Share of the pool kept in ``round`` of ``rounds``."""
        step = round / max(1, rounds - 1)
        return self.first_share + (self.last_share - self.first_share) * step


def nearest_anchor(
    viewpoint: Float[Tensor, "label 3"], anchors: Float[Tensor, "anchor 3"]
) -> tuple[Int[Tensor, " label"], Float[Tensor, " label"]]:
    """For each pose the nearest labelled pose: its position and its distance in radians."""
    distance, anchor = viewpoint_error(viewpoint[:, None], anchors[None]).min(1)
    return anchor, distance


def select(
    round: int,
    rounds: int,
    viewpoint: Float[Tensor, "pool 3"],
    score: Float[Tensor, " pool"],
    margin: Float[Tensor, " pool"],
    anchors: Float[Tensor, "anchor 3"],
    settings: SelectionSettings,
    disagreement: Float[Tensor, " pool"] | None = None,
) -> PseudoLabels:
    """Pseudo labels of a round from each picture's best pose, its score and its margin (NaN rows: pictures skipped).

    ``disagreement``: distance in radians of the best poses by two sources, if both were asked.

    One picture has one label, whatever labelled pictures match it: its best pose is what the rows already hold. A
    picture whose best pose is not open yet waits for a later round. Ties in the rank go to the lower index, so that the
    choice is the same on every process.
    """
    anchor, distance = nearest_anchor(viewpoint.nan_to_num(), anchors)
    ring = torch.deg2rad(torch.tensor(settings.ring_deg * (round + 1)))
    usable = score.isfinite()
    eligible = usable & (score >= settings.min_score) & (distance <= ring)
    if settings.score_quantile and usable.any():
        eligible &= score >= score[usable].quantile(settings.score_quantile)
    if settings.agree_deg and disagreement is not None:
        eligible &= disagreement <= math.radians(settings.agree_deg)
    share = settings.share(round, rounds)
    rank = torch.where(eligible, gate_rank(score, margin, settings.gate), -torch.inf)
    keep = _best(rank, usable, share, least=1)  # one, of a pool of one or two
    bins = azimuth_bin(viewpoint.nan_to_num(), TURN_BINS)
    for turn in range(TURN_BINS):
        keep |= _best(rank, usable & (bins == turn), share * settings.bin_floor)
    index = (keep & eligible).nonzero()[:, 0]
    return PseudoLabels(round, index, viewpoint[index], score[index], margin[index], anchor[index])


def gate_rank(score: Float[Tensor, " pool"], margin: Float[Tensor, " pool"], gate: str) -> Float[Tensor, " pool"]:
    """What matches are ranked by: the best is kept first."""
    if gate == "ranks":
        seen = score.isfinite()
        places = torch.stack([value[seen].argsort(stable=True).argsort() for value in (margin, score)])
        return torch.full_like(score, torch.nan).masked_scatter(seen, places.sum(0).to(score))
    # of a match that scores nothing, or less, a wide margin says nothing
    return torch.where(score > 0, margin * score, score) if gate == "product" else margin


def label_weights(rank: Float[Tensor, " label"], kind: str) -> Float[Tensor, " label"]:
    """Weights of the kept pseudo labels in the loss (``SelectionSettings.weight``), in (0, 1]."""
    if kind == "hard" or len(rank) == 0:
        return torch.ones_like(rank)
    return (rank / rank.median().clamp_min(1e-6)).clamp(LEAST_WEIGHT, 1)


def _best(
    rank: Float[Tensor, " pool"], members: Bool[Tensor, " pool"], share: float, least: int = 0
) -> Bool[Tensor, " pool"]:
    """The ``share`` of ``members`` with the highest rank, but not fewer than ``least``, as a mask."""
    position = members.nonzero()[:, 0]
    order = rank[position].argsort(descending=True, stable=True)
    mask = torch.zeros_like(members)
    mask[position[order[: max(least, int(share * len(position)))]]] = True
    return mask
