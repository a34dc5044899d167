"""Never worse: which of two models to keep, asked of labelled and unlabelled pictures. No hidden label is read.

**Likelihood of the labels by way of the pool.** A model says which pose the pool pictures have. A network that has
learned from neither, the one that a fit begins with, makes its bank from the pool at these poses, and is asked how
likely the known poses of the labelled pictures are. Wrong poses blur its bank, in the same way for both models; and a
model that agrees with its own mistakes gains nothing from that, for the labels are not its own.

**Mirror agreement.** A picture of a left-right symmetric object and its mirror image show poses that are mirror images
of each other; where a model takes a front for a rear it does so by chance details, and rarely twice alike. It is
reported beside the other, and decides nothing: it is blind to errors that the mirror image repeats, and a self-trained
model agrees with itself about its mistakes. How well both follow accuracy: experiments/guard.md.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.geometry.cameras import mirror_camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.pose.solver import ScoredPoses
from nvsm_lightning.pose.uncertainty import Measured, fit_temperature, negative_log_likelihood

Batches = Iterable[dict[str, Any]]


class PoolPoses(NamedTuple):
    """What a model says of pool pictures, in radians.

    Attributes:
        own: pose of each picture.
        mirrored: pose of its mirror image.
    """

    own: Float[Tensor, "picture 3"]
    mirrored: Float[Tensor, "picture 3"]


@torch.no_grad()
def pool_poses(method: NeMo, batches: Batches) -> PoolPoses:
    """Poses of pictures and of their mirror images by a model in evaluation mode; ``batches`` are of a pool loader,
    with ``image`` and ``camera``; no viewpoint is read."""
    poses = []
    for batch in batches:
        batch = method.transfer_batch_to_device(batch, method.device, 0)
        views = batch, _mirrored(batch)
        poses.append([method.model.estimate(view["image"], view["camera"]).viewpoint for view in views])
    own, mirrored = zip(*poses, strict=True)
    return PoolPoses(torch.cat(own), torch.cat(mirrored))


def mirror_agreement(poses: PoolPoses, degrees: float = 30.0) -> float:
    """Share of the pictures whose pose is less than so many degrees from that of their mirror image, mirrored back."""
    apart = viewpoint_error(poses.own, mirror_viewpoint(poses.mirrored))
    return float((apart < math.radians(degrees)).float().mean())


@torch.no_grad()
def label_likelihood(untrained: NeMo, pool: Batches, poses: PoolPoses, anchors: Batches, measured: Measured) -> float:
    """Mean log density (nats; the uniform one has minus the log volume of the space) of the labelled poses, by an
    untrained network whose bank is made of the pool at the poses that a model gives it.

    Args:
        untrained: whose features are centred already (``start_training``); left as it is.
        pool: the batches that :func:`pool_poses` has seen.
        poses: what the model said of them.
        anchors: labelled pictures, with ``viewpoint``. The distribution has the temperature that suits them best.
        measured: the angles that count.
    """
    judge = copy.deepcopy(untrained)
    judge.model.bank.clutter_filled.zero_()
    judge.fill_bank(_posed(pool, poses))
    estimates, truth = [], []
    for batch in anchors:
        batch = judge.transfer_batch_to_device(batch, judge.device, 0)
        estimates.append(judge.model.estimate(batch["image"], batch["camera"]).scored)
        truth.append(batch["viewpoint"])
    parts = zip(*((each.grid_loss, each.mode, each.mode_loss) for each in estimates), strict=True)
    scored, known = ScoredPoses(estimates[0].grid, *map(torch.cat, parts)), torch.cat(truth)
    return -negative_log_likelihood(scored, known, measured, fit_temperature(scored, known, measured))


def _mirrored(batch: dict[str, Any]) -> dict[str, Any]:
    image = batch["image"].flip(-1)
    return {**batch, "image": image, "camera": mirror_camera(batch["camera"], image.shape[-1])}


def _posed(batches: Batches, poses: PoolPoses) -> Iterator[dict[str, Any]]:
    """The pictures and their mirror images at given poses."""
    done = 0
    for batch in batches:
        count = len(batch["image"])
        for view, viewpoint in zip((batch, _mirrored(batch)), poses, strict=True):
            yield {**view, "viewpoint": viewpoint[done : done + count].to(batch["image"])}
        done += count
