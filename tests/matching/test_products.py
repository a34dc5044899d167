"""Maps as rows of a matrix product, cameras that several pictures share, and the pre-selection."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from nvsm_lightning.geometry.cameras import Camera, canonical_camera
from nvsm_lightning.matching.products import area_queries, map_products
from nvsm_lightning.matching.shared_cameras import shared_cameras
from nvsm_lightning.matching.shortlist import SketchBasis, pooled, principal_channels, shortlist
from nvsm_lightning.matching.synthesis import map_similarity, synthesise, vertex_features
from nvsm_lightning.pose.likelihood import area_loss, gather_evidence
from nvsm_lightning.pose.space import PoseSpace


def broadcast(queries, maps):
    return torch.stack([map_similarity(queries, one.expand_as(queries)) for one in maps], 1) * maps[0, 0].numel()


@pytest.mark.parametrize(("block", "dtype", "error"), [(7, None, 1e-5), (8192, None, 1e-5), (64, torch.bfloat16, 0.02)])
def test_blocked_products_are_the_broadcast_similarity(block, dtype, error) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, maps = (normalize(torch.randn(n, 6, 5, 9, generator=generator), dim=1) for n in (5, 11))
    found = map_products(queries.flatten(1), maps.flatten(1).to(dtype or maps.dtype), block)
    assert found.dtype == torch.float32 and found.shape == (5, 11)
    torch.testing.assert_close(found, broadcast(queries, maps), atol=error * 45**0.5, rtol=0)


def test_bf16_blocks_are_added_in_float32() -> None:
    """Many equal blocks: a bf16 sum of them would stop growing at 256."""
    ones = torch.ones(1, 8 * 1000, dtype=torch.bfloat16)
    assert map_products(ones, ones, block=8).item() == 8000


def test_bf16_ranks_pictures_like_float32(pictures) -> None:
    queries, _ = area_queries(
        pictures.texture, torch.ones(len(pictures.texture)), pictures.clutter, pictures.viewpoint,
        pictures.camera[:1], pictures.renderer,
    )  # fmt: skip
    exact, rounded = (map_products(queries.flatten(1), pictures.feature_map.flatten(1).to(kind))
                      for kind in (torch.float32, torch.bfloat16))  # fmt: skip
    assert exact.argmax(1).equal(torch.arange(8)) and rounded.argmax(1).equal(torch.arange(8))
    assert 0 < (exact - rounded).abs().max() < 0.005


def test_queries_give_the_area_score_of_the_similarity_table(pictures) -> None:
    grid = PoseSpace(24, [0.0, 10.0], [0.0]).grid()
    evidence = gather_evidence(pictures.feature_map, pictures.texture, pictures.clutter, pictures.camera)
    losses = area_loss(evidence, grid.expand(8, -1, -1), pictures.renderer)
    seen = torch.ones(len(pictures.texture))
    queries, area = area_queries(pictures.texture, seen, pictures.clutter, grid, pictures.camera[:1], pictures.renderer)
    found = map_products(queries.flatten(1), pictures.feature_map.flatten(1)).T
    torch.testing.assert_close(1 - found, losses, atol=2e-6, rtol=0)
    assert losses.std() > 0.05 and (area > 20).all()


def camera_of(distance, box=None):
    distance = torch.tensor(distance)
    corners = torch.full((len(distance), 4), math.nan) if box is None else torch.tensor(box)
    return Camera(distance, distance * 36, torch.tensor([[20.0, 8.0]]).repeat(len(distance), 1), corners)


def test_equal_canonical_cameras_are_one_and_unchanged() -> None:
    camera = canonical_camera(16, 40, pixels_per_unit=36.0).expanded(3)
    shared, index = shared_cameras(camera)
    assert index.tolist() == [0, 0, 0] and len(shared) == 1
    for own, kept in zip(camera.tensors()[:3], shared.tensors()[:3], strict=True):
        assert own[:1].equal(kept)
    assert shared.box.isnan().all()


def test_what_a_camera_is_rounded_to_depends_on_no_other_picture() -> None:
    camera = camera_of([1.0, 1.02, 1.9, 7.0, 58.0])
    shared, index = shared_cameras(camera)
    assert index[0] == index[1] and len(set(index.tolist())) == 4
    ratio = shared.distance[index] / camera.distance
    assert ratio.min() > 1 / 1.05 and ratio.max() < 1.05
    torch.testing.assert_close(shared.focal / shared.distance, torch.full((4,), 36.0))  # the scale at the centre
    alone, _ = shared_cameras(camera[1:2])
    assert alone.distance.equal(shared.distance[index[1:2]])


def test_boxes_are_shared_when_they_fill_the_same_cells() -> None:
    boxes = [[3.1, 2.0, 36.9, 14.0], [2.9, 2.0, 37.1, 14.0], [6.0, 2.0, 34.0, 14.0]]
    shared, index = shared_cameras(camera_of([1.7, 1.7, 1.7], boxes))
    assert index[0] == index[1] != index[2]
    assert shared.box[index].tolist() == [[3, 2, 37, 14], [3, 2, 37, 14], [6, 2, 34, 14]]


def test_sketches_of_maps_of_few_channels_and_constant_blocks_lose_nothing() -> None:
    """Nor do components, while there are as many of them as pictures; fewer lose least of all bases of that size."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(9, 3, 2, 5, generator=generator)
    maps = torch.einsum("pchw,dc->pdhw", coarse, torch.randn(20, 3, generator=generator)).repeat_interleave(2, 2)
    maps = maps.repeat_interleave(2, 3)
    channels = principal_channels(pooled(maps), 3)
    torch.testing.assert_close(channels.T @ channels, torch.eye(3), atol=1e-5, rtol=0)
    basis, exact = SketchBasis.of(pooled(maps)), maps.flatten(1) @ maps.flatten(1).T
    rows = basis.sketch(pooled(maps))
    assert rows.shape == (9, 9)
    torch.testing.assert_close(4 * map_products(rows, rows), exact, rtol=1e-4, atol=1e-2)
    few = SketchBasis.of(pooled(maps), 4)
    lost = (exact.trace() - 4 * few.sketch(pooled(maps)).square().sum()) / exact.trace()
    assert lost.item() == pytest.approx((torch.linalg.eigvalsh(exact)[:-4].sum() / exact.trace()).item(), rel=1e-3)


