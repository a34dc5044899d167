"""Never worse: which of two models to keep, asked of labelled and unlabelled pictures. No hidden label is read.

**Margin of the labels by way of the pool.** A model says which pose the pool pictures have. A network that has learned
from neither, the one that a fit begins with, makes its bank from the pool at these poses, and is asked about the
labelled pictures: how much better does the known pose explain them than one turned around? Fronts that were taken for
rears blur its bank, whichever model they are from; and a model that agrees with its own mistakes gains nothing from
that, for the labels are not its own.

**Mirror agreement.** A picture of a left-right symmetric object and its mirror image show poses that are mirror images
of each other; where a model takes a front for a rear it does so by chance details, and rarely twice alike. It tells few
turned pictures among many right ones, which blur no bank; it is blind to errors that the mirror image repeats.

Each compares the models picture by picture, as a difference in its own standard errors, and the sum of the two decides:
neither is right where the other errs. How well they follow accuracy: experiments/guard.md.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.geometry.cameras import mirror_camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.methods.neural_mesh import NeuralMesh
from nvsm_lightning.pose.solver import grid_losses

Batches = Iterable[dict[str, Any]]
CLOSE = math.radians(30.0)  # poses that count as one
SURE = 10.0  # standard errors, of which more say no more; all pictures differing alike would be infinitely many


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


def mirror_agreement(poses: PoolPoses) -> Bool[Tensor, " picture"]:
    """Whether the pose of each picture is close to that of its mirror image, mirrored back."""
    return viewpoint_error(poses.own, mirror_viewpoint(poses.mirrored)) < CLOSE


@torch.no_grad()
def label_margin(untrained: NeMo, pool: Batches, poses: PoolPoses, anchors: Batches) -> Float[Tensor, " label"]:
    """How much better (difference of NVSM's S, as a mean over the covered cells) an untrained network whose bank is
    made of the pool, at the poses that a model gives it, finds the known pose of each labelled picture than the best
    pose turned around.

    Of both the best pose of the grid counts within 30 degrees of the nearest to the known one, and of the furthest. A
    likelihood of the known pose itself says the same of few labels, and of many no longer: it then tells errors of a
    few degrees, of which a model that was taught these very labels has fewer (experiments/guard.md).

    Args:
        untrained: whose features are centred already (``start_training``); left as it is.
        pool: the batches that :func:`pool_poses` has seen.
        poses: what the model said of them.
        anchors: labelled pictures with ``viewpoint``, then their mirror images, whose mean counts.
    """
    judge = copy.deepcopy(untrained)
    judge.model.bank.clutter_filled.zero_()
    judge.model.bank.vertex.zero_()  # a side that no pose shows must not be known from the labelled pictures
    judge.fill_bank(_posed(pool, poses))
    margins = [_margin(judge.model, judge.transfer_batch_to_device(batch, judge.device, 0)) for batch in anchors]
    return torch.cat(margins).view(2, -1).mean(0)


def standard_score(first: Float[Tensor, " item"], second: Float[Tensor, " item"]) -> float:
    """Mean difference of paired numbers in its standard errors, ``SURE`` at most; 0 where they are equal, or too few to
    tell an error."""
    difference = first.double() - second.double()
    if len(difference) < 2 or not difference.any():
        return 0.0
    score = difference.mean() / (difference.std() / math.sqrt(len(difference)))
    return float(score.clamp(-SURE, SURE))


def _margin(model: NeuralMesh, batch: dict[str, Any]) -> Float[Tensor, " picture"]:
    feature_map, grid = model.features(batch["image"]), model.space.grid().to(batch["image"])
    evidence = (model.evidence_of(feature_map, batch["camera"], number) for number in model.trained())
    losses = torch.stack([grid_losses(found, grid, renderer, "area") for found, renderer in evidence]).amin(0)
    away = viewpoint_error(batch["viewpoint"][:, None], grid)
    known = away <= away.amin(1, keepdim=True) + CLOSE
    turned = away >= away.amax(1, keepdim=True) - CLOSE
    return losses.where(turned, math.inf).amin(1) - losses.where(known, math.inf).amin(1)


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
