"""Never worse: which of two models to keep, asked of unlabelled pictures.

A picture of a left-right symmetric object and its mirror image show poses that are mirror images of each other.
A model that is told neither pose has to find both; where it takes a front for a rear it does so by chance details, and
rarely twice alike. The share of pictures on which it agrees with itself therefore follows its accuracy, and needs no
label. It is blind to errors that the mirror image repeats: a model that calls everything a front agrees with itself.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch

from nvsm_lightning.geometry.cameras import mirror_camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error
from nvsm_lightning.methods.nemo import NeMo


@torch.no_grad()
def mirror_agreement(method: NeMo, batches: Iterable[dict[str, Any]], degrees: float = 30.0) -> float:
    """Share of the pictures of some batches whose pose agrees with that of their mirror image, mirrored back.

    Args:
        method: NeMo or NVSM, in evaluation mode.
        batches: of a pool loader, with ``image`` and ``camera``; no viewpoint is read.
        degrees: two poses agree when less than this apart.
    """
    agree = []
    for batch in batches:
        batch = method.transfer_batch_to_device(batch, method.device, 0)
        own = method.model.estimate(batch["image"], batch["camera"])
        camera = mirror_camera(batch["camera"], batch["image"].shape[-1])
        mirrored = method.model.estimate(batch["image"].flip(-1), camera)
        agree.append(viewpoint_error(own.viewpoint, mirror_viewpoint(mirrored.viewpoint)) < math.radians(degrees))
    return float(torch.cat(agree).float().mean())