def test_short_lists_hold_the_best_of_the_allowed() -> None:
    score = torch.arange(200.0).repeat(2, 1) * torch.tensor([[1.0], [-1.0]])
    allowed = torch.ones(200, dtype=torch.bool)
    allowed[199] = False
    best, worst = shortlist(score, allowed, 40)
    assert sorted(best.tolist()) == list(range(159, 199)) and sorted(worst.tolist()) == list(range(40))
    assert shortlist(score[:, :20], allowed[:20], 40).shape == (2, 20)  # all


def test_real_pictures_are_found_among_the_listed(pictures) -> None:
    """The best picture of a synthesised view heads its sketch list as well; drawn in few channels or in all."""
    vertex, seen = vertex_features(
        pictures.feature_map[:1], pictures.viewpoint[:1], pictures.camera[:1], pictures.renderer
    )
    basis = SketchBasis.of(pooled(pictures.feature_map))
    few, maps = (
        synthesise(of, pictures.viewpoint[:2], pictures.camera[:2], pictures.renderer)
        for of in (vertex[0] @ basis.channels, vertex[0])
    )
    queries = basis.sketch_queries(few)
    torch.testing.assert_close(queries, basis.sketch(pooled(maps)), rtol=1e-4, atol=1e-5)
    score = map_products(queries, basis.sketch(pooled(pictures.feature_map)))
    assert seen.any() and score.argmax(1).tolist() == [0, 1]
