"""Pictures of a cuboid whose features are known: what the solver sees after a perfect backbone."""

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
from nvsm_lightning.pose.likelihood import Evidence, gather_evidence
from nvsm_lightning.render.renderer import FeatureRenderer

SIZE = (16, 40)


@dataclass(frozen=True)
class Scene:
    """A mesh with vertex features, some pictures of it and their cameras in map pixels."""

    mesh: Mesh
    renderer: FeatureRenderer
    features: Tensor
    clutter: Tensor
    viewpoint: Tensor
    camera: Camera
    feature_map: Tensor

    @property
    def evidence(self) -> Evidence:
        return gather_evidence(self.feature_map, self.features, self.clutter, self.camera)


def face_colours(mesh: Mesh) -> Tensor:
    """One-hot colour of the face a vertex lies on (the mean of the faces at an edge), and the place along the face."""
    points = mesh.vertices / mesh.vertices.abs().amax(0)
    on_face = torch.cat((points > 0.999, points < -0.999), 1).float()
    waves = torch.cat((torch.sin(2 * points), torch.cos(2 * points)), 1)
    colours = normalize(torch.cat((normalize(on_face, dim=1), 0.5 * normalize(waves, dim=1)), 1), dim=1)
    return torch.cat((colours, torch.zeros(len(points), 1)), 1)  # the last channel is the background's


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    """``make_scene(viewpoint_deg, vertices=300, boxed=False)``: pictures of a car's cuboid in front of plain ground."""

    def make(viewpoint_deg: list[tuple[float, float, float]], vertices: int = 300, boxed: bool = False) -> Scene:
        mesh = category_cuboid("car", vertices)
        renderer = FeatureRenderer(mesh, SIZE)
        viewpoint = torch.tensor(viewpoint_deg) * (math.pi / 180)
        camera = canonical_camera(*SIZE, pixels_per_unit=36.0).expanded(len(viewpoint))
        if boxed:
            uv = project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera)[..., :2]
            camera = Camera(camera.distance, camera.focal, camera.principal, torch.cat((uv.amin(1), uv.amax(1)), 1))
        features = face_colours(mesh)
        clutter = torch.eye(features.shape[1])[-1]
        drawn, mask = renderer.render(features, project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera))
        ground = clutter[None, :, None, None].expand_as(drawn)
        return Scene(
            mesh,
            renderer,
            features,
            clutter,
            viewpoint,
            camera,
            normalize(torch.where(mask[:, None], drawn, ground), dim=1),
        )

    return make


@pytest.fixture(scope="session")
def scene(make_scene) -> Scene:
    """Five views of a cuboid."""
    return make_scene([(20, 10, 5), (100, 25, -8), (187, 5, 0), (250, 15, 10), (325, 0, -3)])
