"""The render-and-compare objective of NeMo, evaluated on the similarity table."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.features.reading import cells, similarity_table
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.fragments import covered
from nvsm_lightning.render.renderer import FeatureRenderer, rasterize


class Evidence:
    """What the objective needs of a batch of pictures.

    The similarity table is a matrix product as dear as a grid of poses is long; a solver that asks for few of its
    entries computes them itself from ``cells`` and ``features``.

    Attributes:
        clutter: similarity of every map cell with the clutter feature.
        camera: cameras in MAP pixels.
        cells: features of the map cells, row by row; None where only the table was given.
        features: vertex features; None where only the table was given.
    """

    def __init__(
        self,
        table: Float[Tensor, "batch hw vertex"] | None,
        clutter: Float[Tensor, "batch hw"],
        camera: Camera,
        cells: Float[Tensor, "batch hw dim"] | None = None,
        features: Float[Tensor, "vertex dim"] | None = None,
    ) -> None:
        self._table, self.clutter, self.camera, self.cells, self.features = table, clutter, camera, cells, features

    def __len__(self) -> int:
        return len(self.clutter)

    @property
    def table(self) -> Float[Tensor, "batch hw vertex"]:
        """Similarity of every map cell with every vertex feature; made at the first use."""
        if self._table is None:
            assert self.cells is not None and self.features is not None  # __init__ got them instead of the table
            with torch.autocast(self.clutter.device.type, enabled=False):
                self._table = similarity_table(self.cells, self.features)
        return self._table

    def usable(self) -> "Evidence":
        """Itself, or a copy that autograd accepts if it was made under inference_mode."""
        if not self.clutter.is_inference():
            return self
        camera = Camera(*(tensor.clone() for tensor in self.camera.tensors()))
        return Evidence(self.table.clone(), self.clutter.clone(), camera)

    def every(self, stride: int, size: tuple[int, int]) -> tuple["Evidence", tuple[int, int]]:
        """The same pictures seen in every ``stride``-th cell of every ``stride``-th row of a map of ``size`` only, and
        the size of that smaller map.

        Cell (i, j) of it has its centre at the old (i * stride + 0.5, j * stride + 0.5): the cells are left out, not
        averaged.
        """
        if stride == 1:
            return self, size

        def picked(values: Tensor) -> Tensor:
            """The cells that are kept."""
            return values.unflatten(1, size)[:, ::stride, ::stride].flatten(1, 2)

        distance, focal, principal, box, frame = self.camera.tensors()
        shift = (stride - 1) / 2
        moved = ((values + shift) / stride for values in (principal, box, frame))
        camera = Camera(distance, focal / stride, *moved)
        table = None if self._table is None else picked(self._table)
        cells = None if self.cells is None else picked(self.cells)
        smaller = (-(-size[0] // stride), -(-size[1] // stride))
        return Evidence(table, picked(self.clutter), camera, cells, self.features), smaller


def gather_evidence(
    feature_map: Float[Tensor, "batch dim h w"],
    vertex_features: Float[Tensor, "vertex dim"],
    clutter_feature: Float[Tensor, " dim"],
    camera: Camera,
) -> Evidence:
    """Evidence of a batch; ``camera`` in map pixels. float32 always: a bf16 table moves the pose by a quarter of a
    degree.
    """
    with torch.autocast(feature_map.device.type, enabled=False):
        seen = cells(feature_map.float()).contiguous()
        return Evidence(None, seen @ clutter_feature.float(), camera, seen, vertex_features.float())


def object_scores(
    evidence: Evidence,
    viewpoint: Float[Tensor, "batch pose 3"],
    renderer: FeatureRenderer,
    placement: Float[Tensor, "batch pose 3"] | None = None,
) -> tuple[Float[Tensor, "batch pose hw"], Bool[Tensor, "batch pose hw"]]:
    """``s_obj``: inner product of the rendered and the observed feature in every cell, and where the mesh covers the
    map.

    Exact: interpolating similarities equals the similarity of interpolated features. Differentiable in ``viewpoint``
    through the barycentric weights (hard visibility, as in NeMo).

    Args:
        evidence: the pictures.
        viewpoint: poses of each of them.
        renderer: mesh and size of the map.
        placement: of each pose the logarithm of a factor on the camera's distance, and a shift (u, v) in map pixels.
    """
    batch, poses = viewpoint.shape[:2]
    camera = evidence.camera.expanded(poses)
    if placement is not None:
        camera = camera.placed(placement.flatten(0, 1))
    item, cell, vertex, weight, mask = _drawn(viewpoint.flatten(0, 1), camera, renderer)
    # Flat look-ups into the table: only covered cells, no channel dimension.
    hw, vertices = evidence.table.shape[1:]
    line = (torch.div(item, poses, rounding_mode="floor") * hw + cell) * vertices
    similarity = evidence.table.flatten()[line[:, None] + vertex]
    scores = torch.zeros(batch * poses, hw, device=weight.device, dtype=weight.dtype)
    scores = scores.index_put((item, cell), (weight * similarity).sum(-1))
    return scores.view(batch, poses, hw), mask.view(batch, poses, hw)


def shared_scores(
    evidence: Evidence, viewpoint: Float[Tensor, "pose 3"], renderer: FeatureRenderer
) -> tuple[Float[Tensor, "batch pose hw"], Bool[Tensor, "batch pose hw"]]:
    """:func:`object_scores` at poses that are the same for all pictures, which have one camera: drawn once."""
    camera = evidence.camera[:1].expanded(len(viewpoint))
    item, cell, vertex, weight, mask = _drawn(viewpoint, camera, renderer)
    batch, hw, vertices = evidence.table.shape
    similarity = evidence.table.flatten(1)[:, (cell * vertices)[:, None] + vertex]
    scores = torch.zeros(batch, len(viewpoint) * hw, device=weight.device, dtype=weight.dtype)
    scores[:, item * hw + cell] = (weight * similarity).sum(-1)
    return scores.view(batch, -1, hw), mask.flatten(1).expand(batch, -1, -1)


def _drawn(
    viewpoint: Float[Tensor, "pose 3"], camera: Camera, renderer: FeatureRenderer
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of every covered cell of every rendering: the rendering, the cell, the three vertices and their weights; and
    which cells are covered [pose, h, w].
    """
    uvz = project(renderer.vertices, rotation_from_viewpoint(viewpoint), camera)
    face_id = rasterize(uvz.detach(), renderer.faces, renderer.size, renderer.engine, renderer.hides_its_back)
    mask = face_id >= 0
    item, row, column = mask.nonzero(as_tuple=True)
    vertex, weight = covered(uvz, renderer.faces, face_id, (item, row, column))
    return item, row * renderer.size[1] + column, vertex, weight, mask


