"""How a network sees the labelled pictures whose bank is made of the pool at the poses that a model gives it."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, normalize

from nvsm_lightning.geometry.viewpoints import mirror_viewpoint
from nvsm_lightning.methods import NeMo
from nvsm_lightning.methods.guard import PoolPoses, label_margin, standard_score


def colours(image: torch.Tensor) -> torch.Tensor:
    """Features that tell the sides of the cuboid apart, as a network's would: its colours, in as many channels."""
    found = avg_pool2d(image - image.mean((2, 3), keepdim=True), 8)
    return normalize(torch.cat((found, torch.zeros(len(image), 13, *found.shape[2:])), 1), dim=1)


@pytest.fixture(scope="module")
def asked(make_data, make_method):
    """``asked(turned)``: the mean margin where so many of the ten pool pictures are said to be turned around."""
    data = make_data()
    data.setup("fit")
    untrained = make_method(NeMo).eval()
    untrained.start_training(data)
    untrained.model.features = colours
    truth = data.pool_truth().float()

    def ask(turned: int, anchors=None, said=truth) -> float:
        said = said.clone()
        said[:turned, 0] += math.pi
        poses = PoolPoses(said, mirror_viewpoint(said))
        shown = data.anchor_dataloader() if anchors is None else anchors
        before = {name: value.clone() for name, value in untrained.state_dict().items()}
        found = label_margin(untrained, data.pool_dataloader(), poses, shown)
        assert all(torch.equal(before[name], value) for name, value in untrained.state_dict().items())
        assert len(found) == 4  # labelled pictures, each with its mirror image
        return float(found.mean())

    ask.data, ask.truth, ask.bank = data, truth, untrained.model.bank
    return ask


def test_the_margin_is_larger_the_more_of_the_pool_is_right(asked) -> None:
    margins = [asked(turned) for turned in range(11)]
    assert margins == sorted(margins, reverse=True) and margins[0] > 0.3
    assert asked(0) == margins[0]  # what was asked before leaves nothing behind


def test_poses_that_are_all_turned_around_contradict_the_labels(asked) -> None:
    """A model that agrees with its own mistakes: every picture and its mirror image are turned."""
    assert asked(10) < -0.3


def test_labels_that_are_wrong_have_none(asked) -> None:
    turned = [
        {**batch, "viewpoint": batch["viewpoint"] + torch.tensor([math.pi, 0.0, 0.0])}
        for batch in asked.data.anchor_dataloader()
    ]
    assert asked(0, turned) < 0 < asked(0)


def test_sides_that_no_pose_shows_are_not_known_from_the_labelled_pictures(asked, monkeypatch) -> None:
    """A model that sees every picture from one side: the bank that the untrained network had before does not help."""
    collapsed = asked.truth[:1].expand_as(asked.truth)
    margin = asked(0, said=collapsed)
    monkeypatch.setattr(asked.bank, "vertex", torch.randn_like(asked.bank.vertex))
    assert asked(0, said=collapsed) == margin < 0.3


def test_differences_are_counted_in_their_standard_errors() -> None:
    first, second = torch.tensor([3.0, 5.0, 4.0, 8.0]), torch.tensor([1.0, 4.0, 1.0, 6.0])
    assert standard_score(first, second) == pytest.approx(2 / ((2 / 3) ** 0.5 / 2))
    assert standard_score(second, first) == -standard_score(first, second)
    assert standard_score(first, first) == 0 == standard_score(first[:1], second[:1])
    agree, less = torch.tensor([True] * 9 + [False]), torch.tensor([True] * 5 + [False] * 5)
    assert standard_score(agree, less) == pytest.approx(0.4 / (8 / 30) ** 0.5 * 10**0.5)
    assert standard_score(agree[:9], less[-5:].repeat(2)[:9]) == 10.0  # all alike, and no infinity for guard.json
