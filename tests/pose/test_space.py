import math

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.pose.space import PoseSpace, paper_grid


def test_the_grid_holds_every_combination_once_azimuth_slowest() -> None:
    grid = torch.rad2deg(PoseSpace(4, [0.0, 20.0], [-5.0, 0.0, 5.0]).grid())
    expected = [(a, e, t) for a in (0, 90, 180, 270) for e in (0, 20) for t in (-5, 0, 5)]
    assert torch.allclose(grid, torch.tensor(expected).float(), atol=1e-4)
    assert PoseSpace(36, [5.0], [0.0]).grid().shape == (36, 3)


def test_the_paper_starts_from_144_poses() -> None:
    grid = paper_grid().grid()
    assert len(grid) == 144 and len(grid.unique(dim=0)) == 144
    assert sorted({round(math.degrees(e)) for e in grid[:, 1].tolist()}) == [-30, 0, 30, 60]
    assert sorted({round(math.degrees(t)) for t in grid[:, 2].tolist()}) == [-30, 0, 30]


def test_free_angles_are_told_by_name() -> None:
    assert PoseSpace(free=["azimuth", "theta"]).free_mask().tolist() == [True, False, True]


@pytest.mark.parametrize("wrong", [{"azimuths": 0}, {"elevations_deg": []}, {"thetas_deg": []}, {"free": ["roll"]}])
def test_spaces_that_cannot_be_are_errors(wrong) -> None:
    with pytest.raises(ConfigError, match="pose space needs"):
        PoseSpace(**wrong)
