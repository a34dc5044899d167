"""The matching part of the speed bench, on a tiny scale: what it reports is there and is what it says."""

import math

import pytest
import torch

from nvsm_lightning.bench import speed_matching


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        small = {"SQUARE": 64, "PICTURES": 8, "POSES": (4, 16), "SHIFTS": 3, "MATCHED": 1}
        small |= {"POOL": 48, "DRAWN": 12, "LISTED": 20}
        for name, value in small.items():
            patch.setattr(speed_matching, name, value)
        return {row.name: row for row in speed_matching.measure(0.0)}


def test_every_path_is_compared_with_what_limits_it(rows) -> None:
    assert len(rows) == 2 + 4 + 1 + 4 + 2 + 3
    assert all(math.isfinite(row.value) and row.value > 0 for row in rows.values())
    match = rows["match, bf16 blocks, P = 16"]
    assert match.ratio == pytest.approx(match.value / rows[speed_matching.PEAK].value)
    assert match.baseline == speed_matching.PEAK
    float32 = rows["match, float32 blocks, P = 16"]
    assert float32.baseline == speed_matching.PEAK.replace("bf16", "float32")
    assert all(row.baseline in {*rows, ""} for row in rows.values())
    for row in rows.values():
        assert row.spread is None or row.spread[0] <= row.value <= row.spread[1]


def test_recall_counts_the_best_that_were_found() -> None:
    found = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert speed_matching._recall(found, torch.tensor([[1, 9], [5, 4]])) == 75


def test_the_short_list_of_a_small_pool_holds_most_of_the_best(rows) -> None:
    row = rows[f"recall@{speed_matching.BEST} of the short list"]
    assert 80 <= row.value <= 100 and "20 of 48 listed" in row.what
