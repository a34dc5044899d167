import math
from importlib import import_module

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from nvsm_lightning.features.reading import cells
from nvsm_lightning.training.contrast import (
    ContrastSettings,
    background_loss,
    contrastive_loss,
    draw_background,
    near_vertices,
)

SETTINGS = ContrastSettings()


def unit(*rows: tuple[float, float]) -> Tensor:
    return normalize(torch.tensor(rows).float(), dim=-1)


FEATURES, MEANS = unit((1, 0), (0.6, 0.8), (0, 1)), unit((1, 0.1), (0.5, 0.9), (-0.2, 1))
CLUTTER = unit((-1, 0), (0, -1))
NEAR = near_vertices(torch.tensor([(0.0, 0, 0), (0.05, 0, 0), (0.5, 0, 0)]), 0.1)


def golden(visible: list[bool]) -> float:
    seen = torch.tensor([visible])
    return float(contrastive_loss(FEATURES[None], seen, torch.ones(1), MEANS, CLUTTER, NEAR, SETTINGS))


def test_golden_cross_entropy_of_every_vertex() -> None:
    """A float32 logit of 14 has a resolution of 1e-6, which the first value, 4.4e-8, lies below."""
    expected = [4.40768e-8, 9.732815e-3, 0.1977373]
    for vertex in range(3):
        assert golden([k == vertex for k in range(3)]) == pytest.approx(expected[vertex], abs=1e-5)
    assert golden([True, True, False]) == pytest.approx(4.866430e-3, abs=1e-5)


def test_golden_cross_entropy_in_float64() -> None:
    only_first = torch.tensor([[True, False, False]])
    tensors = (FEATURES[None].double(), only_first, torch.ones(1).double(), MEANS.double(), CLUTTER.double())
    assert float(contrastive_loss(*tensors, NEAR, SETTINGS)) == pytest.approx(4.40768e-8, rel=1e-4)


def test_golden_background_loss() -> None:
    noise = unit((-0.8, 0.6))
    assert float(SETTINGS.background_weight * background_loss(noise, MEANS)) == pytest.approx(0.0048298, abs=1e-6)


def test_clutter_offset_is_that_of_the_paper() -> None:
    assert -math.log(SETTINGS.clutter_weight) == pytest.approx(5.298317, abs=1e-6)


