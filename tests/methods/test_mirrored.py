"""One estimate of a picture and its mirror image."""

import math

import pytest
import torch

from nvsm_lightning.geometry.viewpoints import mirror_viewpoint
from nvsm_lightning.methods.mirrored import better_of
from nvsm_lightning.pose.solver import PoseEstimate, ScoredPoses
from nvsm_lightning.pose.space import PoseSpace

GRID = PoseSpace(4, [0.0], [0.0]).grid()


def estimate(degrees: tuple[float, float, float], loss: float, shift: float) -> PoseEstimate:
    viewpoint = torch.deg2rad(torch.tensor([degrees]))
    scored = ScoredPoses(GRID, torch.zeros(1, 4), viewpoint[:, None], torch.tensor([[loss]]))
    return PoseEstimate(viewpoint, torch.tensor([loss]), viewpoint, scored, torch.tensor([[0.0, shift, 1.0]]))


@pytest.mark.parametrize(
    ("mirrored", "azimuth", "shift"),
    [
        (estimate((-44.0, 0.0, 0.0), 0.5, -3.0), 42.0, 2.5),  # one peak: the middle
        (estimate((130.0, 0.0, 0.0), 0.5, -3.0), 40.0, 2.0),  # another peak, and worse
        (estimate((130.0, 0.0, 0.0), 0.1, -3.0), 230.0, 3.0),  # better: mirrored back, and so is the shift
    ],
)
def test_the_pose_and_the_place_are_those_of_the_better_side(mirrored, azimuth, shift) -> None:
    found = better_of(estimate((40.0, 0.0, 0.0), 0.3, 2.0), mirrored)
    assert math.degrees(float(found.viewpoint[0, 0])) % 360 == pytest.approx(azimuth, abs=1e-3)
    assert found.placement[0].tolist() == pytest.approx([0.0, shift, 1.0])


def test_what_was_scored_is_that_of_the_better_side() -> None:
    """Mirrored back, if that is the other one: its losses change places, its modes their side."""

    def scored(seed: int, azimuth: float, loss: float) -> PoseEstimate:
        mode = torch.tensor([[azimuth, 0.1, 0.05]])
        grid_loss = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed))
        found = ScoredPoses(GRID, grid_loss, mode[:, None], torch.tensor([[loss]]))
        return PoseEstimate(mode, torch.tensor([loss]), mode, found)

    worse, better = scored(0, 0.7, 0.5), scored(1, 2.0, 0.1)
    best = better_of(worse, better)
    found, theirs = best.scored, better.scored
    assert torch.equal(best.start, mirror_viewpoint(better.start))
    assert torch.equal(found.grid_loss, theirs.grid_loss[:, [0, 3, 2, 1]])  # azimuths 0, 90, 180, 270
    assert torch.equal(found.mode, mirror_viewpoint(theirs.mode)) and torch.equal(found.mode_loss, theirs.mode_loss)
    kept = better_of(better, worse).scored
    assert torch.equal(kept.grid_loss, theirs.grid_loss) and torch.equal(kept.mode, theirs.mode)


def test_seen_from_above_angles_that_wrap_two_ways_are_not_averaged() -> None:
    """(0, 84, 0) and (178, 84, -179) are near each other; half-way between their numbers lies the other side."""
    own, other = estimate((0.0, 84.0, 0.0), 0.3, 0.0), estimate((-178.0, 84.0, 179.0), 0.5, 0.0)
    assert torch.allclose(better_of(own, other).viewpoint, own.viewpoint)
