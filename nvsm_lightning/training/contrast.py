"""The contrastive loss of CoKe / NeMo, restricted to the visible vertices."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from nvsm_lightning.features.reading import cells

ROWS = 512  # of logits at a time: 6 MB of 3,200 classes
HIGH = 30.0  # exp of a logit below this, and the sum of thousands, is far from the end of float32


@dataclass
class ContrastSettings:
    """The constants of the loss, with NeMo's values.

    Attributes:
        temperature: T of the softmax.
        clutter_weight: weight of the clutter classes in the denominator; their logits get ``log(clutter_weight)``
            added.
        near_distance: vertices at most so far (CAD units) from the own vertex are neither positive nor negative.
        noise_per_image: background cells drawn from each picture.
        background_weight: factor of the background loss, which pushes background features away from all vertex means.
    """

    temperature: float = 0.07
    clutter_weight: float = 5e-3
    near_distance: float = 0.1
    noise_per_image: int = 5
    background_weight: float = 0.1


def near_vertices(vertices: Float[Tensor, "vertex 3"], distance: float) -> Bool[Tensor, "vertex vertex"]:
    """Pairs of different vertices at most ``distance`` CAD units apart: excluded from each other's softmax."""
    near = torch.cdist(vertices, vertices) <= distance
    return near & ~torch.eye(len(vertices), dtype=torch.bool, device=vertices.device)


def contrastive_loss(
    features: Float[Tensor, "batch vertex dim"],
    visible: Bool[Tensor, "batch vertex"],
    weight: Float[Tensor, " batch"],
    vertex_bank: Float[Tensor, "vertex dim"],
    clutter_bank: Float[Tensor, "clutter dim"],
    near: Bool[Tensor, "vertex vertex"],
    settings: ContrastSettings,
) -> Float[Tensor, ""]:
    """:func:`pair_loss` of the visible (picture, vertex) pairs, each counting with its picture's ``weight``."""
    picture, vertex = visible.nonzero(as_tuple=True)
    return pair_loss(features[picture, vertex], vertex, weight[picture], vertex_bank, clutter_bank, near, settings)


def pair_loss(
    features: Float[Tensor, "pair dim"],
    vertex: Int64[Tensor, " pair"],
    weight: Float[Tensor, " pair"],
    vertex_bank: Float[Tensor, "vertex dim"],
    clutter_bank: Float[Tensor, "clutter dim"],
    near: Bool[Tensor, "vertex vertex"],
    settings: ContrastSettings,
) -> Float[Tensor, ""]:
    """NeMo's contrastive loss: softmax cross-entropy of features, each seen at a ``vertex``, against all vertex means
    and clutter features.

    ``l = f . mu / T`` for vertices, ``f . beta / T + log(clutter_weight)`` for clutter; near vertices leave the
    denominator. The weighted mean over all pairs; zero if there is none.
    """
    if len(features) == 0:
        return features.sum() * 0.0
    share = weight.to(features) / weight.sum().clamp_min(1e-8)
    return _CrossEntropy.apply(features, vertex, share, vertex_bank, clutter_bank, near, settings)


