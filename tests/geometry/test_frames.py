"""Conversions between frames: the worked example in all of them, round trips, and the KITTI sample."""

import math

import pytest
import torch

from nvsm_lightning.geometry.frames import (
    PYTORCH3D_FROM_PASCAL,
    azimuth_from_kitti_alpha,
    camera_centre,
    camera_to_world_from_viewpoint,
    kitti_alpha_from_azimuth,
    kitti_view,
    pascal_from_viewpoint,
    pytorch3d_from_viewpoint,
    viewpoint_from_camera_to_world,
    viewpoint_from_pascal,
    viewpoint_from_pytorch3d,
)
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint, wrap_angle

EXAMPLE = torch.deg2rad(torch.tensor([30.0, 10.0, 5.0], dtype=torch.float64))
POINTS = torch.tensor([(0.3, -0.1, 0.2), (0, 0, 0), (0.1, -0.45, 0.12)], dtype=torch.float64)
PIXELS = torch.tensor([(459.888158, 17.966750), (336, 128), (242.613450, 108.466535)], dtype=torch.float64)


def close(actual: torch.Tensor, expected: list | torch.Tensor, tolerance: float = 1e-6) -> None:
    """Equal within the digits that the example gives."""
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=tolerance, rtol=0)


def random_viewpoints(count: int = 1000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    low = torch.tensor([0.01, -1.56, -3.1], dtype=torch.float64)
    return low + torch.tensor([6.2, 3.12, 6.2]) * torch.rand(count, 3, dtype=torch.float64, generator=generator)


def test_camera_centre_of_the_worked_example():
    close(camera_centre(EXAMPLE, 5.0), [2.462019, -4.264343, 0.868241])


@pytest.mark.parametrize(
    ("azimuth_deg", "elevation_deg", "centre"), [(0, 0, (0, -2, 0)), (90, 0, (2, 0, 0)), (0, 90, (0, 0, 2))]
)
def test_camera_in_front_on_the_left_and_above(azimuth_deg, elevation_deg, centre):
    viewpoint = torch.deg2rad(torch.tensor([azimuth_deg, elevation_deg, 0.0], dtype=torch.float64))
    close(camera_centre(viewpoint, 2.0), centre, 1e-12)


def test_pascal_metric_rotation_of_the_worked_example():
    expected = [[0.870297, 0.484991, -0.085832], [-0.011015, 0.193389, 0.981060], [0.492404, -0.852869, 0.173648]]
    close(pascal_from_viewpoint(EXAMPLE), expected)
    untilted = [[0.866025, 0.5, 0], [-0.086824, 0.150384, 0.984808], [0.492404, -0.852869, 0.173648]]
    close(pascal_from_viewpoint(EXAMPLE * torch.tensor([1, 1, 0])), untilted)


def test_pascal_projection_of_the_worked_example():
    """The toolkit's own way: turn without theta, divide, turn the picture by theta, flip it, shift it."""
    upright = pascal_from_viewpoint(EXAMPLE * torch.tensor([1, 1, 0]))
    x, y, z = ((POINTS - camera_centre(EXAMPLE, 5.0)) @ upright.T).unbind(-1)
    x, y, theta = -3000 * x / z, -3000 * y / z, EXAMPLE[2]
    u, v = x * theta.cos() - y * theta.sin() + 336, 128 - (x * theta.sin() + y * theta.cos())
    close(torch.stack((u, v), -1), PIXELS)


def test_pytorch3d_camera_of_the_worked_example():
    rotation, translation = pytorch3d_from_viewpoint(EXAMPLE, 5.0)
    expected = [[-0.870297, -0.011015, -0.492404], [0.085832, 0.981060, -0.173648], [0.484991, -0.193389, -0.852869]]
    close(rotation, expected)
    close(translation, [0, 0, 5])
    turn = torch.tensor(PYTORCH3D_FROM_PASCAL).double()
    centre = -rotation @ translation  # X_cam = X R + T is 0 there
    close(centre, [2.462019, 0.868241, 4.264343])
    close(turn @ camera_centre(EXAMPLE, 5.0), centre)
    in_camera = POINTS @ turn.T @ rotation + translation
    close(torch.tensor([336, 128]) - 3000 * in_camera[:, :2] / in_camera[:, 2:], PIXELS)


def test_opengl_camera_sees_the_worked_example():
    pose = camera_to_world_from_viewpoint(EXAMPLE, 5.0)
    homogeneous = torch.cat((POINTS, torch.ones(3, 1).double()), -1)
    x, y, z, _ = (homogeneous @ torch.linalg.inv(pose).T).unbind(-1)  # z backwards
    close(torch.stack((336 + 3000 * x / -z, 128 - 3000 * y / -z), -1), PIXELS)
    assert torch.linalg.det(pose[:3, :3]).item() == pytest.approx(1)


def test_round_trips():
    viewpoint = random_viewpoints()
    distance = torch.linspace(1, 9, len(viewpoint), dtype=torch.float64)
    close(viewpoint_from_pascal(pascal_from_viewpoint(viewpoint)), viewpoint, 1e-9)
    close(viewpoint_from_pytorch3d(pytorch3d_from_viewpoint(viewpoint, distance)[0]), viewpoint, 1e-9)
    back, depth = viewpoint_from_camera_to_world(camera_to_world_from_viewpoint(viewpoint, distance))
    close(back, viewpoint, 1e-9)
    close(depth, distance, 1e-9)


def test_all_frames_are_right_handed():
    viewpoint = random_viewpoints(50)
    for rotation in (
        rotation_from_viewpoint(viewpoint),
        pascal_from_viewpoint(viewpoint),
        pytorch3d_from_viewpoint(viewpoint, 1.0)[0],
        camera_to_world_from_viewpoint(viewpoint, 1.0)[:, :3, :3],
    ):
        close(torch.linalg.det(rotation), torch.ones(50), 1e-9)
        close(rotation @ rotation.mT, torch.eye(3).expand(50, 3, 3), 1e-9)


# The first car of training frame 000002: its label and its P2.
LOCATION, ROTATION_Y, HEIGHT = torch.tensor([3.18, 2.27, 34.38]).double(), torch.tensor(-1.58).double(), 1.41
P2 = torch.tensor(
    [[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]], dtype=torch.float64
)


def test_kitti_sample():
    view = kitti_view(LOCATION, ROTATION_Y, torch.tensor(HEIGHT).double(), P2)
    azimuth_deg, elevation_deg, theta_deg = torch.rad2deg(view.viewpoint).tolist()
    assert azimuth_deg == pytest.approx(174.188, abs=1e-3)
    assert elevation_deg == pytest.approx(2.5952, abs=1e-4)  # of the centre; 2.5923 with the underside's distance
    assert theta_deg == 0
    close(view.principal, [677.549, 205.6887], 1e-3)


def test_kitti_sample_as_the_published_script_stores_it():
    view = kitti_view(LOCATION, ROTATION_Y, torch.tensor(HEIGHT).double(), P2, legacy=True)
    assert torch.rad2deg(view.viewpoint[1]).item() == pytest.approx(-2.5923, abs=1e-4)
    assert (view.distance / 6.4).item() == pytest.approx(5.40645, abs=1e-5)  # its resize factor, 200 d / 1280
    assert torch.rad2deg(view.viewpoint[0]).item() == pytest.approx(174.188, abs=1e-3)


def test_kitti_alpha_of_the_label_gives_the_azimuth_within_its_two_digits():
    azimuth = torch.rad2deg(azimuth_from_kitti_alpha(torch.tensor(-1.67)))
    assert azimuth.item() == pytest.approx(174.188, abs=0.6)


def test_kitti_azimuth_is_where_the_camera_stands_around_the_car():
    """From the car's own axes in the camera frame: front (cos ry, 0, -sin ry), up (0, -1, 0), left = up x front."""
    generator = torch.Generator().manual_seed(0)
    location = torch.rand(200, 3, dtype=torch.float64, generator=generator) * torch.tensor([40, 4, 50]) - 15
    rotation_y = (torch.rand(200, dtype=torch.float64, generator=generator) - 0.5) * 2 * math.pi
    height = torch.full((200,), 1.5).double()
    view = kitti_view(location, rotation_y, height, P2)
    to_camera = -(location - torch.tensor([0, 0.75, 0]))
    front = torch.stack((rotation_y.cos(), torch.zeros(200).double(), -rotation_y.sin()), -1)
    up = torch.tensor([0.0, -1, 0]).double().expand(200, 3)
    left = torch.linalg.cross(up, front)
    axes = torch.stack((left, -front, up), 1)  # x left, y back, z up
    expected = torch.einsum("bij,bj->bi", axes, to_camera)
    close(camera_centre(view.viewpoint, view.distance), expected, 1e-9)


def test_kitti_alpha_round_trip_and_its_ends():
    alpha = torch.linspace(-math.pi, math.pi - 1e-6, 101, dtype=torch.float64)
    azimuth = azimuth_from_kitti_alpha(alpha)
    assert ((azimuth >= 0) & (azimuth < 2 * math.pi)).all()
    close(wrap_angle(kitti_alpha_from_azimuth(azimuth) - alpha), torch.zeros(101), 1e-9)
    close(wrap_angle(azimuth - alpha - 1.5 * math.pi), torch.zeros(101), 1e-9)
    assert azimuth_from_kitti_alpha(torch.tensor(math.pi / 2)).item() == 0  # it faces the camera
