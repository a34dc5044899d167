"""Pools of pictures with known poses whose scores are biased by pose, as a bank of few labels makes them."""

import math

import pytest
import torch

from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.matching.calibration import LEAST, ROUNDS, calibrate, pose_null
from nvsm_lightning.matching.matcher import MatchSettings, calibrated_losses

POSES = 36
GRID = torch.tensor([(math.radians(10 * pose), 0.0, 0.0) for pose in range(POSES)])
APART = viewpoint_error(GRID[:, None], GRID[None])
RADIUS = math.radians(45)


def biased_losses(truth_deg: torch.Tensor, bias: float) -> torch.Tensor:
    """A dip at the true pose, a shallower one at its front/back twin, and rears that look better than they should."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.stack([torch.deg2rad(truth_deg), 0 * truth_deg, 0 * truth_deg], 1)
    apart = viewpoint_error(truth[:, None], GRID[None])
    dip = torch.exp(-(apart**2) / 0.15) + 0.7 * torch.exp(-((math.pi - apart) ** 2) / 0.15)
    level = bias * (GRID[:, 0].cos() < 0)
    return 1 - dip - level + 0.1 * torch.randn(dip.shape, generator=generator)


def right(losses: torch.Tensor, truth_deg: torch.Tensor) -> float:
    best = 10.0 * losses.argmin(1)
    return float((((best - truth_deg + 180) % 360 - 180).abs() < 30).float().mean())


def pool(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    uniform = 360 * torch.rand(400, generator=generator)
    fronts = 160 * torch.rand(400, generator=generator) - 80
    shares = {"uniform": (400, 0), "front": (80, 320), "rear": (400, 0)}[kind]
    chosen = torch.cat((uniform[: shares[0]], fronts[: shares[1]]))
    return chosen[torch.deg2rad(chosen).cos() < 0] if kind == "rear" else chosen


@pytest.mark.parametrize("kind", ["uniform", "front", "rear"])
def test_the_robust_null_removes_the_bias_whatever_poses_the_pool_has(kind) -> None:
    truth = pool(kind)
    losses = biased_losses(truth, 0.2)
    plain, robust = (right(calibrate(losses, APART, name, RADIUS), truth) for name in ("none", "robust"))
    assert robust > 0.97, (plain, robust)
    if kind != "rear":
        assert plain < 0.9


@pytest.mark.parametrize("kind", ["uniform", "front", "rear"])
def test_without_bias_it_does_no_harm(kind) -> None:
    truth = pool(kind)
    assert right(calibrate(biased_losses(truth, 0.0), APART, "robust", RADIUS), truth) > 0.97


@pytest.mark.parametrize("kind", ["uniform", "front", "rear"])
@pytest.mark.parametrize("way", ["robust", "balanced"])
def test_the_null_of_a_pool_serves_other_pictures(kind, way) -> None:
    losses, others = biased_losses(pool(kind), 0.2), torch.arange(0.0, 360, 4)
    losses[3] = torch.nan  # a skipped picture
    null = pose_null(losses, APART, way, RADIUS)
    assert null.isfinite().all() and null.mean().abs() < 1e-6
    new = biased_losses(others, 0.2)
    plain, better = right(new, others), right(new - null, others)
    assert better > max(plain, 0.93), (plain, better)


def test_the_plain_z_score_takes_the_pool_to_be_uniform() -> None:
    """It removes the bias from a uniform pool and turns round much of a pool of rears."""
    uniform, rear = pool("uniform"), pool("rear")
    assert right(calibrate(biased_losses(uniform, 0.2), APART, "zscore", RADIUS), uniform) > 0.97
    assert right(calibrate(biased_losses(rear, 0.0), APART, "zscore", RADIUS), rear) < 0.7


def test_none_changes_nothing_and_missing_losses_stay_missing() -> None:
    losses = biased_losses(pool("uniform"), 0.2)
    assert calibrate(losses, APART, "none", RADIUS) is losses
    losses[3] = torch.nan
    losses[5, 7] = torch.inf
    for kind in ("zscore", "robust", "balanced"):
        found = calibrate(losses, APART, kind, RADIUS)
        assert found[3].isnan().all() and found[5, 7].isinf()
        rest = torch.ones(len(losses), dtype=torch.bool)
        rest[[3, 5]] = False
        assert found[rest].isfinite().all()


def test_a_handful_of_pictures_is_left_as_it_is() -> None:
    losses = biased_losses(torch.tensor([0.0, 90.0, 180.0]), 0.2)
    assert torch.equal(calibrate(losses, APART, "robust", RADIUS), losses)


def test_the_balanced_null_picture_by_picture() -> None:
    """Each picture divided by how many have a pose near its own, LEAST at least; six rounds."""
    losses, radius = biased_losses(pool("front")[60:140], 0.2).double(), math.radians(30)
    null = torch.zeros(POSES, dtype=torch.float64)
    for _ in range(ROUNDS):
        best = [int((row - null).argmin()) for row in losses]
        weight = [1 / max(LEAST, sum(bool(APART[own, other] <= radius) for other in best)) for own in best]
        null = sum(share * row for share, row in zip(weight, losses, strict=True)) / sum(weight)
    assert torch.allclose(calibrate(losses, APART, "balanced", radius), losses - null, atol=1e-9)
    assert not torch.allclose(null, losses.mean(0), atol=0.01)  # the weights matter


@pytest.mark.parametrize("kind", ["uniform", "front"])
def test_the_balanced_null_removes_the_bias_of_pools_that_show_all_views(kind) -> None:
    truth = pool(kind)
    losses = biased_losses(truth, 0.2)
    plain, balanced = (right(calibrate(losses, APART, name, math.radians(30)), truth) for name in ("none", "balanced"))
    assert plain < 0.9 and balanced > 0.97


def test_a_pool_of_rears_suffers_less_from_the_balanced_null_than_from_the_plain_mean() -> None:
    truth = pool("rear")
    losses = biased_losses(truth, 0.0)
    balanced = right(calibrate(losses, APART, "balanced", math.radians(30)), truth)
    assert right(calibrate(losses, APART, "zscore", RADIUS), truth) + 0.1 < balanced


def test_poses_of_which_no_picture_is_elsewhere_take_the_mean_null() -> None:
    row = biased_losses(torch.zeros(1), 0.2)
    losses = row + 1e-4 * torch.randn(40, POSES, generator=torch.Generator().manual_seed(0))  # all of one view
    null = (losses - calibrate(losses, APART, "robust", RADIUS))[0]
    far = APART[int(row.argmin())] > RADIUS  # the pictures' pose is elsewhere
    torch.testing.assert_close(null[far], losses.mean(0)[far], atol=1e-5, rtol=0)
    torch.testing.assert_close(null[~far], losses.mean(0)[far].mean().expand(int((~far).sum())), atol=1e-5, rtol=0)


def test_the_e_step_gives_its_radius_in_degrees() -> None:
    losses = biased_losses(pool("front"), 0.2)
    settings = MatchSettings(calibration="robust", calibration_deg=30.0)
    expected = calibrate(losses, APART, "robust", math.radians(30))
    assert torch.equal(calibrated_losses(losses, APART, settings, 0), expected)
    assert not torch.equal(expected, calibrate(losses, APART, "robust", RADIUS))
