"""The render-and-compare objective of NeMo (§2.8), evaluated on the similarity table."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.features.reading import cells, similarity_table
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.fragments import covered
from nvsm_lightning.render.renderer import FeatureRenderer, rasterize


@dataclass(frozen=True)
class Evidence:
    """What the objective needs of a batch of pictures.

    Attributes:
        table: similarity of every map cell with every vertex feature.
        clutter: similarity of every map cell with the clutter feature.
        camera: cameras in MAP pixels.
    """

    table: Float[Tensor, "batch hw vertex"]
    clutter: Float[Tensor, "batch hw"]
    camera: Camera

    def usable(self) -> "Evidence":
        """Itself, or a copy that autograd accepts if it was made under inference_mode."""
        if not self.table.is_inference():
            return self
        camera = Camera(*(tensor.clone() for tensor in self.camera.tensors()))
        return Evidence(self.table.clone(), self.clutter.clone(), camera)


def gather_evidence(
    feature_map: Float[Tensor, "batch dim h w"],
    vertex_features: Float[Tensor, "vertex dim"],
    clutter_feature: Float[Tensor, " dim"],
    camera: Camera,
) -> Evidence:
    """Tables of a batch; ``camera`` in map pixels. float32 always: a bf16 table moves the pose by a quarter of a
    degree.
    """
    with torch.autocast(feature_map.device.type, enabled=False):
        table = similarity_table(feature_map.float(), vertex_features.float())
        return Evidence(table, cells(feature_map.float()) @ clutter_feature.float(), camera)


def object_scores(
    evidence: Evidence, viewpoint: Float[Tensor, "batch pose 3"], renderer: FeatureRenderer
) -> tuple[Float[Tensor, "batch pose hw"], Bool[Tensor, "batch pose hw"]]:
    """``s_obj``: inner product of the rendered and the observed feature in every cell, and where the mesh covers the
    map.

    Exact: interpolating similarities equals the similarity of interpolated features. Differentiable in ``viewpoint``
    through the barycentric weights (hard visibility, as in NeMo).
    """
    batch, poses = viewpoint.shape[:2]
    camera = evidence.camera.expanded(poses)
    uvz = project(renderer.vertices, rotation_from_viewpoint(viewpoint.flatten(0, 1)), camera)
    face_id = rasterize(uvz.detach(), renderer.faces, renderer.size, renderer.engine)
    mask = face_id >= 0
    item, row, column = mask.nonzero(as_tuple=True)
    vertex, weight = covered(uvz, renderer.faces, face_id, (item, row, column))
    # Flat look-ups into the table: only covered cells, no channel dimension.
    hw, vertices = evidence.table.shape[1:]
    cell = row * renderer.size[1] + column
    line = (torch.div(item, poses, rounding_mode="floor") * hw + cell) * vertices
    similarity = evidence.table.flatten()[line[:, None] + vertex]
    scores = torch.zeros(len(uvz), hw, device=uvz.device, dtype=weight.dtype)
    scores = scores.index_put((item, cell), (weight * similarity).sum(-1))
    return scores.view(batch, poses, hw), mask.view(batch, poses, hw)


def pose_loss(
    evidence: Evidence, viewpoint: Float[Tensor, "batch pose 3"], renderer: FeatureRenderer
) -> Float[Tensor, "batch pose"]:
    """``1 - [mean_p max(s_obj, s_clu) - mean_p s_clu]`` over all cells, with s_obj = 0 where no face is (§2.8,
    step 4).
    """
    score, _ = object_scores(evidence, viewpoint, renderer)
    clutter = evidence.clutter[:, None]
    return 1 - (torch.maximum(score, clutter) - clutter).mean(-1)


def area_loss(
    evidence: Evidence, viewpoint: Float[Tensor, "batch pose 3"], renderer: FeatureRenderer
) -> Float[Tensor, "batch pose"]:
    """``1 - S``, with NVSM's S(F_theta', F_m) as a mean over the covered cells instead of all, so that poses of
    different silhouettes compare (§4.2), and the clutter similarity subtracted: a likelihood ratio against background.
    """
    score, mask = object_scores(evidence, viewpoint, renderer)
    ratio = (score - evidence.clutter[:, None]) * mask
    return 1 - ratio.sum(-1) / mask.sum(-1).clamp_min(1)


OBJECTIVES: dict[str, Callable[[Evidence, Tensor, FeatureRenderer], Tensor]] = {
    "likelihood": pose_loss,
    "area": area_loss,
}


def occlusion_map(
    evidence: Evidence, viewpoint: Float[Tensor, "batch 3"], renderer: FeatureRenderer
) -> Float[Tensor, "batch h w"]:
    """0 = background, 1 = object seen, 2 = object hidden: a covered cell is seen iff ``s_obj > s_clu`` (§2.2,
    §2.8 step 7).
    """
    score, mask = object_scores(evidence, viewpoint[:, None], renderer)
    hidden = score[:, 0] <= evidence.clutter
    labels = torch.where(mask[:, 0], 1.0 + hidden, 0.0)
    return labels.view(-1, *renderer.size)
