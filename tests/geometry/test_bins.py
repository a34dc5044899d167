import math

import pytest
import torch

from nvsm_lightning.geometry.bins import AngleBins, mirrored_scores
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, wrap_angle


def viewpoints(count: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    azimuth, theta = 2 * math.pi * torch.rand(2, count, generator=generator, dtype=torch.double)
    elevation = math.pi * (torch.rand(count, generator=generator, dtype=torch.double) - 0.5)
    return torch.stack((azimuth, elevation, wrap_angle(theta)), -1)


def slow_bins(viewpoint: torch.Tensor, count: int) -> list[int]:
    """The formulas of the reference, angle by angle."""
    azimuth, *rest = viewpoint.tolist()
    turn = count / (2 * math.pi)
    return [math.floor(azimuth * turn), *(math.ceil(angle * turn + count / 2 - 1) for angle in rest)]


@pytest.mark.parametrize("count", [21, 41])
def test_bins_are_those_of_the_reference(count) -> None:
    given = viewpoints()
    assert AngleBins(count).encode(given).tolist() == [slow_bins(viewpoint, count) for viewpoint in given]


def test_golden_bins_and_angles() -> None:
    given = torch.deg2rad(torch.tensor([30.0, 10.0, 5.0]))
    bins = AngleBins().encode(given)
    assert bins.tolist() == [3, 21, 21]
    assert math.degrees(AngleBins().width) == pytest.approx(8.780488)
    assert AngleBins().decode(bins).rad2deg().tolist() == pytest.approx([30.7317, 8.7805, 8.7805], abs=1e-3)
    assert AngleBins(legacy=True).decode(bins).rad2deg().tolist() == pytest.approx([30.7317, 4.3902, 4.3902], abs=1e-3)


@pytest.mark.parametrize("count", [21, 41])
def test_there_and_back_is_off_by_at_most_half_a_bin_and_not_biased(count) -> None:
    bins, given = AngleBins(count), viewpoints(5000)
    off = wrap_angle(bins.decode(bins.encode(given)) - given)
    assert (off.abs() <= bins.width / 2 + 1e-6).all() and (off.mean(0).abs() < 0.05 * bins.width).all()
    centres = torch.arange(count)[:, None].expand(-1, 3)
    assert torch.equal(bins.encode(bins.decode(centres)), centres)


def test_the_legacy_decoder_is_half_a_bin_low_in_elevation_and_theta_alone() -> None:
    given = viewpoints(5000)
    bins, legacy = AngleBins(), AngleBins(legacy=True)
    off = wrap_angle(legacy.decode(legacy.encode(given)) - given).mean(0).rad2deg()
    assert off[0].abs() < 0.3 and off[1:].tolist() == pytest.approx([-4.39, -4.39], abs=0.3)
    assert torch.equal(bins.encode(given), legacy.encode(given))


def test_edges_of_the_turn_are_bins() -> None:
    ends = torch.tensor([[2 * math.pi, math.pi, -math.pi], [-1e-9, -math.pi / 2, math.pi], [0.0, 0.0, 0.0]])
    bins = AngleBins().encode(ends)
    assert ((bins >= 0) & (bins <= 40)).all() and bins[2].tolist() == [0, 20, 20]


def test_unknown_angles_have_the_bin_that_no_loss_counts() -> None:
    assert AngleBins(21).encode(torch.tensor([0.1, math.nan, math.nan])).tolist() == [0, 21, 21]


def test_mirrored_scores_are_scores_of_the_mirrored_pose() -> None:
    bins, given = AngleBins(), viewpoints().float()
    scores = torch.nn.functional.one_hot(bins.encode(given), 41).float()
    mirrored = mirrored_scores(scores).argmax(-1)
    assert torch.equal(mirrored, bins.encode(mirror_viewpoint(given)))
