"""The distribution over poses: normalised, uniform where nothing is known, equal to its own draws."""

import math

import pytest
import torch

from nvsm_lightning.geometry.viewpoints import viewpoint_error, wrap_angle
from nvsm_lightning.pose.posterior import OUTSIDE, base_density, pose_posterior
from nvsm_lightning.pose.solver import ScoredPoses, SolverSettings, solve
from nvsm_lightning.pose.space import PoseSpace

AZIMUTH = torch.tensor([True, False, False])
ALL = torch.tensor([True, True, True])
SPACES = {
    "circle": (PoseSpace(12, [5.0], [0.0]), AZIMUTH),
    "two fixed elevations": (PoseSpace(12, [0.0, 20.0], [0.0]), AZIMUTH),
    "sphere": (PoseSpace(12, [0.0, 15.0, 30.0], [0.0]), torch.tensor([True, True, False])),
    "up to the pole": (PoseSpace(12, [0.0, 22.5, 45.0, 67.5, 90.0], [0.0]), torch.tensor([True, True, False])),
    "part of SO(3)": (PoseSpace(12, [-6.0, 9.0, 24.0], [0.0]), ALL),
    "all of SO(3)": (PoseSpace(8, [-75.0, -45.0, -15.0, 15.0, 45.0, 75.0], [-180.0, -90.0, 0.0, 90.0]), ALL),
}
FINE = {1: (7200,), 2: (720, 720), 3: (240, 120, 120)}  # cell borders lie between the points


def scored(space: PoseSpace, batch: int = 3, spread: float = 1.0) -> ScoredPoses:
    """Random losses, with two modes a little off the best grid poses and deeper than these."""
    generator = torch.Generator().manual_seed(0)
    grid = space.grid()
    loss = 1 - spread * torch.rand(batch, len(grid), generator=generator)
    best = loss.topk(2, 1, largest=False)
    off = 0.05 * torch.randn(batch, 2, 3, generator=generator) * space.free_mask()
    return ScoredPoses(grid, loss, grid[best.indices] + off, best.values - 0.1 * spread)


