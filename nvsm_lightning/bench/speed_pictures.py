"""Feature maps with known poses for the speed bench: what a good backbone would give, at no cost.

Unit features that vary smoothly over the mesh, changed smoothly from instance to instance, with noise in every cell,
in front of clutter and partly behind an occluder. Times hardly depend on what is in a map; how many steps are enough
does.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.meshes import Mesh, category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.renderer import FeatureRenderer

SIZE, CHANNELS, VERTICES = (32, 84), 128, 1100  # 1100 asked for gives 1,026 vertices and 2,048 faces
PIXELS_PER_UNIT = 75.0  # NeMo's 600 at stride 8
SMOOTH = 0.15  # CAD units over which features change; the car is 0.9 long


@dataclass(frozen=True)
class Pictures:
    """Feature maps of one mesh: what the pose solver gets from a backbone, and the true poses."""

    mesh: Mesh
    renderer: FeatureRenderer
    vertex: Float[Tensor, "vertex dim"]
    clutter: Float[Tensor, " dim"]
    maps: Float[Tensor, "picture dim h w"]
    camera: Camera
    viewpoint: Float[Tensor, "picture 3"]


def smooth_features(points: Float[Tensor, "vertex 3"], channels: int, generator: torch.Generator) -> Tensor:
    """Unit vectors that vary over ``points`` on the scale :data:`SMOOTH`: random Fourier features of a Gaussian."""
    waves = torch.randn(3, 4 * channels, generator=generator) / SMOOTH
    phase = 2 * math.pi * torch.rand(4 * channels, generator=generator)
    mixing = torch.randn(4 * channels, channels, generator=generator)
    return normalize(torch.cos(points @ waves + phase) @ mixing, dim=1)


def make_pictures(
    count: int, seed: int = 0, engine: str = "auto", noise: float = 1.0, hidden: float = 0.25, mesh: Mesh | None = None
) -> Pictures:
    """``count`` maps at random poses (any azimuth, elevation -5 to 35 degrees, theta +-10).

    Args:
        count: how many.
        seed: of everything that is drawn.
        engine: the renderer's.
        noise: length of the noise in a cell, beside unit features.
        hidden: share of the map's width that an occluder takes, at a random place.
        mesh: instead of the car's cuboid.
    """
    generator = torch.Generator().manual_seed(seed)
    mesh = category_cuboid("car", VERTICES) if mesh is None else mesh
    height, width = SIZE
    low = torch.tensor([0.0, math.radians(-5), math.radians(-10)])
    span = torch.tensor([2 * math.pi, math.radians(40), math.radians(20)])
    viewpoint = low + span * torch.rand(count, 3, generator=generator)
    camera = canonical_camera(height, width, PIXELS_PER_UNIT).expanded(count)
    vertex = smooth_features(mesh.vertices, CHANNELS, generator)
    clutter = normalize(torch.randn(CHANNELS, generator=generator), dim=0)
    renderer = FeatureRenderer(mesh, SIZE, engine)
    maps = []
    for item in range(count):
        own = normalize(vertex + smooth_features(mesh.vertices, CHANNELS, generator), dim=1)
        uvz = project(mesh.vertices, rotation_from_viewpoint(viewpoint[item : item + 1]), camera[item : item + 1])
        drawn, mask = renderer.render(own, uvz)
        ground = normalize(torch.randn(1, CHANNELS, 4, 10, generator=generator), dim=1)
        ground = interpolate(ground, SIZE, mode="bilinear") + 0.7 * clutter[None, :, None, None]
        first = int(torch.randint(int(width * (1 - hidden)) + 1, (1,), generator=generator))
        mask[..., first : first + int(width * hidden)] = False
        seen = torch.where(mask[:, None], drawn, normalize(ground, dim=1))
        grain = noise * torch.randn(seen.shape, generator=generator) / math.sqrt(CHANNELS)
        maps.append(normalize(seen + grain, dim=1))
    return Pictures(mesh, renderer, vertex, clutter, torch.cat(maps), camera, viewpoint)