class _CrossEntropy(torch.autograd.Function):
    """Weighted sum of ``-log softmax`` of features at their own vertices.

    16 pictures have some 4,000 visible vertices, each with 3,000 logits. Some rows at a time stay in the processor's
    cache, and the gradient is worked out while they are there. Products are in bfloat16 where autocast says so, all
    else in the type of the features.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, vertex: Tensor, share: Tensor, means: Tensor, clutter: Tensor, near: Tensor,
        settings: ContrastSettings,
    ) -> Tensor:  # fmt: skip
        """The summed loss; its gradient is worked out while the logits are there."""
        kind, count, weight = _product_type(features), len(means), settings.clutter_weight
        entropy, gradient = torch.empty_like(share), torch.empty_like(features)
        bank_slope = (
            features.new_zeros(count + len(clutter), features.shape[1]) if any(ctx.needs_input_grad[3:]) else None
        )
        with torch.autocast(features.device.type, enabled=False):
            scaled = (features / settings.temperature).to(kind)
            classes, weighed = torch.cat((means, clutter)).to(kind), torch.cat((means, weight * clutter)).to(kind)
            # Unit vectors and the temperature of the papers: exp(14) needs no shift by the largest logit.
            high = bool(scaled.float().norm(dim=1).amax() * classes.float().norm(dim=1).amax() > HIGH)
            for start in range(0, len(features), ROWS):
                rows = slice(start, start + ROWS)
                own = vertex[rows, None]
                logits = (scaled[rows] @ classes.T).to(features)
                logits[:, :count].masked_fill_(near[own[:, 0]], -torch.inf)
                logit = logits.gather(1, own)[:, 0]
                top = logits.amax(1) if high else torch.zeros_like(logit)
                power = (logits.sub_(top[:, None]) if high else logits).exp_()
                total = power[:, :count].sum(1) + weight * power[:, count:].sum(1)
                entropy[rows] = total.log() + top - logit
                # Softmax less one at the own vertex, times the total: taken off here, in full precision.
                slope = power.scatter_add_(1, own, -total[:, None]).to(kind)
                factor = (share[rows] / total)[:, None]
                gradient[rows] = (slope @ weighed).to(features) * (factor / settings.temperature)
                if bank_slope is not None:
                    bank_slope += slope.T @ (scaled[rows].to(features) * factor).to(kind)
        ctx.save_for_backward(
            gradient, *(() if bank_slope is None else (bank_slope[:count], weight * bank_slope[count:]))
        )
        return (share * entropy).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that the forward pass has kept."""
        features, means, clutter = (*(incoming * each for each in ctx.saved_tensors), None, None)[:3]
        return features, None, None, means, clutter, None, None


def _product_type(features: Tensor) -> torch.dtype:
    """bfloat16 under such an autocast. Not float16: the gradient is made before a scaler could lift it into range."""
    device = features.device.type
    low = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    return torch.bfloat16 if low else features.dtype


def background_loss(noise: Float[Tensor, "noise dim"], vertex_bank: Float[Tensor, "vertex dim"]) -> Float[Tensor, ""]:
    """The background loss without its factor: mean inner product of background features and vertex means."""
    return (noise @ vertex_bank.T).mean() if len(noise) else vertex_bank.new_zeros(())


def draw_background(
    feature_map: Float[Tensor, "batch dim h w"],
    covered: Bool[Tensor, "batch h w"],
    shown: Bool[Tensor, "batch h w"],
    count: int,
    order: Float[Tensor, "batch h w"],
) -> Float[Tensor, "noise dim"]:
    """``count`` cells a picture, drawn without replacement outside the rendered mesh grown by one cell.

    Cells beyond the stored picture (not ``shown``) show nothing: they are drawn only where the background within it
    does not suffice, and covered cells only after those. ``order`` holds uniform random numbers: the cells with the
    smallest are drawn.
    """
    grown = nnf.max_pool2d(covered.float()[:, None], 3, 1, 1)[:, 0]
    chosen = (order + 1.0 * ~shown + 2 * grown).flatten(1).argsort(1)[:, :count]
    return cells(feature_map).gather(1, chosen[..., None].expand(-1, -1, feature_map.shape[1])).flatten(0, 1)


def shares_of_pairs(pairs: Float[Tensor, " part"], world: int) -> Float[Tensor, " part"]:
    """The number of (picture, vertex) pairs of each part of the batch over the mean number of all parts of all
    ``world`` processes: weighted so, the mean of the parts' losses is the mean over all pairs of the whole batch.
    """
    if world * len(pairs) == 1:
        return torch.ones_like(pairs)
    total = pairs.sum()
    if world > 1:
        torch.distributed.all_reduce(total)
    return pairs * (world * len(pairs)) / total.clamp_min(1e-8)
