"""Quality of a distribution over poses, against its definition; the reference densities, against quadrature."""

import math

import pytest
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics.posterior import (
    LEVELS,
    fit_point,
    mixture_log_density,
    point_log_density,
    posterior_metrics,
    prior_log_density,
)

ERROR = (torch.arange(200_000, dtype=torch.double) + 0.5) / 200_000 * math.pi
MEASURE = {  # of the angle from a fixed pose under the base measure
    True: torch.full_like(ERROR, 1 / math.pi),
    False: (1 - ERROR.cos()) / math.pi,
}


@pytest.mark.parametrize("on_circle", [True, False])
@pytest.mark.parametrize("concentration", [0.1, 3.0, 200.0, 3000.0])
def test_reference_densities_integrate_to_one(concentration, on_circle):
    weight = MEASURE[on_circle] * (math.pi / len(ERROR))
    density = point_log_density(ERROR, torch.tensor(concentration), on_circle).exp()
    assert float(density @ weight) == pytest.approx(1, abs=1e-4)
    floored = mixture_log_density(ERROR, concentration, 0.25, on_circle).exp()
    assert float(floored @ weight) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("on_circle", [True, False])
def test_the_fit_finds_concentration_and_share_of_drawn_errors(on_circle):
    generator = torch.Generator().manual_seed(0)
    concentration = 100.0
    density = mixture_log_density(ERROR, concentration, 0.1, on_circle).exp() * MEASURE[on_circle]
    error = ERROR[torch.multinomial(density[::10], 20_000, True, generator=generator) * 10]
    found, share = fit_point(error, on_circle)
    assert share == pytest.approx(0.1)
    assert 70 < found < 140
    alone, none = fit_point(error, on_circle, torch.zeros(1))
    assert none == 0 and alone < found / 2  # far errors force a wide peak


def test_perfectly_calibrated_forecasts_have_no_error_and_overconfident_ones_have():
    generator = torch.Generator().manual_seed(0)
    count = 50_000
    mass = torch.rand(count, generator=generator)
    error = torch.where(torch.rand(count, generator=generator) < mass, 0.1, 2.0)
    level = torch.rand(count, generator=generator)
    good = posterior_metrics(torch.zeros(count), level, mass, error)
    assert good["coverage_50"] == pytest.approx(50, abs=1)
    assert good["coverage_90"] == pytest.approx(90, abs=1)
    assert good["coverage_error"] < 1 and good["ece"] < 1.5 and good["nll"] == 0
    sure = posterior_metrics(torch.zeros(count), level.sqrt(), torch.full((count,), 0.95), error)
    assert sure["ece"] == pytest.approx(45, abs=1)
    assert sure["coverage_50"] == pytest.approx(25, abs=1)
    expected = (100 * (LEVELS - LEVELS**2)).mean()
    assert sure["coverage_error"] == pytest.approx(float(expected), abs=1)


def test_pictures_of_unknown_pose_are_left_out_and_only_such_are_refused():
    nan = math.nan
    log_density, level, mass, error = (
        torch.tensor(values) for values in ([1.0, nan], [0.2, nan], [0.9, 0.9], [0.1, nan])
    )
    metrics = posterior_metrics(log_density, level, mass, error)
    assert metrics["n_images"] == 1
    assert metrics["nll"] == -1
    with pytest.raises(DataError, match="cannot be judged"):
        posterior_metrics(log_density[1:], level[1:], mass[1:], error[1:])


def test_the_prior_is_narrow_where_labels_agree_and_uniform_where_they_are_spread():
    def prior(labels, truth):
        labels, truth = torch.tensor(labels), torch.tensor(truth)
        away = [(a[:, None] - b[None]).abs() for a, b in ((truth, labels), (labels, labels))]
        return prior_log_density(*(torch.minimum(each, 2 * math.pi - each) for each in away), True)

    near, far = prior([1.0, 1.05, 1.1, 0.95], [1.0, 4.0])
    assert near > 1.5 and far < -3
    spread = [math.tau * k / 7 for k in range(7)]
    assert prior(spread, [0.3, 2.0]).abs().max() < 0.2
    assert prior([1.0], [2.0]).tolist() == [0.0]


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_a_narrow_distribution_leaves_the_other_side_a_finite_density(share) -> None:
    """Where every validation picture is right the narrowest one without a uniform share fits best."""
    density = mixture_log_density(torch.tensor([math.pi]), 3000.0, share, True)
    assert density.item() == pytest.approx(
        point_log_density(*torch.tensor([[math.pi], [3000.0]]), True).item() if share == 0 else math.log(share)
    )
