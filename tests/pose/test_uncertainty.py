"""What is reported of a distribution over poses, on losses whose answer is known."""

import math

import pytest
import torch

from nvsm_lightning.geometry.viewpoints import wrap_angle
from nvsm_lightning.pose.posterior import pose_posterior
from nvsm_lightning.pose.solver import ScoredPoses
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.pose.uncertainty import (
    Measured,
    describe_posterior,
    fit_temperature,
    log_volume,
    negative_log_likelihood,
    space_name,
)

CIRCLE = Measured(torch.tensor([True, False, False]))
SO3 = Measured(torch.tensor([True, True, True]))
UNKNOWN = torch.full((1, 3), torch.nan)


def bowl(azimuth: list[float], twin: float = 0.3, azimuths: int = 72) -> ScoredPoses:
    """Losses with a minimum 0 at each azimuth (radians) and one of ``twin`` on the opposite side."""
    grid = PoseSpace(azimuths, [5.0], [0.0]).grid()

    def loss(at, centre):
        away = wrap_angle(at - centre[:, None]).abs()
        return torch.minimum(2 * away**2, twin + 2 * (math.pi - away) ** 2).clamp_max(1.0)

    centre = torch.tensor(azimuth)
    mode = torch.tensor([[[a, 0.0873, 0.0], [a + math.pi, 0.0873, 0.0]] for a in azimuth])
    return ScoredPoses(grid, loss(grid[None, :, 0], centre), mode, loss(mode[..., 0], centre))


def test_masses_of_two_modes_follow_from_their_losses():
    found = bowl([1.0], twin=0.05)
    best = found.mode[:, 0]
    described = describe_posterior(found, best, best, CIRCLE, 0.05)
    other = 1 / (1 + math.e)  # exp(-0.05 / T) beside 1, the modes being equally wide
    assert described["flip_mass"][0] == pytest.approx(other, abs=0.03)
    assert described["mode_mass"][0, :2].tolist() == pytest.approx([1 - other, other], abs=0.03)
    assert described["mode"][0, 1, 0] == pytest.approx(1 + math.pi, abs=1e-4)


def test_the_reported_pose_is_the_first_mode_and_the_others_are_apart_and_by_mass():
    found = bowl([1.0, 2.0])
    described = describe_posterior(found, found.mode[:, 1], found.mode[:, 0], CIRCLE, 0.1)
    assert torch.allclose(described["mode"][:, 0], found.mode[:, 1].double() % (2 * math.pi))
    mass, mode = described["mode_mass"], described["mode"]
    assert (mass[:, 1] >= mass[:, 2]).all()
    assert (mass.sum(1) <= 1 + 1e-6).all()
    away = wrap_angle(mode[:, :, None, 0] - mode[:, None, :, 0]).abs()
    assert (away[:, *torch.triu_indices(3, 3, 1)] > math.radians(59.9)).all()


def test_a_refined_mode_comes_before_every_pose_of_the_grid():
    """A quarter turn to either side the grid has lower losses, which would have been refined if they were modes."""
    found = bowl([1.0], twin=0.3)
    for turn in (-math.pi / 2, math.pi / 2):
        found.grid_loss[0, wrap_angle(found.grid[:, 0] - 1.0 - turn).abs().argmin()] = 0.2
    azimuths = describe_posterior(found, found.mode[:, 0], UNKNOWN, CIRCLE, 0.1)["mode"][0, :, 0]
    away = wrap_angle(azimuths - 1.0).abs()
    assert away[0] < 1e-4 and (away - math.pi).abs().amin() < 1e-4


def test_a_small_grid_has_no_third_mode():
    found = bowl([1.0], azimuths=2)
    described = describe_posterior(found, found.mode[:, 0], UNKNOWN, CIRCLE, 0.1)
    assert described["mode"][0, 2].isnan().all() and described["mode_mass"][0, 2] == 0
    alone = ScoredPoses(found.grid[:1], found.grid_loss[:, :1], found.grid[None, :1], found.grid_loss[:, :1])
    described = describe_posterior(alone, alone.mode[:, 0], UNKNOWN, CIRCLE, 0.1)
    assert described["mode"][0, 1:].isnan().all()
    assert described["mode_mass"][0, 1:].tolist() == [0, 0]