def pose_loss(
    evidence: Evidence,
    viewpoint: Float[Tensor, "batch pose 3"],
    renderer: FeatureRenderer,
    placement: Float[Tensor, "batch pose 3"] | None = None,
) -> Float[Tensor, "batch pose"]:
    """``1 - [mean_p max(s_obj, s_clu) - mean_p s_clu]`` over all cells, with s_obj = 0 where no face is."""
    return _pose_loss(evidence, *object_scores(evidence, viewpoint, renderer, placement))


def _pose_loss(evidence: Evidence, score: Tensor, mask: Tensor) -> Float[Tensor, "batch pose"]:
    clutter = evidence.clutter[:, None]
    return 1 - (torch.maximum(score, clutter) - clutter).mean(-1)


def area_loss(
    evidence: Evidence,
    viewpoint: Float[Tensor, "batch pose 3"],
    renderer: FeatureRenderer,
    placement: Float[Tensor, "batch pose 3"] | None = None,
) -> Float[Tensor, "batch pose"]:
    """``1 - S``, with NVSM's S(F_theta', F_m) as a mean over the covered cells instead of all, so that poses of
    different silhouettes compare, and the clutter similarity subtracted: a likelihood ratio against background.
    """
    return _area_loss(evidence, *object_scores(evidence, viewpoint, renderer, placement))


def _area_loss(evidence: Evidence, score: Tensor, mask: Tensor) -> Float[Tensor, "batch pose"]:
    ratio = (score - evidence.clutter[:, None]) * mask
    return 1 - ratio.sum(-1) / mask.sum(-1).clamp_min(1)


OBJECTIVES: dict[str, Callable[..., Float[Tensor, "batch pose"]]] = {
    "likelihood": pose_loss,
    "area": area_loss,
}


def shared_losses(
    evidence: Evidence, viewpoint: Float[Tensor, "pose 3"], renderer: FeatureRenderer, objective: str
) -> Float[Tensor, "batch pose"]:
    """The loss of an objective at poses that are the same for all pictures, which have one camera."""
    loss = {"likelihood": _pose_loss, "area": _area_loss}[objective]
    return loss(evidence, *shared_scores(evidence, viewpoint, renderer))


def occlusion_map(
    evidence: Evidence,
    viewpoint: Float[Tensor, "batch 3"],
    renderer: FeatureRenderer,
    hidden_below: float = -1.0,
    placement: Float[Tensor, "batch 3"] | None = None,
) -> Float[Tensor, "batch h w"]:
    """0 = background, 1 = object seen, 2 = object hidden: a covered cell is seen iff ``s_obj > s_clu`` (NeMo's
    rule) and ``s_obj > hidden_below``; -1 leaves NeMo's rule alone. ``placement`` as in :func:`object_scores`.
    """
    moved = None if placement is None else placement[:, None]
    score, mask = object_scores(evidence, viewpoint[:, None], renderer, moved)
    hidden = score[:, 0] <= evidence.clutter.clamp_min(hidden_below)
    labels = torch.where(mask[:, 0], 1.0 + hidden, 0.0)
    return labels.view(-1, *renderer.size)
