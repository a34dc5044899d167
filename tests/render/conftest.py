"""Scenes to draw, and the slow, obvious rasteriser they are compared with."""

from collections.abc import Callable

import pytest
import torch
import trimesh
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.meshes import Mesh, category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint


def _torus() -> Mesh:
    """A closed mesh that hides parts of itself."""
    torus = trimesh.creation.torus(major_radius=0.35, minor_radius=0.12, major_sections=40, minor_sections=20)
    return Mesh(torch.tensor(torus.vertices).float(), torch.tensor(torus.faces).long())


@pytest.fixture(scope="session")
def meshes() -> dict[str, Mesh]:
    """A convex mesh and one that is not."""
    return {"cuboid": category_cuboid("car", 1000), "torus": _torus()}


def _viewpoints(count: int, seed: int = 0) -> Tensor:
    """Random viewpoints from all around, below to above, tilted by up to 17 degrees."""
    generator = torch.Generator().manual_seed(seed)
    low, span = torch.tensor([0, -0.3, -0.3]), torch.tensor([6.283, 1.2, 0.6])
    return low + span * torch.rand(count, 3, generator=generator)


@pytest.fixture(scope="session")
def view() -> Callable:
    """``view(mesh, size, poses, distance=5) -> (uvz, viewpoint, camera)``: random views that fill the map."""

    def make(mesh: Mesh, size: tuple[int, int], poses: int, distance: float = 5.0) -> tuple[Tensor, Tensor, Camera]:
        viewpoint = _viewpoints(poses)
        camera = canonical_camera(*size, pixels_per_unit=0.9 * size[1], distance=distance).expanded(poses)
        return project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera), viewpoint, camera

    return make


@pytest.fixture(scope="session")
def brute_force() -> Callable:
    """``brute_force(uvz, faces, size) -> face ids``: every face at every cell, solving for the weights in float64."""

    def draw(uvz: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = size
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centre = torch.stack((u.ravel(), v.ravel(), torch.ones(height * width)), -1).double()
        return torch.stack([_draw(item.double(), faces, centre).view(size) for item in uvz])

    def _draw(uvz: Tensor, faces: Tensor, centre: Tensor) -> Tensor:
        corners = uvz[faces]
        homogeneous = torch.cat((corners[..., :2], torch.ones(len(faces), 3, 1)), -1).double().mT  # columns (u, v, 1)
        usable = (corners[..., 2] > 0).all(-1) & (torch.linalg.det(homogeneous).abs() > 1e-12)
        homogeneous[~usable] = torch.eye(3).double()
        weight = torch.linalg.inv(homogeneous) @ centre.T  # [face, 3, cell], affine barycentrics in the picture
        depth = 1 / (weight / corners[..., 2, None]).sum(1)
        depth[~usable] = torch.inf
        depth[(weight < 0).any(1)] = torch.inf
        nearest, face = depth.min(0)
        return torch.where(nearest.isfinite(), face, -1).int()

    return draw
