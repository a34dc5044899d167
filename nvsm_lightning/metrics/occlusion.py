"""How well an occlusion map finds the occluder: intersection over union on the object, against a trivial guess."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nvsm_lightning.errors import DataError

SEEN, HIDDEN = 1, 2  # labels of the object in an occlusion map; 0 is the background


def mask_cells(mask: Bool[Tensor, "batch height width"], stride: int) -> Bool[Tensor, "batch h w"]:
    """A mask of pixels as map cells: those at least half covered."""
    return avg_pool2d(mask.float()[:, None], stride)[:, 0] >= 0.5


def occluder_iou(
    occlusion: Float[Tensor, "batch h w"],
    occluder: Bool[Tensor, "batch h w"],
    region: Bool[Tensor, "batch h w"],
) -> Float[Tensor, " batch"]:
    """IoU of the cells called hidden and the occluded cells of the object; NaN where both are empty.

    Cells of the map outside the object's true region count as false, so that a wrong pose is not flattered; what an
    occluder hides beside the object no neural mesh model can know, and it does not count.

    Args:
        occlusion: labels at the estimated pose, see :func:`nvsm_lightning.pose.likelihood.occlusion_map`.
        occluder: where an occluder is.
        region: where the object is, hidden or not.
    """
    found, true = occlusion == HIDDEN, occluder & region
    union = (found | true).sum((1, 2))
    return (found & true).sum((1, 2)) / torch.where(union > 0, union, torch.nan)


def occlusion_metrics(
    occlusion: Float[Tensor, "batch h w"],
    occluder: Bool[Tensor, "batch h w"],
    region: Bool[Tensor, "batch h w"],
) -> dict[str, float]:
    """Means over the pictures whose object is occluded somewhere.

    Returns:
        ``occluder_iou``; ``occluder_iou_all_hidden``, what calling the whole mesh at the estimated pose hidden would
        reach: the IoU must beat it to mean anything; ``seen_as_hidden`` (per cent of the visible object cells called
        hidden), ``hidden_as_hidden`` (per cent of the hidden ones), both of cells that the mesh covers, over all
        pictures together; ``n_occluded``.

    Raises:
        DataError: no picture has an occluded object cell.
    """
    hidden = occluder & region
    some = hidden.any((1, 2))
    if not some.any():
        raise DataError(f"None of the {len(some)} pictures has an occluder on its object: there is nothing to find.")
    occlusion, occluder, region, hidden = occlusion[some], occluder[some], region[some], hidden[some]
    covered = occlusion > 0
    called, seen = occlusion == HIDDEN, region & ~occluder & covered
    return {
        "occluder_iou": occluder_iou(occlusion, occluder, region).double().mean().item(),
        "occluder_iou_all_hidden": occluder_iou(covered * float(HIDDEN), occluder, region).double().mean().item(),
        "seen_as_hidden": 100 * (called & seen).sum().item() / max(1, int(seen.sum())),
        "hidden_as_hidden": 100 * (called & hidden).sum().item() / max(1, int((hidden & covered).sum())),
        "n_occluded": int(some.sum()),
    }
