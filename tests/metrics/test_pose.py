import math

import pytest
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics.pose import azimuth_metrics, legacy_sqrt2_metrics, pose_error, pose_metrics


def radians(*rows):
    return torch.deg2rad(torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize(
    ("first", "second", "expected_deg"),
    [
        ((30, 10, 5), (42, 5, 0), 14.473109),
        ((30, 10, 5), (210, 10, 5), 180),
        ((30, 10, 5), (35, 10, 5), 5),
        ((30, 10, 5), (30, 10, 10), 5),
        ((350, 0, 0), (5, 0, 0), 15),
    ],
)
def test_golden_errors(first, second, expected_deg):
    error = pose_error(radians(first), radians(second))
    assert math.degrees(error.item()) == pytest.approx(expected_deg, abs=1e-4)


def test_a_prediction_that_is_not_finite_counts_as_the_largest_error():
    error = pose_error(torch.tensor([[math.nan, 0, 0], [math.inf, 0, 0], [0.0, 0, 0]]), torch.zeros(3, 3))
    assert error.tolist() == pytest.approx([math.pi, math.pi, 0.0])


def test_unknown_truth_is_nan_and_azimuth_only_truth_gives_the_azimuth_difference():
    truth = torch.tensor([[math.nan] * 3, [0.1, math.nan, math.nan], [0.1, 0.0, math.nan]])
    error = pose_error(torch.tensor([[0.3, 0.5, 0.4]] * 3), truth)
    assert error[0].isnan()
    assert error[1:].tolist() == pytest.approx([0.2, 0.2])


def test_metrics_equal_the_slow_twin():
    error = torch.rand(501, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * math.pi
    values = sorted(error.tolist())
    got = pose_metrics(error)
    assert got["acc_pi_6"] == pytest.approx(100 * sum(value < math.pi / 6 for value in values) / 501)
    assert got["acc_pi_18"] == pytest.approx(100 * sum(value < math.pi / 18 for value in values) / 501)
    assert got["med_err_deg"] == pytest.approx(math.degrees(values[250]))
    assert got["mean_err_deg"] == pytest.approx(math.degrees(sum(values) / 501))
    assert got["flip_180_rate"] == pytest.approx(sum(value > math.radians(150) for value in values) / 501)
    assert got["n_images"] == 501


def test_thresholds_are_strict_and_an_even_median_is_the_middle():
    error = torch.tensor([math.pi / 6, math.pi / 18, 0.0, 0.1], dtype=torch.float64)
    got = pose_metrics(error)
    assert got["acc_pi_6"] == 75.0
    assert got["acc_pi_18"] == 50.0
    assert got["med_err_deg"] == pytest.approx(math.degrees((0.1 + math.pi / 18) / 2))


def test_unknown_errors_are_left_out_and_none_known_is_an_error():
    assert pose_metrics(torch.tensor([math.nan, 0.0]))["n_images"] == 1
    with pytest.raises(DataError, match="known pose"):
        pose_metrics(torch.tensor([math.nan]))


def test_azimuth_metrics_wrap_equal_the_slow_twin_and_punish_nan():
    generator = torch.Generator().manual_seed(1)
    predicted, truth = (torch.rand(101, generator=generator, dtype=torch.float64) * 720 - 360 for _ in range(2))
    slow = sorted(
        min(abs(p - t) % 360, 360 - abs(p - t) % 360) for p, t in zip(predicted.tolist(), truth.tolist(), strict=True)
    )
    got = azimuth_metrics(torch.deg2rad(predicted), torch.deg2rad(truth))
    assert got["azimuth_mae_deg"] == pytest.approx(sum(slow) / 101)
    assert got["azimuth_median_deg"] == pytest.approx(slow[50])
    assert azimuth_metrics(torch.tensor([math.nan]), torch.tensor([0.0]))["azimuth_mae_deg"] == pytest.approx(180)


def test_the_historical_metric_counts_30_degrees_as_21():
    error = torch.tensor([30.0, 42.0, 43.0, 14.0]).deg2rad()
    generator = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]]) * error[0]  # log of a rotation by 30 degrees about z
    spectral = torch.linalg.matrix_norm(generator, 2) / math.sqrt(2)
    assert math.degrees(spectral) == pytest.approx(21.213, abs=1e-3)
    assert legacy_sqrt2_metrics(error[:1])["med_err_deg_legacy_sqrt2"] == pytest.approx(21.213, abs=1e-3)
    found = legacy_sqrt2_metrics(error)
    assert found["acc_pi_6_legacy_sqrt2"] == 75 and found["acc_pi_18_legacy_sqrt2"] == 25
