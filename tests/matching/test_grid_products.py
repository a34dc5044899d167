"""The E-step's losses by matrix products are those of the similarity table."""

import math

import pytest
import torch

from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.matching import grid_products
from nvsm_lightning.matching.grid_products import GridProducts, anchor_sources, bank_source
from nvsm_lightning.matching.matcher import Anchors, anchor_losses
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.pose.likelihood import gather_evidence
from nvsm_lightning.pose.solver import grid_losses
from nvsm_lightning.pose.space import PoseSpace

GRID = PoseSpace(24, [0.0, 10.0], [0.0]).grid()


def anchors_of(pictures, chosen: list[int]) -> Anchors:
    vertex, visible = vertex_features(pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    return Anchors(vertex[chosen], visible[chosen], pictures.viewpoint[chosen])


def of_bank(pictures, **settings) -> GridProducts:
    sources = bank_source(pictures.texture, GRID)
    return GridProducts(sources, pictures.clutter, GRID, pictures.renderer, 1.0, **settings)


def table_losses(pictures, camera):
    evidence = gather_evidence(pictures.feature_map, pictures.texture, pictures.clutter, camera)
    return grid_losses(evidence, GRID, pictures.renderer, "area")


def test_of_the_bank(pictures) -> None:
    losses = of_bank(pictures).losses(pictures.feature_map, pictures.camera)
    torch.testing.assert_close(losses, table_losses(pictures, pictures.camera), atol=3e-6, rtol=0)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("ring", [40.0, 180.0])
def test_of_anchors(pictures, ring, mean) -> None:
    anchors, ring = anchors_of(pictures, [1, 4, 5]), math.radians(ring)
    sources = anchor_sources(anchors, GRID, ring)
    products = GridProducts(sources, pictures.clutter, GRID, pictures.renderer, mean=mean)
    found = products.losses(pictures.feature_map, pictures.camera)
    expected = anchor_losses(
        pictures.feature_map, pictures.clutter, pictures.camera, anchors, GRID, ring, pictures.renderer, mean
    )
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
    assert expected.isinf().any() == (ring < 1)


@pytest.mark.parametrize("mean", [False, True])
def test_poses_that_show_nothing_of_what_an_anchor_has_seen_are_not_scored(pictures, mean) -> None:
    """Both anchors, or the first alone, have seen one vertex."""
    whole = anchors_of(pictures, [1, 4])
    one = torch.zeros_like(whole.visible)
    one[:, whole.visible[0].nonzero()[0, 0]] = True
    for seen in (one, torch.cat((one[:1], whole.visible[1:]))):
        anchors = Anchors(whole.vertex * seen[..., None], seen, whole.viewpoint)
        sources = anchor_sources(anchors, GRID, math.pi)
        products = GridProducts(sources, pictures.clutter, GRID, pictures.renderer, mean=mean)
        found = products.losses(pictures.feature_map, pictures.camera)
        expected = anchor_losses(
            pictures.feature_map, pictures.clutter, pictures.camera, anchors, GRID, math.pi, pictures.renderer, mean
        )
        torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
        assert expected.isinf().any() == (seen is one) and expected.isfinite().any()


def test_bf16_products_choose_the_same_poses(pictures) -> None:
    exact = of_bank(pictures).losses(pictures.feature_map, pictures.camera)
    rounded = of_bank(pictures, dtype=torch.bfloat16).losses(pictures.feature_map, pictures.camera)
    assert rounded.argmin(1).equal(exact.argmin(1))
    assert 1e-6 < (rounded - exact).abs().max() < 0.01


def test_pictures_of_several_cameras_each_get_their_own_maps(pictures, monkeypatch) -> None:
    """Distances that are not rounded (5 times powers of 1.1), mixed in a batch; maps are made anew when none fit."""
    distance = 5 * 1.1 ** -torch.tensor([0.0, 12, 0, 6, 12, 6, 0, 12])
    camera = Camera(distance, distance * 36, pictures.camera.principal, pictures.camera.box)
    expected = table_losses(pictures, camera)
    assert (expected - table_losses(pictures, pictures.camera))[1].abs().max() > 1e-3
    for kept in (10**9, 0):
        monkeypatch.setattr(grid_products, "KEPT_BYTES", kept)
        products = of_bank(pictures)
        for _ in range(2):
            losses = products.losses(pictures.feature_map, camera)
            torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
        assert len(products._queries) == (3 if kept else 1)


def test_distances_between_are_close(pictures) -> None:
    distance = torch.linspace(1.2, 2.4, 8)
    camera = Camera(distance, distance * 36, pictures.camera.principal, pictures.camera.box)
    found, expected = of_bank(pictures).losses(pictures.feature_map, camera), table_losses(pictures, camera)
    assert (found - expected).abs().mean() < 0.02
    assert (found.argmin(1) == expected.argmin(1)).float().mean() >= 0.75


def test_pictures_of_several_boxes_each_get_their_own_maps(pictures) -> None:
    """All at one distance; a box hides what lies outside it."""
    count = len(pictures.viewpoint)
    box = torch.tensor([[4.0 + k, 2.0, 36.0 - k, 14.0] for k in range(count)])
    camera = Camera(torch.full((count,), 5.0), torch.full((count,), 180.0), pictures.camera.principal, box)
    found, expected = of_bank(pictures).losses(pictures.feature_map, camera), table_losses(pictures, camera)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (expected - table_losses(pictures, pictures.camera)).abs().max() > 0.01
