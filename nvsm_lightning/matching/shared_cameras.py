"""Few cameras for many pictures: maps are then synthesised once a camera instead of once a picture."""

import math

import torch
from jaxtyping import Int
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera

RATIO = 1.1  # of neighbouring distances
CENTRE = 5.0  # a distance that is kept: that of canonical cameras (NeMo), for which nothing is rounded


def shared_cameras(camera: Camera) -> tuple[Camera, Int[Tensor, " picture"]]:
    """Rounded cameras without repeats, and which of them each picture has.

    The distance goes to the nearest ``5 * 1.1^k`` with the scale at the object's centre kept (``focal / distance``), a
    box to whole cells, the principal point to half cells. What a camera is rounded to depends on no other picture.
    ``camera`` in map pixels. ``frame`` is left out: maps are synthesised whole.
    """
    distance = CENTRE * RATIO ** ((camera.distance / CENTRE).log() / math.log(RATIO)).round()
    boxed = camera.box.isfinite().all(-1)
    # The scale is that of the crop, equal for all pictures but for its last bits.
    focal = torch.where(boxed, camera.focal, distance * (camera.focal / camera.distance * 1e4).round() / 1e4)
    principal, box = (camera.principal * 2).round() / 2, camera.box.round()
    table = torch.cat((distance[:, None], focal[:, None], principal, box.nan_to_num(nan=-1e9)), 1)
    rows, index = table.unique(dim=0, return_inverse=True)
    own = rows[:, 4:].masked_fill(rows[:, 4:] == -1e9, torch.nan)
    return Camera(rows[:, 0], rows[:, 1], rows[:, 2:4], own), index