def test_an_unknown_truth_has_no_density_and_everything_else():
    found = bowl([1.0])
    described = describe_posterior(found, found.mode[:, 0], UNKNOWN, CIRCLE, 0.1)
    for name in ("log_density", "log_density_uncalibrated", "level"):
        assert described.pop(name).isnan().all()
    assert described["azimuth_density"].mean() * 2 * math.pi == pytest.approx(1, abs=0.02)
    assert all(value.isfinite().all() for value in described.values())


def test_a_uniform_distribution_has_the_entropy_of_its_space_and_a_truth_in_no_region():
    grid = PoseSpace(36, [5.0], [0.0]).grid()
    flat = ScoredPoses(grid, torch.ones(1, 36), grid[None, :2], torch.ones(1, 2))
    described = describe_posterior(flat, grid[:1], grid[5:6], CIRCLE, 0.1)
    assert described["entropy"][0] == pytest.approx(math.log(2 * math.pi))
    assert described["log_density"][0] == pytest.approx(-math.log(2 * math.pi))
    assert described["flip_mass"][0] == pytest.approx(1 / 6, abs=0.01)
    assert space_name((0, 1, 2)) == "SO(3)"
    assert log_volume((0, 1, 2)) == pytest.approx(2.29, abs=0.005)  # of Implicit-PDF, table 1


def test_levels_are_uniform_where_truths_are_drawn_from_the_distribution():
    found = bowl([1.0, 4.0], twin=0.1)
    truths = pose_posterior(found, CIRCLE.free, 0.05).draws(128).unbind(1)
    levels = [describe_posterior(found, found.mode[:, 0], truth, CIRCLE, 0.05)["level"] for truth in truths]
    shares = torch.tensor([0.25, 0.5, 0.75, 0.9], dtype=torch.double)
    for level in torch.stack(levels, 1):
        assert torch.allclose(level.quantile(shares), shares, atol=0.05)


def test_the_temperature_from_which_truths_were_drawn_is_found_again():
    centres = torch.linspace(0, 6.2, 40).tolist()
    found = bowl(centres, twin=0.1)
    truth = pose_posterior(found, CIRCLE.free, 0.04).draws(64).flatten(0, 1)
    many = ScoredPoses(
        found.grid, *(each.repeat_interleave(64, 0) for each in (found.grid_loss, found.mode, found.mode_loss))
    )
    temperature = fit_temperature(many, truth, CIRCLE)
    assert temperature == pytest.approx(0.04, rel=0.15)
    best = negative_log_likelihood(many, truth, CIRCLE, temperature)
    assert all(best <= negative_log_likelihood(many, truth, CIRCLE, other) + 1e-6 for other in (0.01, 0.03, 0.06, 1.0))


def test_of_data_with_azimuths_alone_the_marginal_is_judged():
    grid = PoseSpace(24, [0.0, 15.0, 30.0], [0.0]).grid()
    loss = torch.rand(2, len(grid), generator=torch.Generator().manual_seed(0))
    found = ScoredPoses(grid, loss, grid[loss.topk(2, 1, largest=False).indices], loss.topk(2, 1, largest=False).values)
    truth = torch.tensor([[1.0, math.nan, math.nan], [2.0, 0.1, 0.0]])
    whole = describe_posterior(found, found.mode[:, 0], truth, SO3, 0.2)
    marginal = describe_posterior(found, found.mode[:, 0], truth, Measured(SO3.free, azimuth_only=True), 0.2)
    assert whole["log_density"].isnan().tolist() == [True, False]
    expected = pose_posterior(found, SO3.free, 0.2).log_density(truth[:, None].nan_to_num(), (0,))[:, 0]
    assert torch.allclose(marginal["log_density"], expected - math.log(2 * math.pi))
