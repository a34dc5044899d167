import random
import statistics

import pytest
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics.intervals import bootstrap_interval, mean, median


@pytest.mark.parametrize(("statistic", "slow"), [(mean, statistics.fmean), (median, statistics.median)])
def test_interval_agrees_with_the_slow_twin(statistic, slow):
    values = torch.randn(80, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    draw = random.Random(5)
    draws = sorted(slow(draw.choices(values.tolist(), k=80)) for _ in range(4000))
    low, high = bootstrap_interval(values, statistic, seed=1, n=4000)
    assert low == pytest.approx(draws[100], abs=0.05)
    assert high == pytest.approx(draws[3900], abs=0.05)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(torch.randn(60, generator=generator), mean, seed=seed, n=400)
        hits += low < 0 < high
    assert 180 <= hits <= 198  # 190 expected; binomial standard deviation 3, and a little undercoverage at 60 pictures


def test_interval_depends_on_its_arguments_only_and_chunks_do_not_change_it(monkeypatch):
    values = torch.rand(37, generator=torch.Generator().manual_seed(0))
    whole = bootstrap_interval(values, mean, seed=4)
    monkeypatch.setattr("nvsm_lightning.metrics.intervals.CHUNK", 37)
    torch.manual_seed(123)
    assert bootstrap_interval(values, mean, seed=4) == whole
    assert bootstrap_interval(values, mean, seed=5) != whole


@pytest.mark.parametrize("values", [torch.zeros(0), torch.tensor([float("nan"), 1.0])])
def test_nothing_to_resample_is_an_error(values):
    with pytest.raises(DataError, match="finite"):
        bootstrap_interval(values, mean)