def test_near_vertices_are_pairs_of_different_ones() -> None:
    assert NEAR.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def slow_loss(features, visible, weight, means, clutter, near, settings) -> float:
    """The same loss written plainly: one softmax after the other."""
    total, weights = 0.0, 0.0
    for picture in range(len(features)):
        for vertex in range(features.shape[1]):
            if not visible[picture, vertex]:
                continue
            denominator = 0.0
            for other in range(len(means)):
                if not near[vertex, other]:
                    denominator += math.exp(float(features[picture, vertex] @ means[other]) / settings.temperature)
            for row in clutter:
                logit = float(features[picture, vertex] @ row) / settings.temperature
                denominator += settings.clutter_weight * math.exp(logit)
            own = float(features[picture, vertex] @ means[vertex]) / settings.temperature
            total += float(weight[picture]) * (math.log(denominator) - own)
            weights += float(weight[picture])
    return total / weights


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_equals_its_slow_twin(seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = normalize(torch.randn(3, 7, 5, generator=generator, dtype=torch.float64), dim=-1)
    means = normalize(torch.randn(7, 5, generator=generator, dtype=torch.float64), dim=-1)
    clutter = normalize(torch.randn(4, 5, generator=generator, dtype=torch.float64), dim=-1)
    visible = torch.rand(3, 7, generator=generator) < 0.6
    weight = torch.rand(3, generator=generator, dtype=torch.float64)
    near = near_vertices(torch.rand(7, 3, generator=generator), 0.4)
    settings = ContrastSettings(temperature=0.2 + 0.1 * seed, clutter_weight=0.05)
    assert near.any() and visible.any()
    loss = contrastive_loss(features, visible, weight, means, clutter, near, settings)
    assert float(loss) == pytest.approx(slow_loss(features, visible, weight, means, clutter, near, settings), rel=1e-6)


def one_go(features, visible, weight, means, clutter, near, settings) -> Tensor:
    """All logits at once, in the words of autograd."""
    picture, vertex = visible.nonzero(as_tuple=True)
    seen = features[picture, vertex]
    to_vertices = (seen @ means.T / settings.temperature).masked_fill(near[vertex], -1e5)
    to_clutter = seen @ clutter.T / settings.temperature + math.log(settings.clutter_weight)
    entropy = cross_entropy(torch.cat((to_vertices, to_clutter), 1), vertex, reduction="none")
    return (weight[picture] * entropy).sum() / weight[picture].sum()


def random_case(seed: int, dtype: torch.dtype) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    features, means, clutter = (
        normalize(torch.randn(*shape, 16, generator=generator, dtype=dtype), dim=-1).requires_grad_()
        for shape in ((3, 40), (40,), (60,))
    )
    visible, weight = torch.rand(3, 40, generator=generator) < 0.6, torch.rand(3, generator=generator).to(dtype)
    near = near_vertices(torch.rand(40, 3, generator=generator), 0.3)
    return features, visible, weight, means, clutter, near


@pytest.mark.parametrize("rows", [1, 7, 512])
@pytest.mark.parametrize("temperature", [0.07, 0.002])  # the latter overflows unless shifted
def test_rows_at_a_time_give_the_loss_and_all_gradients_of_one_go(monkeypatch, rows, temperature) -> None:
    monkeypatch.setattr(import_module("nvsm_lightning.training.contrast"), "ROWS", rows)
    case, settings = random_case(rows, torch.float64), ContrastSettings(temperature=temperature)
    results = []
    for loss_of in (one_go, contrastive_loss):
        loss = loss_of(*case, settings)
        results.append((loss, *torch.autograd.grad(3 * loss, (case[0], case[3], case[4]))))
    for slow, fast in zip(*results, strict=True):
        assert slow.isfinite().all() and torch.allclose(slow, fast, rtol=1e-6, atol=1e-9)


def test_bfloat16_products_stay_near_the_exact_gradient() -> None:
    """Where a vertex is nearly sure, softmax less one must not drown in the rounding of softmax."""
    features, visible, weight, means, clutter, near = random_case(0, torch.float32)
    features = normalize(0.2 * features + means, dim=-1).detach().requires_grad_()
    slopes = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = contrastive_loss(features, visible, weight, means.detach(), clutter.detach(), near, SETTINGS)
        slopes.append(torch.autograd.grad(loss, features)[0])
    assert loss.dtype == torch.float32
    assert (slopes[1] - slopes[0]).norm() < 0.05 * slopes[0].norm()


def test_pictures_of_weight_zero_do_not_count() -> None:
    features = torch.stack((FEATURES, FEATURES.roll(1, 0)))
    visible = torch.ones(2, 3, dtype=torch.bool)
    both = contrastive_loss(features, visible, torch.tensor([1.0, 0.0]), MEANS, CLUTTER, NEAR, SETTINGS)
    assert float(both) == pytest.approx(golden([True] * 3), abs=1e-6)


def test_a_batch_that_shows_nothing_costs_nothing_but_keeps_its_graph() -> None:
    features = FEATURES[None].clone().requires_grad_()
    none = torch.zeros(1, 3, dtype=torch.bool)
    loss = contrastive_loss(features, none, torch.ones(1), MEANS, CLUTTER, NEAR, SETTINGS)
    loss.backward()
    assert loss.item() == 0 and torch.equal(features.grad, torch.zeros_like(features))


def test_only_visible_features_get_a_gradient() -> None:
    features = FEATURES[None].clone().requires_grad_()
    means = MEANS.clone()
    visible = torch.tensor([[False, True, True]])
    contrastive_loss(features, visible, torch.ones(1), means, CLUTTER, NEAR, SETTINGS).backward()
    assert torch.equal(features.grad[0, 0], torch.zeros(2)) and (features.grad[0, 1:].abs().sum(1) > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_background_is_never_drawn_from_the_grown_mesh_while_there_is_other(seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    covered = torch.zeros(3, 8, 12, dtype=torch.bool)
    covered[0, 2:6, 3:9] = True
    covered[1, 0, 0] = True
    covered[2, :6] = True  # grown: the last row alone is free
    feature_map = torch.arange(3 * 96).view(3, 1, 8, 12).float()
    shown = torch.ones_like(covered)
    shown[1, :, 6:] = False  # the stored picture ends in the middle of the crop
    drawn = draw_background(feature_map, covered, shown, 5, torch.rand(3, 8, 12, generator=generator)).view(3, 5)
    for item in range(3):
        cell = drawn[item].long() - 96 * item
        assert len(cell.unique()) == 5  # without replacement
        for row, column in zip((cell // 12).tolist(), (cell % 12).tolist(), strict=True):
            around = covered[item, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            assert not around.any() and shown[item, row, column], (item, row, column)


def test_background_is_drawn_evenly() -> None:
    order = torch.rand(3000, 4, 6, generator=torch.Generator().manual_seed(0))
    covered = torch.zeros(3000, 4, 6, dtype=torch.bool)
    covered[:, 0, 0] = True  # free: 24 cells less the corner and its three neighbours
    feature_map = torch.arange(24).view(1, 1, 4, 6).expand(3000, 1, 4, 6).float()
    counts = torch.bincount(
        draw_background(feature_map, covered, torch.ones_like(covered), 5, order)[:, 0].long(), minlength=24
    )
    assert (counts[[0, 1, 6, 7]] == 0).all() and int(counts.sum()) == 15000
    free = counts[counts > 0].float()
    assert len(free) == 20 and ((free - 750).abs() < 5 * math.sqrt(750)).all()


def test_any_cell_serves_where_the_mesh_covers_all() -> None:
    feature_map = normalize(torch.randn(1, 3, 4, 4), dim=1)
    covered = torch.ones(1, 4, 4, dtype=torch.bool)
    drawn = draw_background(feature_map, covered, covered, 5, torch.rand(1, 4, 4))
    assert drawn.shape == (5, 3)
    assert (torch.cdist(drawn, cells(feature_map)[0]).amin(1) < 1e-6).all()


def test_what_shows_nothing_comes_before_what_is_covered() -> None:
    covered = torch.ones(1, 4, 6, dtype=torch.bool)
    covered[0, :, 4:] = False  # grown by one: only the last column, four cells, is free
    shown = torch.ones(1, 4, 6, dtype=torch.bool)
    shown[0, 2:] = False
    feature_map = torch.arange(24).view(1, 1, 4, 6).float()
    for count, expected in ((2, {5, 11}), (4, {5, 11, 17, 23})):
        drawn = draw_background(feature_map, covered, shown, count, torch.rand(1, 4, 6))[:, 0]
        assert set(drawn.long().tolist()) == expected
    drawn = draw_background(feature_map, covered, shown, 6, torch.rand(1, 4, 6))[:, 0].long()
    assert {5, 11, 17, 23} < set(drawn.tolist()) and len(drawn.unique()) == 6 and (drawn < 24).all()
    assert (drawn[4:] < 12).all()  # covered cells of the stored picture come before those beyond it
