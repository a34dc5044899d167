import csv
import math
from pathlib import Path

import pytest
import torch

from nvsm_lightning.matching.pseudo import COLUMNS, PseudoLabels


@pytest.fixture
def labels() -> PseudoLabels:
    viewpoint = torch.tensor([(math.pi / 2, 0.1, -0.05), (math.pi, 0.0, 0.0), (0.0, 0.2, 0.0)])
    score, margin = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.3, 0.2, 0.1])
    return PseudoLabels(2, torch.tensor([4, 0, 7]), viewpoint, score, margin, torch.tensor([1, 0, 6]))


def test_the_table_names_pictures_in_degrees(labels, tmp_path: Path) -> None:
    keys = [f"img/{number}.jpg" for number in range(8)]
    path = tmp_path / "tables" / "matches.csv"
    labels.write_csv(path, keys, torch.tensor([1.5, math.nan, 170.0]))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS) and [row["key"] for row in rows] == [keys[4], keys[0], keys[7]]
    first = {name: float(value) for name, value in rows[0].items() if name != "key"}
    assert first == pytest.approx(
        {
            "azimuth_deg": 90, "elevation_deg": math.degrees(0.1), "theta_deg": math.degrees(-0.05), "score": 0.5,
            "margin": 0.3, "anchor": 1, "round": 2, "error_deg": 1.5,
        },
        abs=1e-3,
    )  # fmt: skip
    assert [row["error_deg"] for row in rows] == ["1.500", "", "170.000"]  # unknown truth: an empty cell


def test_without_truth_the_error_column_is_empty(labels, tmp_path: Path) -> None:
    labels.write_csv(tmp_path / "matches.csv", [str(number) for number in range(8)])
    with (tmp_path / "matches.csv").open(newline="") as file:
        assert [row["error_deg"] for row in csv.DictReader(file)] == ["", "", ""]
