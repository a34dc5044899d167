"""DownSample meshes: the outside of a CAD model with about as many vertices as wanted."""

import torch
from jaxtyping import Bool
from torch import Tensor

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cameras import canonical_camera, project
from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.geometry.remesh import FINER, clustered, divided, with_faces
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.engines import rasterize

VIEW = 256  # pixels of a view; the object's box diagonal takes three quarters of it
AZIMUTHS, ELEVATIONS_DEG = 12, (-75.0, -40.0, -10.0, 20.0, 50.0, 80.0)
STEPS = 12  # of the bisection


def face_ids(mesh: Mesh) -> Tensor:
    """The face seen in each pixel of views from all around, -1 where none is: [view, VIEW, VIEW]."""
    azimuth = torch.arange(AZIMUTHS) * (2 * torch.pi / AZIMUTHS)
    elevation = torch.deg2rad(torch.tensor(ELEVATIONS_DEG))
    viewpoint = torch.cartesian_prod(azimuth, elevation, torch.zeros(1))
    size = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm().item()
    camera = canonical_camera(VIEW, VIEW, 0.75 * VIEW / size, 5.0 * size)
    points = mesh.vertices - (mesh.vertices.amax(0) + mesh.vertices.amin(0)) / 2
    uvz = project(points, rotation_from_viewpoint(viewpoint), camera.expanded(len(viewpoint)))
    return rasterize(uvz, mesh.faces, (VIEW, VIEW))


def outer_faces(mesh: Mesh) -> Bool[Tensor, " face"]:
    """Which faces are seen from outside, from any of 72 directions."""
    seen = torch.zeros(len(mesh.faces), dtype=torch.bool)
    ids = face_ids(mesh).unique()
    seen[ids[ids >= 0].long()] = True
    return seen


def silhouette_iou(mesh: Mesh, model: Mesh) -> float:
    """Mean IoU of the silhouettes of two meshes over views from all around; both in the same frame and units."""
    low, high = (getattr(torch.cat((mesh.vertices, model.vertices)), name)(0) for name in ("amin", "amax"))
    masks = []
    for each in (mesh, model):
        # Two single points more, so that both are seen at the same scale.
        framed = Mesh(torch.cat((each.vertices, low[None], high[None])), each.faces)
        masks.append(face_ids(framed) >= 0)
    both, either = (masks[0] & masks[1]).sum((1, 2)), (masks[0] | masks[1]).sum((1, 2))
    return (both / either).mean().item()


def decimate(model: Mesh, vertices: int = 1000) -> Mesh:
    """The outside of a model with at most ``vertices`` vertices, spread evenly over its surface, and nearly that many.

    Triangles are divided until they are small, vertices clustered in cubes, and faces that cannot be seen from outside
    left out (seats and engines would get features that no picture shows); the size of the cubes is found by bisection.

    Raises:
        DataError: fewer than 8 vertices are asked for.
    """
    if vertices < 8:
        raise DataError(f"A decimated model needs at least 8 vertices; {vertices} were asked for.")
    size = (model.vertices.amax(0) - model.vertices.amin(0)).norm().item()
    low, high = size / (2 * vertices**0.5), size  # a closed surface takes more than area / cell**2 vertices
    fine, best = divided(model, low / FINER), None
    for _ in range(STEPS):
        cell = (low * high) ** 0.5
        mesh = clustered(fine, cell)
        mesh = with_faces(mesh, outer_faces(mesh)) if len(mesh.faces) else mesh
        if len(mesh.vertices) > vertices:
            low = cell
            continue
        high = cell
        if len(mesh.faces) and (best is None or len(mesh.vertices) >= len(best.vertices)):
            best = mesh
    if best is None:
        raise DataError(f"The model has no surface that {vertices} vertices could show. Export it again.")
    return best
