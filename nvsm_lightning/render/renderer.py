"""The renderer of vertex features: one signature, whatever engine draws."""

from copy import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.render.culling import hides_its_back
from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.fragments import Fragments, fragments
from nvsm_lightning.render.visibility import visible_vertices

__all__ = ["FeatureRenderer", "rasterize"]


class FeatureRenderer(nn.Module):
    """Draws one mesh onto maps of one size.

    A module only so that the mesh moves with the model; it has no parameters and nothing in the state dict.

    Args:
        mesh: the mesh; its vertices are kept for the caller's projection, drawing takes them projected.
        size: (height, width) of the map in cells.
        engine: ``auto``, ``torch``, ``numba``, ``triton`` or ``nvdiffrast``; see :func:`.engines.rasterize`.
    """

    vertices: Tensor
    faces: Tensor

    def __init__(self, mesh: Mesh, size: tuple[int, int], engine: str = "auto") -> None:
        super().__init__()
        self.register_buffer("vertices", mesh.vertices, persistent=False)
        self.register_buffer("faces", mesh.faces.long(), persistent=False)
        self.size = size
        self.engine = engine
        self.hides_its_back = hides_its_back(mesh.vertices, mesh.faces)

    def resized(self, size: tuple[int, int]) -> "FeatureRenderer":
        """The same mesh drawn on maps of another size."""
        if size == self.size:
            return self
        other = copy(self)
        other.size = size
        return other

    def fragments(self, uvz: Float[Tensor, "batch vertex 3"]) -> Fragments:
        """Seen vertices, weights and mask; see :func:`.fragments.fragments`."""
        faces = self.faces.to(uvz.device)
        return fragments(uvz, faces, rasterize(uvz, faces, self.size, self.engine, self.hides_its_back))

    def render(
        self,
        features: Float[Tensor, "vertex channel"] | Float[Tensor, "batch vertex channel"],
        uvz: Float[Tensor, "batch vertex 3"],
    ) -> tuple[Float[Tensor, "batch channel height width"], Bool[Tensor, "batch height width"]]:
        """The map of interpolated vertex features (0 where nothing is seen) and the mask of what is.

        Features are interpolated, not normalised again. Gradients reach features and ``uvz``.
        For large batches render in parts: a map of 128 channels costs more in memory traffic than in arithmetic.
        """
        seen = self.fragments(uvz)
        vertex = seen.vertex
        if features.dim() == 3:
            item = torch.arange(len(vertex), device=vertex.device).view(-1, 1, 1, 1)
            vertex, features = vertex + item * features.shape[1], features.flatten(0, 1)
        values = embedding_bag(
            vertex.flatten(0, 2), features, per_sample_weights=seen.weight.flatten(0, 2).to(features.dtype), mode="sum"
        )
        return values.view(*seen.mask.shape, features.shape[-1]).permute(0, 3, 1, 2), seen.mask

    def visible(self, uvz: Float[Tensor, "batch vertex 3"]) -> Bool[Tensor, "batch vertex"]:
        """Which vertices are inside the frame and not hidden by the mesh; see :func:`.visibility.visible_vertices`."""
        return visible_vertices(uvz, self.faces.to(uvz.device), self.size, self.engine)
