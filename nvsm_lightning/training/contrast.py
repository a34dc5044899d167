"""The contrastive loss of CoKe / NeMo (§2.5), restricted to the visible vertices."""

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.features.reading import cells


@dataclass
class ContrastSettings:
    """The constants of the loss, with NeMo's values.

    Attributes:
        temperature: T of the softmax.
        clutter_weight: weight of the clutter classes in the denominator; their logits get ``log(clutter_weight)``
            added.
        near_distance: vertices closer than this (CAD units) to the own vertex are neither positive nor negative.
        noise_per_image: background cells drawn from each picture.
        background_weight: factor of L_reg, which pushes background features away from all vertex means.
    """

    temperature: float = 0.07
    clutter_weight: float = 5e-3
    near_distance: float = 0.1
    noise_per_image: int = 5
    background_weight: float = 0.1


def near_vertices(vertices: Float[Tensor, "vertex 3"], distance: float) -> Bool[Tensor, "vertex vertex"]:
    """Pairs of different vertices at most ``distance`` CAD units apart: excluded from each other's softmax (A3)."""
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
    """``L_main``: softmax cross-entropy of every visible vertex feature against all vertex means and clutter features
    (§2.5).

    ``l = f . mu / T`` for vertices, ``f . beta / T + log(clutter_weight)`` for clutter; near vertices leave the
    denominator. The mean runs over all visible (picture, vertex) pairs, each counting with its picture's ``weight``.
    Banks are constants. Zero if nothing is seen.
    """
    picture, vertex = visible.nonzero(as_tuple=True)
    if len(vertex) == 0:
        return features.sum() * 0.0
    seen = features[picture, vertex]
    to_vertices = (seen @ vertex_bank.T / settings.temperature).masked_fill(near[vertex], -1e5)
    to_clutter = seen @ clutter_bank.T / settings.temperature + torch.tensor(settings.clutter_weight).log()
    entropy = nnf.cross_entropy(torch.cat((to_vertices, to_clutter), 1), vertex, reduction="none")
    pair_weight = weight[picture]
    return (pair_weight * entropy).sum() / pair_weight.sum().clamp_min(1e-8)


def background_loss(noise: Float[Tensor, "noise dim"], vertex_bank: Float[Tensor, "vertex dim"]) -> Float[Tensor, ""]:
    """``L_reg`` without its factor: mean inner product of background features and vertex means (§2.5)."""
    return (noise @ vertex_bank.T).mean() if len(noise) else vertex_bank.new_zeros(())


def draw_background(
    feature_map: Float[Tensor, "batch dim h w"],
    covered: Bool[Tensor, "batch h w"],
    shown: Bool[Tensor, "batch h w"],
    count: int,
    order: Float[Tensor, "batch h w"],
) -> Float[Tensor, "noise dim"]:
    """``count`` cells a picture, drawn without replacement outside the rendered mesh grown by one cell (A8).

    Cells beyond the stored picture (not ``shown``) show nothing: they are drawn only where the background within it
    does not suffice, and covered cells only after those. ``order`` holds uniform random numbers: the cells with the
    smallest are drawn.
    """
    grown = nnf.max_pool2d(covered.float()[:, None], 3, 1, 1)[:, 0]
    chosen = (order + 1.0 * ~shown + 2 * grown).flatten(1).argsort(1)[:, :count]
    return cells(feature_map).gather(1, chosen[..., None].expand(-1, -1, feature_map.shape[1])).flatten(0, 1)
