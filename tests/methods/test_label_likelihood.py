"""How likely the labels are to an untrained network whose bank is made of the pool at poses that a model gives it."""

import math

import pytest
import torch

from nvsm_lightning.geometry.viewpoints import mirror_viewpoint
from nvsm_lightning.methods import NeMo
from nvsm_lightning.methods.guard import PoolPoses, label_likelihood


@pytest.fixture(scope="module")
def asked(make_data, make_method):
    """``asked(turned, order)``: the likelihood where so many of the ten pool pictures are said to be turned around."""
    data = make_data()
    data.setup("fit")
    untrained = make_method(NeMo).eval()
    untrained.start_training(data)
    before = {name: value.clone() for name, value in untrained.state_dict().items()}
    truth = data.pool_truth().float()

    def ask(turned: int, anchors=None) -> float:
        said = truth.clone()
        said[:turned, 0] += math.pi
        poses = PoolPoses(said, mirror_viewpoint(said))
        shown = data.anchor_dataloader() if anchors is None else anchors
        found = label_likelihood(untrained, data.pool_dataloader(), poses, shown, untrained.measured)
        assert all(torch.equal(before[name], value) for name, value in untrained.state_dict().items())
        return found

    ask.data = data
    return ask


def test_the_labels_are_likelier_the_more_of_the_pool_is_right(asked) -> None:
    right, some, half = asked(0), asked(2), asked(5)
    assert right > some > half
    assert right > -math.log(math.pi**2) + 0.5  # the uniform density over SO(3)
    assert asked(0) == right  # what was asked before leaves nothing behind


def test_poses_that_are_all_turned_around_contradict_the_labels(asked) -> None:
    """A model that agrees with its own mistakes: every picture and its mirror image are turned."""
    assert asked(10) < asked(5) < asked(0)


def test_labels_that_are_wrong_are_unlikely(asked) -> None:
    turned = [
        {**batch, "viewpoint": batch["viewpoint"] + torch.tensor([math.pi, 0.0, 0.0])}
        for batch in asked.data.anchor_dataloader()
    ]
    assert asked(0, turned) < asked(0)
