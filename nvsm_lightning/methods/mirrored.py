"""What a model says of a picture and of its mirror image, as one estimate: symmetric categories only."""

import torch

from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error, wrap_angle
from nvsm_lightning.matching.matcher import mirrored_poses
from nvsm_lightning.pose.posterior import SAME
from nvsm_lightning.pose.solver import PoseEstimate, ScoredPoses


def better_of(estimate: PoseEstimate, mirrored: PoseEstimate) -> PoseEstimate:
    """The better, by loss, of the estimate of each picture and that of its mirror image mirrored back, or the middle of
    both where they stand at one peak."""
    better, found = mirrored.loss < estimate.loss, mirror_viewpoint(mirrored.viewpoint)
    other, own = mirrored.scored, estimate.scored
    scored = ScoredPoses(
        own.grid,
        torch.where(better[:, None], other.grid_loss[:, mirrored_poses(own.grid)], own.grid_loss),
        torch.where(better[:, None, None], mirror_viewpoint(other.mode), own.mode),
        torch.where(better[:, None], other.mode_loss, own.mode_loss),
    )
    one_peak = (viewpoint_error(found, estimate.viewpoint) < SAME) & estimate.loss.isfinite()
    middle = estimate.viewpoint + wrap_angle(found - estimate.viewpoint) / 2
    one_peak &= viewpoint_error(middle, estimate.viewpoint) < SAME  # seen from above, angles may wrap two ways
    placement = None
    if estimate.placement is not None and mirrored.placement is not None:
        here, back = estimate.placement, mirrored.placement * mirrored.placement.new_tensor([1.0, -1.0, 1.0])
        placement = torch.where(one_peak[:, None], (here + back) / 2, torch.where(better[:, None], back, here))
    return PoseEstimate(
        torch.where(one_peak[:, None], middle, torch.where(better[:, None], found, estimate.viewpoint)),
        torch.minimum(mirrored.loss, estimate.loss),
        torch.where(better[:, None], mirror_viewpoint(mirrored.start), estimate.start),
        scored,
        placement,
    )
