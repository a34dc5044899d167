import math

import numpy as np
import pytest
import torch

from nvsm_lightning.geometry.cameras import Camera, canonical_camera, mirror_camera, project
from nvsm_lightning.geometry.meshes import category_cuboid
from nvsm_lightning.geometry.registration import fit_map, fit_rotation
from nvsm_lightning.geometry.viewpoints import (
    geodesic_error,
    mirror_viewpoint,
    rotation_from_viewpoint,
    viewpoint_error,
    viewpoint_from_rotation,
)
from nvsm_lightning.render.renderer import FeatureRenderer

SIZE = (20, 44)


def poses(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(count, 3, generator=generator)
    return torch.stack((2 * math.pi * u[:, 0], u[:, 1] - 0.3, 0.6 * u[:, 2] - 0.3), -1)


def horn(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Horn's closed form by unit quaternions, 1987, section 4: another way than the singular values of roma."""
    w = w / w.sum()
    a, b = x - w @ x, y - w @ y
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.einsum("n,ni,nj->ij", w, a, b)
    n = np.array([
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ])  # fmt: skip
    s, i, j, k = np.linalg.eigh(n)[1][:, -1]
    return np.array([
        [s * s + i * i - j * j - k * k, 2 * (i * j - s * k), 2 * (i * k + s * j)],
        [2 * (i * j + s * k), s * s - i * i + j * j - k * k, 2 * (j * k - s * i)],
        [2 * (i * k - s * j), 2 * (j * k + s * i), s * s - i * i - j * j + k * k],
    ])  # fmt: skip


def test_a_known_similarity_is_found_and_noise_is_fitted_as_horn_does() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 40, 3, generator=generator)
    truth = rotation_from_viewpoint(poses(6))
    y = 2.5 * x @ truth.mT + torch.tensor([0.3, -1.0, 4.0])
    weight = torch.rand(6, 40, generator=generator)
    rotation, left = fit_rotation(x, y, weight)
    assert geodesic_error(rotation, truth).max() < 1e-3 and left.max() < 1e-5
    noisy = y + 0.5 * torch.randn(y.shape, generator=generator)
    rotation, left = fit_rotation(x, noisy, weight)
    for got, *given in zip(rotation, x, noisy, weight, strict=True):
        np.testing.assert_allclose(got, horn(*(one.double().numpy() for one in given)), atol=1e-5)
    assert left.tolist() == pytest.approx([0.5 * math.sqrt(3)] * 6, rel=0.25)


def test_points_without_weight_do_not_count() -> None:
    x = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0))
    truth = rotation_from_viewpoint(poses(2))
    y, weight = x @ truth.mT, torch.ones(2, 30)
    y[:, :10] += 5 * torch.randn(2, 10, 3, generator=torch.Generator().manual_seed(1))
    weight[:, :10] = 0
    assert geodesic_error(fit_rotation(x, y, weight)[0], truth).max() < 1e-3


def rendered(viewpoint: torch.Tensor, camera: Camera) -> tuple[torch.Tensor, ...]:
    mesh = category_cuboid("car", 600)
    renderer = FeatureRenderer(mesh, SIZE)
    uvz = project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera)
    depth = uvz[..., 2:] - camera.distance[:, None, None]
    drawn, mask = renderer.render(torch.cat((mesh.vertices.expand(len(uvz), -1, -1), depth), -1), uvz)
    return drawn[:, :3], drawn[:, 3], mask.float()


def fitted(viewpoint: torch.Tensor, camera: Camera) -> torch.Tensor:
    points, depth, mask = rendered(viewpoint, camera)
    rotation, _ = fit_map(points, depth, mask, camera, category_cuboid("car", 600).vertices)
    return viewpoint_error(viewpoint_from_rotation(rotation), viewpoint).rad2deg()


def test_the_true_map_of_a_known_camera_gives_the_pose() -> None:
    """Near and wide, where the cars of a photograph are not seen along parallel rays."""
    camera = canonical_camera(SIZE[0], SIZE[1], 37.5, 1.3).expanded(12)
    assert fitted(poses(12), camera).max() < 0.2


def boxes(viewpoint: torch.Tensor) -> Camera:
    """A box camera for each pose: the box of the mesh, stretched a little, as drawn boxes are."""
    camera = canonical_camera(SIZE[0], SIZE[1], 37.5, 1.7).expanded(len(viewpoint))
    uv = project(category_cuboid("car", 600).vertices, rotation_from_viewpoint(viewpoint), camera)[..., :2]
    box = torch.cat((uv.amin(1), uv.amax(1)), -1) * torch.tensor([1.0, 0.95, 1.0, 0.95])
    return Camera(camera.distance, torch.ones_like(camera.focal), camera.principal, box)


def test_the_true_map_of_a_box_camera_gives_the_pose() -> None:
    viewpoint = poses(24)
    error = fitted(viewpoint, boxes(viewpoint))
    assert error.median() < 0.1 and error.max() < 1


def test_both_kinds_of_cameras_in_one_batch() -> None:
    viewpoint = poses(8)
    known = canonical_camera(SIZE[0], SIZE[1], 37.5, 1.7).expanded(4)
    mixed = Camera.stack([boxes(viewpoint)[:4], known])
    assert fitted(viewpoint, mixed).max() < 1


def test_the_mirrored_map_gives_the_mirrored_pose() -> None:
    viewpoint = poses(4)
    camera = canonical_camera(SIZE[0], SIZE[1], 37.5, 2.0).expanded(4)
    points, depth, mask = (one.flip(-1) for one in rendered(viewpoint, camera))
    points = points * torch.tensor([-1.0, 1, 1])[:, None, None]
    rotation, _ = fit_map(points, depth, mask, mirror_camera(camera, SIZE[1]), category_cuboid("car", 600).vertices)
    assert viewpoint_error(viewpoint_from_rotation(rotation), mirror_viewpoint(viewpoint)).rad2deg().max() < 0.2
