"""Viewpoints and rotations: golden values computed apart from this code, and independent libraries."""

import math

import kornia.geometry.liegroup as liegroup
import numpy as np
import pytest
import torch
from scipy.linalg import logm
from scipy.spatial.transform import Rotation

from nvsm_lightning.geometry.cameras import Camera, mirror_camera, project
from nvsm_lightning.geometry.viewpoints import (
    geodesic_error,
    mirror_viewpoint,
    rotation_from_viewpoint,
    viewpoint_error,
    viewpoint_from_rotation,
    wrap_angle,
)

EXAMPLE = torch.deg2rad(torch.tensor([30.0, 10.0, 5.0], dtype=torch.float64))


def random_viewpoints(count: int, seed: int = 0) -> torch.Tensor:
    """All azimuths, all elevations short of the poles, all tilts; float64."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.tensor([0, -math.pi / 2 + 0.01, -math.pi + 0.01], dtype=torch.float64)
    high = torch.tensor([2 * math.pi - 0.01, math.pi / 2 - 0.01, math.pi], dtype=torch.float64)
    return low + (high - low) * torch.rand(count, 3, dtype=torch.float64, generator=generator)


def scipy_metric_rotation(viewpoint: torch.Tensor) -> Rotation:
    """``Rz(theta) Rx(e - pi/2) Rz(-a)`` by SciPy, whose capital letters turn about the axes carried along."""
    azimuth, elevation, theta = viewpoint.numpy().T
    return Rotation.from_euler("ZXZ", np.stack((theta, elevation - math.pi / 2, -azimuth), -1))


def test_worked_example():
    expected = [[0.870297, 0.484991, -0.085832], [0.011015, -0.193389, -0.981060], [-0.492404, 0.852869, -0.173648]]
    rotation = rotation_from_viewpoint(EXAMPLE)
    torch.testing.assert_close(rotation, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.rad2deg(viewpoint_from_rotation(rotation)), torch.tensor([30, 10, 5.0]).double())


def test_front_view():
    rotation = rotation_from_viewpoint(torch.zeros(3))
    torch.testing.assert_close(rotation, torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))


def test_rotation_is_the_product_of_its_three_turns():
    viewpoint = random_viewpoints(1000)
    flip = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64))
    product = flip @ torch.from_numpy(scipy_metric_rotation(viewpoint).as_matrix())
    torch.testing.assert_close(rotation_from_viewpoint(viewpoint), product, atol=1e-12, rtol=0)


def test_rotation_is_the_product_of_kornias_exponentials():
    viewpoint = random_viewpoints(100)
    azimuth, elevation, theta = viewpoint.unbind(-1)
    zero = torch.zeros_like(azimuth)

    def turn(*axis_angle: torch.Tensor) -> torch.Tensor:
        return liegroup.So3.exp(torch.stack(axis_angle, -1)).matrix()

    metric = turn(zero, zero, theta) @ turn(elevation - math.pi / 2, zero, zero) @ turn(zero, zero, -azimuth)
    flip = metric.new_tensor([1, -1, -1])[:, None]
    torch.testing.assert_close(rotation_from_viewpoint(viewpoint), flip * metric, atol=1e-12, rtol=0)


def test_viewpoints_survive_the_way_through_rotations():
    viewpoint = random_viewpoints(1000)
    back = viewpoint_from_rotation(rotation_from_viewpoint(viewpoint))
    torch.testing.assert_close(back, viewpoint, atol=1e-9, rtol=0)


@pytest.mark.parametrize("azimuth_deg", [0, 90, 180, 270])
def test_right_angles_survive_too(azimuth_deg):
    """The published decoder, an arctan of a quotient, reads 180 degrees as 0."""
    viewpoint = torch.deg2rad(torch.tensor([azimuth_deg, 0.0, 0.0], dtype=torch.float64))
    back = viewpoint_from_rotation(rotation_from_viewpoint(viewpoint))
    torch.testing.assert_close(wrap_angle(back - viewpoint), torch.zeros(3).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        ((30, 10, 5), (42, 5, 0), 14.473109),
        ((30, 10, 5), (210, 10, 5), 180),
        ((30, 10, 5), (35, 10, 5), 5),
        ((30, 10, 5), (30, 10, 10), 5),
        ((350, 0, 0), (5, 0, 0), 15),
    ],
)
def test_golden_rotation_errors(first, second, error):
    viewpoints = torch.deg2rad(torch.tensor([first, second], dtype=torch.float64))
    assert torch.rad2deg(viewpoint_error(*viewpoints)).item() == pytest.approx(error, abs=2e-6)


def test_error_equals_the_matrix_logarithm_the_arccos_and_scipy():
    first, second = random_viewpoints(100, 1), random_viewpoints(100, 2)
    error = viewpoint_error(first, second)
    relative = rotation_from_viewpoint(first).mT @ rotation_from_viewpoint(second)
    logarithm = torch.from_numpy(np.stack([abs(logm(matrix.numpy())) ** 2 for matrix in relative])).sum(
        (1, 2)
    ).sqrt() / math.sqrt(2)
    arccos = torch.acos(((relative.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1))
    scipy = torch.from_numpy((scipy_metric_rotation(first).inv() * scipy_metric_rotation(second)).magnitude())
    for other in (logarithm, arccos, scipy):
        torch.testing.assert_close(error, other, atol=1e-9, rtol=0)


def test_error_is_not_the_spectral_norm_of_an_early_toolkit():
    """``||log R||_2 / sqrt(2)`` reads 30 degrees as 21.213."""
    turn = rotation_from_viewpoint(torch.deg2rad(torch.tensor([[0.0, 0, 0], [30, 0, 0]], dtype=torch.float64)))
    assert torch.rad2deg(geodesic_error(turn[0], turn[1])).item() == pytest.approx(30)
    spectral = torch.linalg.matrix_norm(torch.from_numpy(logm((turn[0].T @ turn[1]).numpy())), 2) / math.sqrt(2)
    assert torch.rad2deg(spectral).item() == pytest.approx(21.213, abs=1e-3)


def test_error_equals_that_of_the_toolkits_zyx_angles():
    """Errors between MATLAB ``angle2dcm(a, e, theta)`` matrices in ZYX order are the same."""
    first, second = random_viewpoints(2000, 3), random_viewpoints(2000, 4)
    zyx = [Rotation.from_euler("ZYX", viewpoint.numpy()) for viewpoint in (first, second)]
    expected = torch.from_numpy((zyx[0].inv() * zyx[1]).magnitude())
    torch.testing.assert_close(viewpoint_error(first, second), expected, atol=1e-7, rtol=0)


def test_error_is_exact_for_tiny_angles_and_zero_for_none():
    viewpoint = random_viewpoints(50)
    nudged = viewpoint + torch.tensor([0, 0, 1e-7], dtype=torch.float64)
    torch.testing.assert_close(viewpoint_error(viewpoint, nudged), torch.full((50,), 1e-7).double(), rtol=1e-6, atol=0)
    assert (viewpoint_error(viewpoint, viewpoint) == 0).all()


def mirror_residual(viewpoint: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """How far (pixels) a symmetric mesh's picture, mirrored, is from its picture at another viewpoint."""
    half = torch.rand(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    across = half * torch.tensor([-1, 1, 1])
    camera = Camera(
        distance=torch.full((len(viewpoint),), 5.0).double(),
        focal=torch.full((len(viewpoint),), 3000.0).double(),
        principal=torch.tensor([[300.0, 128.0]]).double().expand(len(viewpoint), 2),
        box=torch.full((len(viewpoint), 4), torch.nan).double(),
    )
    picture = project(half, rotation_from_viewpoint(viewpoint), camera)
    other = project(across, rotation_from_viewpoint(mirrored), mirror_camera(camera, 672))
    return torch.maximum((672 - picture[..., 0] - other[..., 0]).abs(), (picture[..., 1] - other[..., 1]).abs()).amax()


def test_mirrored_pictures_show_the_mirrored_viewpoint():
    viewpoint = random_viewpoints(100)
    assert mirror_residual(viewpoint, mirror_viewpoint(viewpoint)) < 1e-9
    assert mirror_residual(viewpoint, mirror_viewpoint(mirror_viewpoint(mirror_viewpoint(viewpoint)))) < 1e-9


def test_other_mirror_rules_in_use_fail():
    """``pi - azimuth``, and minus the azimuth without minus theta."""
    azimuth, elevation, theta = random_viewpoints(100).unbind(-1)
    viewpoint = torch.stack((azimuth, elevation, theta), -1)
    assert mirror_residual(viewpoint, torch.stack((math.pi - azimuth, elevation, -theta), -1)) > 100
    assert mirror_residual(viewpoint, torch.stack((-azimuth, elevation, theta), -1)) > 100


def test_wrapped_angles():
    angle = torch.tensor([0.0, math.pi, -math.pi, 3.5 * math.pi, -7.0])
    expected = torch.tensor([0.0, -math.pi, -math.pi, -0.5 * math.pi, 2 * math.pi - 7])
    torch.testing.assert_close(wrap_angle(angle), expected)


def test_gradient_of_the_rotation():
    viewpoint = random_viewpoints(5).requires_grad_()
    assert torch.autograd.gradcheck(rotation_from_viewpoint, viewpoint)
