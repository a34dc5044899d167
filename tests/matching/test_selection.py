import math

import pytest
import torch
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.matching.selection import SelectionSettings, gate_rank, label_weights, nearest_anchor, select

OPEN = SelectionSettings(ring_deg=180.0, first_share=1.0, last_share=1.0, bin_floor=0.0, min_score=-10.0)


def poses(*azimuth_deg: float) -> Tensor:
    return torch.tensor([(math.radians(azimuth), 0.0, 0.0) for azimuth in azimuth_deg])


def choose(viewpoint: Tensor, settings: SelectionSettings, score=None, margin=None, round: int = 0, anchors=None):
    count = len(viewpoint)
    score = torch.ones(count) if score is None else torch.as_tensor(score)
    margin = torch.arange(count, 0, -1).float() if margin is None else torch.as_tensor(margin)
    return select(round, 4, viewpoint, score, margin, poses(0) if anchors is None else anchors, settings)


def changed(**changes) -> SelectionSettings:
    return SelectionSettings(**(vars(OPEN) | changes))


def test_with_open_gates_every_picture_is_labelled_with_its_own_row() -> None:
    viewpoint = poses(10, 100, 190, 280)
    labels = choose(viewpoint, OPEN, score=[0.4, 0.3, 0.2, 0.1], anchors=poses(0, 170, 300))
    assert labels.index.tolist() == [0, 1, 2, 3] and torch.equal(labels.viewpoint, viewpoint)
    assert labels.score.tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1]) and labels.margin.tolist() == [4, 3, 2, 1]
    assert labels.anchor.tolist() == [0, 1, 1, 2] and labels.round == 0


def test_the_ring_grows_with_the_round() -> None:
    viewpoint = poses(0, 40, 50, 85, 95, 130, 140, 180, 230, 320)
    open_in = [choose(viewpoint, changed(ring_deg=45.0), round=round).index.tolist() for round in range(4)]
    assert open_in == [[0, 1, 9], [0, 1, 2, 3, 9], [0, 1, 2, 3, 4, 5, 8, 9], list(range(10))]


def test_the_ring_is_that_of_the_nearest_anchor_and_counts_all_angles() -> None:
    viewpoint = torch.tensor([(0.0, 0.0, 0.0), (0.0, math.radians(50), 0.0), (0.0, 0.0, math.radians(50))])
    assert choose(viewpoint, changed(ring_deg=45.0)).index.tolist() == [0]
    anchors = torch.cat((poses(200), viewpoint[1:]))
    assert choose(viewpoint, changed(ring_deg=45.0), anchors=anchors).index.tolist() == [1, 2]
    anchor, distance = nearest_anchor(viewpoint, anchors)
    assert anchor.tolist()[1:] == [1, 2] and distance.tolist()[1:] == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize(("share", "kept"), [(0.35, 7), (0.5, 10), (1.0, 20)])
def test_the_share_is_of_the_pool_and_takes_the_largest_margins(share, kept) -> None:
    margin = torch.randperm(20, generator=torch.Generator().manual_seed(0)).float()
    labels = choose(poses(*range(0, 360, 18)), changed(first_share=share), margin=margin)
    assert len(labels) == kept and labels.index.tolist() == sorted(margin.argsort(descending=True)[:kept].tolist())