def lattice(free: torch.Tensor, *fine: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Viewpoints of a fine product rule over the free angles and their base measure, which sums to 1."""
    ranges = ((0, 2 * math.pi), (-math.pi / 2, math.pi / 2), (-math.pi, math.pi))
    nodes, weights = [], []
    for angle, (low, high) in enumerate(ranges):
        count = fine[angle] if free[angle] else 1
        x = low + (torch.arange(count, dtype=torch.double) + 0.5) * (high - low) / count
        nodes.append(x)
        weights.append(base_density(x, angle) * (high - low) / count if free[angle] else torch.ones(1))
    weight = torch.einsum("a,b,c->abc", *(each.double() for each in weights)).flatten()
    return torch.cartesian_prod(*nodes), weight


@pytest.mark.parametrize("name", SPACES)
def test_the_density_integrates_to_one(name):
    space, free = SPACES[name]
    found = scored(space, 1 if free.all() else 3)
    posterior = pose_posterior(found, free, 0.05)
    points, weight = lattice(free, *FINE[int(free.sum())])
    density = posterior.log_density(points.expand(len(found.mode), -1, -1)).exp()
    assert torch.allclose(density @ weight, torch.ones(1).double(), atol=0.02)
    total = posterior.cell_mass.flatten(1).sum(1) + posterior.mode_mass.sum(1) + posterior.outside
    assert torch.allclose(total, torch.ones(1).double(), atol=1e-9)
    assert (posterior.mode_mass > 0).any()


@pytest.mark.parametrize("name", ["circle", "all of SO(3)"])
def test_a_constant_loss_gives_the_uniform_density(name):
    space, free = SPACES[name]
    posterior = pose_posterior(scored(space, spread=0.0), free, 0.05)
    points, _ = lattice(free, 20, 20, 20)
    assert posterior.log_density(points.expand(3, -1, -1)).abs().max() < 1e-6
    assert posterior.outside == 0


def test_where_the_grid_does_not_reach_the_density_is_the_small_uniform_share():
    space, free = SPACES["part of SO(3)"]
    posterior = pose_posterior(scored(space), free, 0.05)
    away = torch.tensor([[0.3, math.radians(80), 2.0]]).expand(3, 1, 3)
    assert torch.allclose(posterior.log_density(away).exp(), torch.full((3, 1), OUTSIDE).double(), atol=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_draws_have_the_masses_and_the_entropy_of_the_density(name):
    space, free = SPACES[name]
    found = scored(space, 1 if free.all() else 3)
    posterior = pose_posterior(found, free, 0.05)
    points, weight = lattice(free, *FINE[int(free.sum())])
    log_density = posterior.log_density(points.expand(len(found.mode), -1, -1))
    entropy = -(log_density.exp() * log_density * weight).sum(1)
    draws = posterior.draws(4096)
    assert torch.allclose(-posterior.log_density(draws).mean(1), entropy, atol=0.1)
    half = points[:, 0] < math.pi
    mass = (log_density.exp() * weight * half).sum(1)
    assert torch.allclose((draws[..., 0] % (2 * math.pi) < math.pi).double().mean(1), mass, atol=0.02)


def test_the_marginal_over_the_azimuth_is_the_integral_over_the_other_angles():
    space, free = SPACES["part of SO(3)"]
    posterior = pose_posterior(scored(space), free, 0.05)
    rest, weight = lattice(torch.tensor([False, True, True]), 1, 240, 240)
    for azimuth in (0.2, 3.0):
        points = torch.cat((torch.full_like(rest[:, :1], azimuth), rest[:, 1:]), 1)
        joint = posterior.log_density(points.expand(3, -1, -1)).exp() @ weight
        marginal = posterior.log_density(points[:1].expand(3, -1, -1), (0,)).exp()[:, 0]
        assert torch.allclose(joint, marginal, rtol=0.02)


def test_the_order_of_the_grid_does_not_matter_and_neither_does_the_turn_of_an_angle():
    space, free = SPACES["part of SO(3)"]
    found = scored(space)
    order = torch.randperm(len(found.grid), generator=torch.Generator().manual_seed(1))
    mixed = ScoredPoses(found.grid[order], found.grid_loss[:, order], found.mode, found.mode_loss)
    points, _ = lattice(free, 11, 11, 11)
    own, other = (pose_posterior(each, free, 0.05).log_density(points.expand(3, -1, -1)) for each in (found, mixed))
    assert torch.allclose(own, other)
    turned = points + torch.tensor([2, 0, -2], dtype=torch.double) * math.pi
    again = pose_posterior(found, free, 0.05).log_density(turned.expand(3, -1, -1))
    assert torch.allclose(again, own)


def test_a_lower_temperature_narrows_and_a_second_mode_at_the_same_place_adds_nothing():
    space, free = SPACES["circle"]
    found = scored(space)
    hot, cold = (pose_posterior(found, free, temperature) for temperature in (0.1, 0.01))
    entropy = [-each.log_density(each.draws()).mean(1) for each in (hot, cold)]
    assert (entropy[1] < entropy[0]).all()
    assert (cold.width[..., 0] <= hot.width[..., 0]).all()
    once = ScoredPoses(found.grid, found.grid_loss, found.mode[:, :1], found.mode_loss[:, :1])
    twice = ScoredPoses(found.grid, found.grid_loss, found.mode[:, [0, 0]], found.mode_loss[:, [0, 0]])
    points, _ = lattice(free, 100)
    one, two = (pose_posterior(each, free, 0.05).log_density(points.expand(3, -1, -1)) for each in (once, twice))
    assert torch.allclose(one, two)
    worse_first = ScoredPoses(
        found.grid, found.grid_loss, found.mode[:, [0, 0]], found.mode_loss[:, :1] + torch.tensor([[0.02, 0.0]])
    )
    assert torch.allclose(pose_posterior(worse_first, free, 0.05).log_density(points.expand(3, -1, -1)), one)
    assert pose_posterior(worse_first, free, 1e-5).cell_mass.isfinite().all()


def test_a_loss_that_is_not_finite_counts_as_the_worst():
    space, free = SPACES["circle"]
    found = scored(space)
    found.grid_loss[0, 3], found.grid_loss[1], found.mode_loss[1] = torch.nan, torch.inf, torch.nan
    posterior = pose_posterior(found, free, 0.05)
    assert posterior.cell_mass.isfinite().all()
    density = posterior.log_density(found.grid.expand(3, -1, -1))
    assert density[0].argmin() == 3
    assert density[1].std() < 1e-9


def test_the_density_of_rendered_pictures_peaks_at_the_truth(scene):
    space = PoseSpace(24, [0.0, 15.0, 30.0], [0.0])
    estimate = solve(scene.evidence, space, scene.renderer, SolverSettings())
    posterior = pose_posterior(estimate.scored, space.free_mask(), 0.003)
    truth = posterior.log_density(scene.viewpoint[:, None])[:, 0]
    assert (truth > math.log(100)).all()
    near = viewpoint_error(posterior.draws(), scene.viewpoint[:, None].double()) < math.radians(15)
    assert (near.double().mean(1) > 0.5).all()


@pytest.mark.parametrize("elevation", [0.0, 50.0])
def test_densities_are_to_each_other_as_exp_of_the_losses(elevation):
    """At a refined mode, at poses of the grid, and two fifths of the way between these."""
    space, temperature = PoseSpace(12, [-30.0, 10.0, 50.0], [0.0]), 0.05
    grid = space.grid()
    loss = 1 - 0.3 * torch.rand(1, len(grid), generator=torch.Generator().manual_seed(0))
    mode = torch.tensor([[[math.radians(92), math.radians(elevation), 0.0]]])
    scores = ScoredPoses(grid, loss, mode, torch.tensor([[0.6]]))
    posterior = pose_posterior(scores, torch.tensor([True, True, False]), temperature)
    far = int((grid[:, 0] - math.radians(270)).abs().argmin())
    step, after = torch.tensor([math.radians(12), 0.0, 0.0]), far + 3  # the next azimuth, same elevation
    points = torch.stack((mode[0, 0], grid[far], grid[far] + step, grid[after] - step))[None]
    density = posterior.log_density(points)[0].exp() - posterior.outside
    here, there = loss[0, far], loss[0, after]
    expected = torch.stack((torch.tensor(0.6), here, 0.6 * here + 0.4 * there, 0.4 * here + 0.6 * there)).double()
    torch.testing.assert_close((density / density[1]).log(), (here - expected) / temperature, atol=0.1, rtol=0)


def test_the_width_of_a_mode_is_that_of_the_bowl():
    """A parabola of curvature k has the Gaussian of variance T / k; of a flat one no wider than a cell of the grid."""
    space, temperature, k, centre = PoseSpace(24, [0.0], [0.0]), 0.02, 1.5, 1.0
    grid = space.grid()
    away = (grid[:, 0] - centre + math.pi) % (2 * math.pi) - math.pi
    loss = 0.3 + k * away**2 / 2
    bowl = ScoredPoses(grid, loss[None], torch.tensor([[[centre, 0.0, 0.0]]]), torch.full((1, 1), 0.3))
    width = pose_posterior(bowl, AZIMUTH, temperature).width[0, 0, 0]
    assert float(width) == pytest.approx(math.sqrt(temperature / k), rel=1e-3)
    flat = ScoredPoses(grid, (1e-4 * away**2 / 2)[None], bowl.mode, torch.zeros(1, 1))
    width = pose_posterior(flat, AZIMUTH, temperature).width[0, 0, 0]
    assert float(width) == pytest.approx(math.radians(360 / 24), rel=1e-3)


def test_an_angle_of_one_value_has_the_bowl_of_the_best_mode():
    """A free elevation that the grid has once: of two modes of azimuth the lower one tells how fast the loss rises."""
    space, temperature, bowls = PoseSpace(24, [10.0], [0.0]), 0.05, (1.5, 6.0)
    grid = space.grid()
    centres = [grid[4, 0], grid[16, 0]]  # modes on the grid: its cells say all
    losses = [
        low + k * wrap_angle(grid[:, 0] - centre) ** 2 / 2
        for low, k, centre in zip((0.3, 0.4), bowls, centres, strict=True)
    ]
    found = ScoredPoses(grid, torch.minimum(*losses)[None], grid[None, [16, 4]], torch.tensor([[0.4, 0.3]]))
    posterior = pose_posterior(found, torch.tensor([True, True, False]), temperature)
    above = grid[7] + torch.tensor([0.0, math.radians(6), 0.0])
    density = posterior.log_density(torch.stack((grid[7], above))[None])[0].exp() - posterior.outside
    fall = float((density[0] / density[1]).log())
    assert fall == pytest.approx(bowls[0] * math.radians(6) ** 2 / 2 / temperature, rel=0.05)


def test_cells_end_at_the_pole_and_hold_it():
    space, free = SPACES["up to the pole"]
    posterior = pose_posterior(scored(space), free, 0.05)
    elevation = posterior.axes[1]
    assert (elevation.edges.diff() > 0).all() and elevation.edges[-1] == math.pi / 2
    assert (elevation.measure > 0).all() and (posterior.cell_mass >= 0).all()
    above = torch.tensor([math.pi / 2, math.pi / 2 + 1e-3], dtype=torch.double)  # float32's pi/2 lies beyond
    assert elevation.find(above).tolist() == [len(elevation.values) - 1] * 2


def test_a_mode_that_was_refined_beyond_the_pole_has_a_distribution():
    space = PoseSpace(azimuths=12, elevations_deg=[0.0, 45.0, 90.0], thetas_deg=[0.0], free=["azimuth", "elevation"])
    found = scored(space)
    found.mode[..., 1] = math.radians(130)
    posterior = pose_posterior(found, space.free_mask(), 0.001)
    assert posterior.mode_mass.sum() > 0.01
    drawn = posterior.draws(256)
    assert drawn.isfinite().all() and posterior.log_density(drawn).isfinite().all()


@pytest.mark.parametrize(("found_deg", "true_deg"), [(86.0, 90.0), (80.0, 90.0), (90.0, 90.0), (60.0, 64.0)])
def test_near_a_pole_the_density_is_that_of_the_losses(found_deg, true_deg):
    """By integration over a fine lattice. (Divided by the cosine, a Gaussian would be infinitely dense at the pole.)"""
    space, free = SPACES["up to the pole"]
    space = PoseSpace(36, space.elevations_deg, space.thetas_deg)
    grid, temperature = space.grid().double(), 0.036
    best = torch.tensor([[math.radians(47), math.radians(found_deg), 0.0]], dtype=torch.double)

    def loss(viewpoint: torch.Tensor) -> torch.Tensor:
        return 0.8 - 0.25 * (-((viewpoint_error(viewpoint, best) / 0.45) ** 2)).exp()

    points, weight = lattice(free, 360, 360)
    truth = torch.tensor([[math.radians(47), math.radians(true_deg), 0.0]], dtype=torch.double)
    exact = -loss(truth) / temperature - ((-loss(points) / temperature).exp() @ weight).log()
    found = ScoredPoses(grid, loss(grid)[None], best[None], loss(best)[None])
    density = pose_posterior(found, free, temperature).log_density(truth[None])[0]
    assert float(density) == pytest.approx(float(exact), abs=0.7)


@pytest.mark.parametrize("free", [["elevation", "theta"], ["elevation"], []])
def test_a_space_whose_azimuths_are_given_has_a_distribution(free):
    space = PoseSpace(12, [0.0, 20.0, 40.0], [-10.0, 0.0, 10.0], free)
    posterior = pose_posterior(scored(space), space.free_mask(), 0.05)
    drawn = posterior.draws(64)
    assert drawn.isfinite().all() and posterior.log_density(drawn).isfinite().all()
    assert torch.equal(posterior.log_density(drawn, (0,)).exp().round(decimals=6), torch.ones(3, 64).double())


def test_far_from_a_very_sure_mode_the_density_is_small_and_not_nothing():
    space, free = SPACES["circle"]
    found = scored(space, 1)
    density = pose_posterior(found, free, 1e-5).log_density(found.mode[:, :1] + math.radians(60))
    assert density.isfinite().all() and (density < -100).all()
