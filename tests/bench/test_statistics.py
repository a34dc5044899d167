"""The numbers of a bench row against slow twins and known answers."""

import math
import statistics

import pytest
import torch

from nvsm_lightning.bench.split_tables import split_row
from nvsm_lightning.bench.statistics import (
    METRICS,
    Pictures,
    better_draws,
    difference_cells,
    draw_values,
    measure,
    row_cells,
    spread,
)
from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics.pose import pose_metrics


def one_fold(errors: torch.Tensor) -> tuple[Pictures, torch.Tensor]:
    row = {(d, 0, f"{p:03d}"): float(e) for d, draw in enumerate(errors) for p, e in enumerate(draw)}
    pictures = Pictures.of([row])
    return pictures, pictures.errors(row, range(len(errors)))


def some_errors(draws: int, count: int, seed: int = 0) -> torch.Tensor:
    return 180 * torch.rand(draws, count, generator=torch.Generator().manual_seed(seed), dtype=torch.double) ** 3


@pytest.mark.parametrize("count", [7, 8])
def test_without_folds_a_draw_has_the_metrics_of_its_run(count):
    errors = some_errors(3, count)
    values = draw_values(*one_fold(errors))
    for draw in range(3):
        metrics = pose_metrics(torch.deg2rad(errors[draw]))
        metrics["flip_180_rate"] *= 100
        for key in METRICS:
            assert values[key][draw] == pytest.approx(metrics[key])


def test_a_picture_of_two_folds_counts_once():
    # a: right in one fold, wrong in the other; b and c: in one fold each
    row = {(0, 0, "a"): 5.0, (0, 1, "a"): 170.0, (0, 0, "b"): 3.0, (0, 1, "c"): 20.0}
    pictures = Pictures.of([row])
    assert pictures.count == 3
    values = draw_values(pictures, pictures.errors(row, [0]))
    assert values["acc_pi_6"] == [pytest.approx(100 * (0.5 + 1 + 1) / 3)]
    assert values["acc_pi_18"] == [pytest.approx(100 * (0.5 + 1 + 0) / 3)]
    assert values["med_err_deg"] == [pytest.approx((5.0 + 20.0) / 2)]  # half the weight lies at 5 and below
    assert values["flip_180_rate"] == [pytest.approx(100 * 0.5 / 3)]


def test_a_bootstrap_sample_repeats_pictures_as_a_list_would():
    pictures, error = one_fold(some_errors(2, 9))
    chosen = torch.tensor([[0, 0, 3, 5, 8, 8, 8, 2, 1], [4, 4, 4, 4, 4, 4, 4, 1, 7]], dtype=torch.double)
    sample = pictures.resampled(chosen)
    for key in METRICS:
        result = measure(key, error, pictures.once(error), sample)
        for row, numbers in enumerate(chosen.long()):
            twin = draw_values(*one_fold(error[:, numbers]))[key]
            assert result[row].tolist() == pytest.approx(twin)


def test_cells_hold_spread_worst_and_interval():
    errors = some_errors(4, 60)
    pictures, error = one_fold(errors)
    cells = row_cells(pictures, error)
    values = draw_values(pictures, error)
    for key, (_, more_is_better) in METRICS.items():
        cell = cells[key]
        assert cell.mean == pytest.approx(statistics.mean(values[key]))
        assert cell.std == pytest.approx(statistics.stdev(values[key]))
        assert cell.worst == (min if more_is_better else max)(values[key])
        assert cell.low < cell.mean < cell.high
        assert cell.draws_low < cell.mean < cell.draws_high
    assert row_cells(pictures, error) == cells, "the same runs give the same table"


def test_a_paired_difference_is_surer_than_its_two_sides():
    base = some_errors(3, 200)
    better = (base - 4).clamp_min(0)
    row = {(d, 0, f"{p:03d}"): float(base[d, p]) for d in range(3) for p in range(200)}
    pictures = Pictures.of([row])
    cell = difference_cells(pictures, better, base)["acc_pi_6"]
    alone = row_cells(pictures, base)["acc_pi_6"]
    assert cell.mean == pytest.approx(100 * ((better < 30).double().mean() - (base < 30).double().mean()).item())
    assert 0 < cell.low < cell.mean < cell.high
    assert cell.high - cell.low < 0.5 * (alone.high - alone.low)
    same = difference_cells(pictures, base, base)["med_err_deg"]
    assert (same.mean, same.std, same.low, same.high) == (0, 0, 0, 0)


def test_pictures_that_only_one_side_tested_are_left_out_of_a_difference():
    row = {(0, 0, "a"): 5.0, (0, 0, "b"): 5.0, (0, 0, "c"): 100.0}
    base = {(0, 0, "a"): 50.0, (0, 0, "b"): 5.0}
    pictures = Pictures.of([row, base])
    cells = difference_cells(pictures, pictures.errors(row, [0]), pictures.errors(base, [0]))
    assert cells["acc_pi_6"].mean == pytest.approx(50.0)
    assert cells["acc_pi_6"].std is None, "one draw has no spread"
    with pytest.raises(DataError, match="no test picture"):
        draw_values(pictures, torch.full((1, 3), math.nan, dtype=torch.double))


def test_spread_and_better_draws():
    cell = spread([1.0, 2.0, 3.0], more_is_better=False)
    assert (cell.mean, cell.std, cell.worst) == (2.0, 1.0, 3.0)
    assert cell.draws_high - cell.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)  # t of 2 degrees of freedom
    assert better_draws([0.5, 0.2, -1.0, 0.0]) == 2
    assert better_draws([0.5, 0.2, -1.0, 0.0], "med_err_deg") == 1


def test_samples_without_a_picture_of_some_draw_leave_no_hole_in_the_interval():
    """Two draws that tested two pictures each: many bootstrap samples hold none of a draw."""
    row = {(0, 0, "a"): 1.0, (0, 0, "b"): 50.0, (1, 0, "c"): 5.0, (1, 0, "d"): 170.0}
    pictures = Pictures.of([row])
    cells = row_cells(pictures, pictures.errors(row, range(2)))
    assert cells["acc_pi_6"].mean == 50.0
    for cell in cells.values():
        assert math.isfinite(cell.low) and math.isfinite(cell.high) and cell.low <= cell.mean <= cell.high


def test_an_object_that_some_draw_did_not_test_has_no_column():
    errors = {"car 1": {(0, 0, "a"): 1.0, (1, 0, "b"): 2.0}, "car 2": {(0, 0, "c"): 3.0}}
    row = split_row("7", "nvsm", errors, (0, 1))
    assert set(row.counts) == {"car 1"} and row.cells["acc_pi_6", "mean"].mean == 100.0
    assert not split_row("7", "nvsm", {"car 2": errors["car 2"]}, (0, 1)).cells