def test_the_share_grows_linearly_over_the_rounds() -> None:
    settings = SelectionSettings(first_share=0.2, last_share=0.8)
    assert [settings.share(round, 4) for round in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert settings.share(0, 1) == pytest.approx(0.2)


def test_every_turn_bin_keeps_its_floor() -> None:
    viewpoint = poses(*([10.0] * 20), *([100.0] * 10), *([200.0] * 10))
    margin = torch.cat((torch.full((20,), 5.0), torch.arange(10).float() / 10, torch.arange(10).float() / 10))
    without = choose(viewpoint, changed(first_share=0.4), margin=margin)
    assert without.index.tolist() == list(range(16))
    labels = choose(viewpoint, changed(first_share=0.4, bin_floor=0.5), margin=margin)
    # 0.4 * 0.5 of the ten pictures of each of the crowded-out bins: their two largest margins.
    assert labels.index.tolist() == [*range(16), 28, 29, 38, 39]


def test_the_floor_is_a_share_of_all_pictures_of_a_bin() -> None:
    """Not of those that pass the other gates: six of ten have too low a score."""
    viewpoint = poses(*([10.0] * 20), *([100.0] * 10))
    score = torch.ones(30)
    score[20:26] = -20.0
    margin = torch.cat((torch.full((20,), 5.0), torch.arange(10).float() / 10))
    labels = choose(viewpoint, changed(first_share=0.4, bin_floor=0.5), score=score, margin=margin)
    assert labels.index.tolist() == [*range(12), 28, 29]  # 0.4 * 0.5 of ten pictures


def test_the_floor_does_not_open_other_gates() -> None:
    labels = choose(poses(*([100.0] * 10)), changed(ring_deg=45.0, bin_floor=1.0))
    assert len(labels) == 0


def test_low_scores_are_dropped() -> None:
    labels = choose(poses(0, 90, 180), changed(min_score=0.3), score=[0.31, 0.29, 0.3])
    assert labels.index.tolist() == [0, 2]


def test_skipped_pictures_never_become_labels() -> None:
    viewpoint = poses(0, 90, 180, 270)
    score, margin = torch.ones(4), torch.ones(4)
    viewpoint[1], score[1], margin[1] = torch.nan, torch.nan, torch.nan
    score[3] = -torch.inf  # no pose of the grid was open
    labels = choose(viewpoint, changed(bin_floor=1.0), score=score, margin=margin)
    assert labels.index.tolist() == [0, 2] and labels.viewpoint.isfinite().all()


def test_ties_go_to_the_lower_index_and_the_choice_repeats() -> None:
    viewpoint = poses(*range(0, 360, 18))
    margin = torch.tensor([1.0, 2.0] * 10)
    settings = changed(first_share=0.7)
    labels = choose(viewpoint, settings, margin=margin)
    assert labels.index.tolist() == sorted([*range(1, 20, 2), 0, 2, 4, 6])
    assert all(choose(viewpoint, settings, margin=margin).index.equal(labels.index) for _ in range(3))


@pytest.mark.parametrize("wrong", [{"first_share": 0.0}, {"last_share": 1.2}, {"bin_floor": -0.1}])
def test_shares_that_cannot_be_are_errors(wrong) -> None:
    with pytest.raises(ConfigError, match="Selection needs shares"):
        SelectionSettings(**wrong)


@pytest.mark.parametrize("rival", [0.0, 180.0])
def test_a_rival_that_is_nowhere_is_an_error(rival) -> None:
    with pytest.raises(ConfigError, match="no pose is further away"):
        SelectionSettings(rival_deg=rival)


def test_the_gate_ranks_by_margin_or_by_margin_times_score() -> None:
    scores, margins = [0.1, 0.9, 0.6, -0.5], [0.5, 0.3, 0.2, 0.9]
    kept = {
        gate: choose(poses(0, 90, 180, 270), changed(gate=gate, first_share=0.5, last_share=0.5), scores, margins).index
        for gate in ("margin", "product")
    }
    assert kept["margin"].tolist() == [0, 3] and kept["product"].tolist() == [1, 2]
    assert gate_rank(torch.tensor([-0.3, 0.0, 0.2, -0.1]), torch.tensor([0.9, 0.8, 0.01, 0.1]), "product").argsort(
        descending=True
    ).tolist() == [2, 1, 3, 0]  # of scores that are not positive the higher one, whatever the margin
    with pytest.raises(ConfigError, match="gate 'score'"):
        SelectionSettings(gate="score")


def test_low_scores_and_disagreeing_sources_are_dropped() -> None:
    viewpoint = poses(*range(0, 100, 10))
    score = torch.linspace(0.1, 1.0, 10)
    assert choose(viewpoint, changed(score_quantile=0.3), score=score).index.tolist() == list(range(3, 10))
    far = torch.deg2rad(torch.tensor([0.0, 50.0] * 5))
    rows = (viewpoint, score, torch.ones(10), poses(0))
    assert select(0, 4, *rows, changed(agree_deg=40.0), far).index.tolist() == [0, 2, 4, 6, 8]
    assert len(select(0, 4, *rows, OPEN, far)) == 10


def test_ranks_count_margin_and_score_alike() -> None:
    """A picture that is second by both beats one that is first by one and last by the other."""
    labels = choose(
        poses(0, 10, 20, 30), changed(gate="ranks", first_share=0.25),
        score=[9.0, 8.0, 1.0, 2.0], margin=[0.1, 0.8, 0.9, 0.2],
    )  # fmt: skip
    assert labels.index.tolist() == [1]


def test_ranks_do_not_depend_on_pictures_that_were_not_looked_at() -> None:
    score, margin = torch.tensor([9.0, 8.0, 1.0]), torch.tensor([0.1, 0.8, 0.9])
    unseen = torch.full((50,), torch.nan)
    rank = gate_rank(torch.cat((unseen, score)), torch.cat((unseen, margin)), "ranks")
    assert rank[:50].isnan().all() and rank[50:].equal(gate_rank(score, margin, "ranks"))


def test_soft_weights_follow_the_rank_and_hard_ones_do_not() -> None:
    rank = torch.tensor([9.0, 2.0, 1.0, 0.0, 3.0])  # median 2, mean 3
    assert label_weights(rank, "hard").tolist() == [1] * 5
    assert label_weights(rank, "soft").tolist() == pytest.approx([1, 1, 0.5, 0.1, 1])
