import math
from types import SimpleNamespace

import pytest
import torch

from nvsm_lightning.methods import NeMo
from nvsm_lightning.methods.guard import mirror_agreement, pool_poses


@pytest.fixture
def pool(make_data):
    data = make_data()
    data.setup("fit")
    return data.pool_dataloader()


def says(monkeypatch, method: NeMo, azimuth) -> None:
    """Let the model answer ``azimuth(image)`` radians."""

    def estimate(image, camera):
        viewpoint = torch.stack((azimuth(image), torch.full((len(image),), 0.2), torch.zeros(len(image))), 1)
        return SimpleNamespace(viewpoint=viewpoint)

    monkeypatch.setattr(method.model, "estimate", estimate)


def test_a_model_that_sees_left_from_right_agrees_with_itself(make_method, pool, monkeypatch) -> None:
    method = make_method(NeMo).eval()
    ramp = torch.linspace(-1, 1, next(iter(pool))["image"].shape[-1])
    says(monkeypatch, method, lambda image: (image.mean((1, 2)) * ramp).sum(-1))
    assert mirror_agreement(pool_poses(method, pool)).all()


def test_a_model_that_says_left_of_everything_does_not(make_method, pool, monkeypatch) -> None:
    method = make_method(NeMo).eval()
    says(monkeypatch, method, lambda image: torch.full((len(image),), math.pi / 2))
    assert not mirror_agreement(pool_poses(method, pool)).any()
    says(monkeypatch, method, lambda image: torch.full((len(image),), math.radians(10)))
    assert mirror_agreement(pool_poses(method, pool)).all()  # 10 and -10 degrees
    says(monkeypatch, method, lambda image: torch.full((len(image),), math.radians(16)))
    assert not mirror_agreement(pool_poses(method, pool)).any()  # 16 and -16
