"""The recipe of the packaged weights runs, learns, and writes what the package loads."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from nvsm_lightning.features.backbone import Backbone, BackboneSpec

RECIPE = Path(__file__).parents[2] / "experiments" / "pretrain_small_backbone.py"


@pytest.fixture(scope="module")
def recipe():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("pretrain_small_backbone", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
def test_weights_of_the_recipe_load(recipe, tmp_path, monkeypatch):
    out = tmp_path / "small.pt"
    words = ["recipe", "--out", str(out), "--count", "40", "--epochs", "1", "--batch_size", "2", "--vertices", "60"]
    monkeypatch.setattr(sys, "argv", words)
    recipe.main()
    assert out.stat().st_size < 2e6
    trained = Backbone(BackboneSpec("small", str(out), frozen=[]))
    image = torch.rand(1, 3, recipe.HEIGHT, recipe.WIDTH)
    assert torch.allclose(trained(image).norm(dim=1), torch.ones(1, *recipe.MAP), atol=1e-5)


def test_seen_vertices_lie_on_the_object(recipe):
    samples = list(recipe.make_other(4, seed=3, families=("chair", "sofa")))
    family = recipe.Family([s for s in samples if s.family == "chair"], 60)
    images, uv, seen, covered, shown = family.batch([0, 1], seed=0)
    assert images.shape == (2, 3, recipe.HEIGHT, recipe.WIDTH)
    inside = uv.floor().long()
    rows, columns = inside[..., 1].clamp(0, recipe.MAP[0] - 1), inside[..., 0].clamp(0, recipe.MAP[1] - 1)
    # Vertices that are seen lie on the cuboid; those on its silhouette may fall into the neighbouring cell.
    grown = torch.nn.functional.max_pool2d(covered.float()[:, None], 3, 1, 1)[:, 0].bool()
    hit = torch.stack([grown[b, rows[b], columns[b]] for b in range(2)])
    assert seen.any(1).all() and hit[seen].all()
    assert shown.flatten(1).any(1).all()


def test_same_seed_same_weights(recipe):
    samples = list(recipe.make_other(4, seed=1, families=("chair", "jug")))
    first, again = (recipe.train(samples, 2, 2, 0, 32, 60).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_packaged_weights_fit_the_network_and_are_small():
    path = Path(__file__).parents[2] / "nvsm_lightning" / "features" / "small.pt"
    assert path.stat().st_size < 2e6
    assert all(value.dtype == torch.float16 for value in torch.load(path, weights_only=True).values())
    packaged, random = (Backbone(BackboneSpec("small", weights, frozen=[])) for weights in ("packaged", "none"))
    image = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(packaged(image), random(image), atol=1e-2)
