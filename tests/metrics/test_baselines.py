import math

import pytest
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics import baselines
from nvsm_lightning.metrics.baselines import guess_errors, prior_guesses, random_guesses
from nvsm_lightning.metrics.pose import pose_error, pose_metrics


def test_guess_errors_equal_the_slow_twin():
    generator = torch.Generator().manual_seed(0)
    guesses, truth = torch.rand(4, 3, generator=generator), torch.rand(5, 3, generator=generator)
    got = guess_errors(guesses, truth)
    for picture in range(5):
        for guess in range(4):
            assert got[picture, guess] == pytest.approx(pose_error(guesses[guess, None], truth[picture, None]).item())


def test_many_pictures_are_asked_in_parts(monkeypatch):
    guesses, truth = torch.rand(3, 3), torch.rand(150, 3)
    whole = guess_errors(guesses, truth)
    monkeypatch.setattr(baselines, "PICTURES", 7)
    assert whole.shape == (150, 3) and torch.equal(guess_errors(guesses, truth), whole)
    assert guess_errors(guesses, truth[:0]).shape == (0, 3)


def test_the_prior_row_is_the_expectation_of_drawing_a_label():
    labelled = torch.tensor([[0.0, 0, 0], [math.pi, 0, 0]])
    truth = torch.tensor([[0.01, 0, 0]] * 3 + [[math.pi, 0, 0]])
    got = pose_metrics(guess_errors(prior_guesses(labelled), truth).flatten())
    assert got["acc_pi_6"] == 50.0
    assert got["flip_180_rate"] == 0.5


def test_the_random_row_of_an_upright_object_hits_one_twelfth_within_thirty_degrees_a_side():
    truth = torch.tensor([[1.234, 0.1, 0.0]])
    got = pose_metrics(guess_errors(random_guesses(truth, 720), truth).flatten())
    assert got["acc_pi_6"] == pytest.approx(100 / 6, abs=0.2)
    assert got["acc_pi_18"] == pytest.approx(100 / 18, abs=0.2)
    assert got["mean_err_deg"] == pytest.approx(90, abs=0.5)


def test_random_guesses_use_the_median_label_and_survive_unknown_angles():
    labelled = torch.tensor([[0.0, 0.1, math.nan], [1.0, 0.3, math.nan], [2.0, 0.2, math.nan]])
    guesses = random_guesses(labelled, 8)
    assert guesses[:, 1].tolist() == pytest.approx([0.2] * 8)
    assert guesses[:, 2].tolist() == [0.0] * 8


def test_no_labels_is_an_error():
    with pytest.raises(DataError, match="guess"):
        guess_errors(prior_guesses(torch.full((2, 3), math.nan)), torch.zeros(1, 3))
