"""Pictures of a textured cuboid, and what a labelled picture of it knows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.meshes import Mesh, category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.renderer import FeatureRenderer

SIZE = (16, 40)


@dataclass(frozen=True)
class Pictures:
    """Feature maps of a textured cuboid at known viewpoints; cameras in map pixels."""

    mesh: Mesh
    renderer: FeatureRenderer
    texture: Tensor
    clutter: Tensor
    viewpoint: Tensor
    camera: Camera
    feature_map: Tensor


def radians(*degrees: tuple[float, float, float]) -> Tensor:
    return torch.tensor(degrees) * (math.pi / 180)


@pytest.fixture(scope="session")
def make_pictures() -> Callable[[Tensor], Pictures]:
    """``make_pictures(viewpoint)``: unit features that vary smoothly over the cuboid, ground of another feature."""

    def make(viewpoint: Tensor) -> Pictures:
        mesh = category_cuboid("car", 400)
        renderer = FeatureRenderer(mesh, SIZE)
        generator = torch.Generator().manual_seed(0)
        waves = mesh.vertices @ torch.randn(3, 30, generator=generator) * 8 + 6.28 * torch.rand(30, generator=generator)
        texture = normalize(torch.cat((waves.sin(), torch.zeros(len(waves), 1)), 1), dim=1)
        clutter = torch.eye(31)[-1]
        camera = canonical_camera(*SIZE, pixels_per_unit=36.0).expanded(len(viewpoint))
        drawn, mask = renderer.render(texture, project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera))
        ground = clutter[None, :, None, None].expand_as(drawn)
        feature_map = normalize(torch.where(mask[:, None], drawn, ground), dim=1)
        return Pictures(mesh, renderer, texture, clutter, viewpoint, camera, feature_map)

    return make


@pytest.fixture(scope="session")
def pictures(make_pictures) -> Pictures:
    """Eight views around."""
    return make_pictures(radians(*((45.0 * k + 10, 10.0, 0.0) for k in range(8))))
