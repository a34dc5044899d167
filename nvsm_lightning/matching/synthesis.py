"""Neural view synthesis: the feature map of a labelled picture at another pose (NVSM, NeurIPS 2021)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.features.reading import read_vertices
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.renderer import FeatureRenderer


def vertex_features(
    feature_map: Float[Tensor, "batch dim h w"],
    viewpoint: Float[Tensor, "batch 3"],
    camera: Camera,
    renderer: FeatureRenderer,
    nearest: bool = False,
) -> tuple[Float[Tensor, "batch vertex dim"], Bool[Tensor, "batch vertex"]]:
    """``sigma_r = V_r F(P_theta x_r)``: features of every vertex at a known pose, zero where it is hidden, and the
    visibility V_r.

    ``camera`` in map pixels.
    """
    with torch.no_grad():
        uvz = project(renderer.vertices, rotation_from_viewpoint(viewpoint), camera)
        visible = renderer.visible(uvz)
    read = read_vertices(feature_map, uvz[..., :2], nearest)
    return read * visible[..., None].to(read), visible


def synthesise(
    vertex: Float[Tensor, "batch vertex dim"] | Float[Tensor, "vertex dim"],
    viewpoint: Float[Tensor, "batch 3"],
    camera: Camera,
    renderer: FeatureRenderer,
) -> Float[Tensor, "batch dim h w"]:
    """``F_theta' = Raster(Gamma, sigma, theta')``: vertex features rendered at a new pose; zero outside the mesh."""
    rendered, _ = renderer.render(vertex, project(renderer.vertices, rotation_from_viewpoint(viewpoint), camera))
    return rendered


def map_similarity(
    synthesised: Float[Tensor, "batch dim h w"], observed: Float[Tensor, "batch dim h w"]
) -> Float[Tensor, " batch"]:
    """NVSM's similarity ``S(F_theta', F_m) = 1/(HW) sum_hw [1 - d(F_theta', F_m)]``: here a mean inner product.

    NVSM's poster does not define d; our choice is ``d = 1 - cosine``. The E-step scores the same inner products,
    from the similarity table, as a mean over the cells that the object covers with the clutter's taken off, or as
    NeMo's likelihood (:mod:`nvsm_lightning.pose.likelihood`).
    """
    return (synthesised * observed).sum(1).mean((1, 2))
