import math
from collections import Counter

import pytest
import torch
from torch.utils.data import DistributedSampler

from nvsm_lightning.data.sampling import DrawSampler, draw_probability, mixed_probability, spread_over_azimuth
from nvsm_lightning.errors import ConfigError


def sampler(**changes) -> DrawSampler:
    settings = dict(labelled=7, probability=torch.ones(40) / 40, labelled_share=0.25, draws=64, batch_size=8, seed=3)
    return DrawSampler(**{**settings, **changes})


def draws(sampler: DrawSampler, epoch: int = 0) -> list:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_stream_depends_only_on_seed_and_epoch() -> None:
    torch.manual_seed(1)
    first = draws(sampler(), 5)
    torch.manual_seed(2)
    assert draws(sampler(), 5) == first
    assert draws(sampler(), 6) != first and draws(sampler(seed=4), 5) != first
    assert len({seed for _, seed in first}) == len(first)  # every draw has an augmentation of its own


def test_processes_share_the_batches_of_one() -> None:
    alone = draws(sampler(batch_size=16), 2)
    ranks = [draws(sampler(batch_size=8, rank=rank, world=2), 2) for rank in range(2)]
    assert not set(ranks[0]) & set(ranks[1])
    for batch in range(4):
        together = ranks[0][8 * batch : 8 * batch + 8] + ranks[1][8 * batch : 8 * batch + 8]
        assert sorted(together) == sorted(alone[16 * batch : 16 * batch + 16])


def test_lengths_are_whole_batches() -> None:
    assert len(sampler(draws=63)) == 56 == len(draws(sampler(draws=63)))
    assert len(sampler(draws=63, world=3)) == 16
    with pytest.raises(ConfigError, match="epoch_images=15 is less than one batch of 8 on 2"):
        sampler(draws=15, world=2)


def test_labelled_share_and_equal_use() -> None:
    entries = Counter(entry for entry, _ in draws(sampler(draws=560, labelled_share=0.25)))
    labelled = [entries[index] for index in range(7)]
    assert labelled == [20] * 7 and sum(entries.values()) == 560
    only = Counter(entry for entry, _ in draws(sampler(probability=torch.empty(0), draws=64)))
    assert set(only) == set(range(7)) and max(only.values()) - min(only.values()) <= 1
    none = Counter(entry for entry, _ in draws(sampler(labelled_share=0.0)))
    assert min(none) >= 7


def at(*azimuth: float) -> torch.Tensor:
    return torch.tensor([[angle, 0.0, 0.0] for angle in azimuth])


def test_one_picture_alone_in_its_view_is_not_half_of_an_epoch() -> None:
    """100 fronts and one of them that was taken for a rear."""
    probability = draw_probability(at(*[0.0] * 100, math.pi), 12)
    assert probability.sum() == pytest.approx(1) and len(probability[:100].unique()) == 1
    assert probability[100] == pytest.approx(10 / 101)
    assert len(draw_probability(at(), 12)) == 0


@pytest.mark.parametrize(("crowd", "lone"), [(1000, 11), (2589, 11), (999, 1), (40, 11)])
def test_no_picture_is_drawn_more_than_ten_times_as_often_as_the_mean(crowd, lone) -> None:
    """However many stand alone in their views; those of the crowd share what is left."""
    rest = [0.05 + 2 * math.pi * turn / 12 for turn in range(1, lone + 1)]
    probability = draw_probability(at(*[0.0] * crowd, *rest), 12)
    most = min(10 / (crowd + lone), 1 / (lone + 1))
    assert probability.sum() == pytest.approx(1, abs=1e-5)
    assert probability[crowd:].tolist() == pytest.approx([most] * lone, rel=1e-5)
    assert probability[:crowd].tolist() == pytest.approx([(1 - lone * most) / crowd] * crowd, rel=1e-4)


def test_probability_by_bin() -> None:
    viewpoint = at(0.1, 0.2, 0.3, math.pi + 0.1, -0.1)
    torch.testing.assert_close(draw_probability(viewpoint, None), torch.full((5,), 0.2))
    expected = torch.tensor([1 / 3, 1 / 3, 1 / 3, 1, 1]) / 3
    torch.testing.assert_close(draw_probability(viewpoint, 12), expected)
    drawn = Counter(e for e, _ in draws(sampler(labelled=1, probability=expected, labelled_share=0.0, draws=6000)))
    assert drawn[4] / 6000 == pytest.approx(1 / 3, abs=0.03) and drawn[1] / 6000 == pytest.approx(1 / 9, abs=0.02)


def test_pictures_of_other_sets_have_their_share_and_views_of_their_own() -> None:
    """Two fronts and a rear of the own pool, three fronts and a side of another."""
    viewpoint = at(0.1, 0.2, math.pi, 0.1, 0.2, 0.3, math.pi / 2)
    extra = torch.tensor([False] * 3 + [True] * 4)
    expected = torch.tensor([1 / 4, 1 / 4, 1 / 2, 1 / 6, 1 / 6, 1 / 6, 1 / 2])
    share = torch.tensor([0.6] * 3 + [0.4] * 4)
    torch.testing.assert_close(mixed_probability(viewpoint, extra, 0.4, 12), expected * share)
    torch.testing.assert_close(mixed_probability(viewpoint, extra, None, 12), draw_probability(viewpoint, 12))
    alone = mixed_probability(viewpoint[3:], extra[3:], 0.4, 12)  # of the own pool nothing was kept
    torch.testing.assert_close(alone, draw_probability(viewpoint[3:], 12))


def test_lightning_leaves_it_in_place() -> None:
    assert isinstance(sampler(), DistributedSampler)


def test_a_choice_takes_as_many_from_every_view_as_there_are() -> None:
    azimuth = torch.cat((torch.full((80,), 5.0), torch.full((6,), 95.0), torch.full((30,), 185.0)))
    viewpoint = torch.stack((azimuth.deg2rad(), *torch.zeros(2, 116)), 1)
    chosen = spread_over_azimuth(viewpoint, 36, 12)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert Counter(azimuth[chosen].tolist()) == {5.0: 15, 95.0: 6, 185.0: 15}
    fronts = chosen[azimuth[chosen] == 5.0]
    assert fronts.diff().max() <= 12  # spread over the 80, not the first of them
    assert torch.equal(spread_over_azimuth(viewpoint, 500, 12), torch.arange(116))


def test_labelled_entries_can_have_probabilities() -> None:
    only_two = torch.tensor([0.0, 1, 0, 0, 0, 1, 0])
    entries = Counter(entry for entry, _ in draws(sampler(labelled_probability=only_two, draws=640)))
    assert {entry for entry in entries if entry < 7} == {1, 5} and abs(entries[1] - 80) < 25
