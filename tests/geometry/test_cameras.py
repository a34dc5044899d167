"""Projection: the worked example, kornia's pinhole, the canonical scale, the real PASCAL3D+ sample, the box camera."""

import math

import pytest
import torch
from kornia.geometry.camera import PinholeCamera

from nvsm_lightning.geometry.cameras import Camera, canonical_camera, mirror_camera, project
from nvsm_lightning.geometry.meshes import category_cuboid, cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint

NO_BOX = (math.nan,) * 4


def camera(distance=5.0, focal=3000.0, principal=(336.0, 128.0), box=NO_BOX) -> Camera:
    """One camera, float64."""
    return Camera(*(torch.tensor([value], dtype=torch.float64) for value in (distance, focal, principal, box)))


def viewpoint_deg(*degrees: float) -> torch.Tensor:
    return torch.deg2rad(torch.tensor([degrees], dtype=torch.float64))


def test_worked_example():
    points = torch.tensor([(0.3, -0.1, 0.2), (0, 0, 0), (0.1, -0.45, 0.12)], dtype=torch.float64)
    rotation = rotation_from_viewpoint(viewpoint_deg(30, 10, 5))
    expected = [(459.888158, 17.966750, 4.732262), (336, 128, 5), (242.613450, 108.466535, 4.546131)]
    expected = torch.tensor([expected], dtype=torch.float64)
    torch.testing.assert_close(project(points, rotation, camera()), expected, atol=1e-6, rtol=0)
    in_map = project(points, rotation, camera().scaled(1 / 8))
    torch.testing.assert_close(in_map[..., :2], expected[..., :2] / 8, atol=1e-6, rtol=0)
    in_camera = points @ rotation[0].T + torch.tensor([0, 0, 5])
    expected = [(0.195424, -0.173569, 4.732262), (0, 0, 5), (-0.141516, -0.029601, 4.546131)]
    torch.testing.assert_close(in_camera, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_projection_agrees_with_kornia():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(50, 3, dtype=torch.float64, generator=generator) - 0.5
    viewpoint = torch.rand(4, 3, dtype=torch.float64, generator=generator)
    rotation, distance = rotation_from_viewpoint(viewpoint), torch.tensor([2.0, 3, 4, 5]).double()
    focal, principal = torch.tensor([300.0, 400, 500, 600]).double(), torch.rand(4, 2, generator=generator).double() * 9
    intrinsics, extrinsics = torch.eye(4).double().repeat(4, 1, 1), torch.eye(4).double().repeat(4, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = principal
    extrinsics[:, :3, :3], extrinsics[:, 2, 3] = rotation, distance
    pinhole = PinholeCamera(intrinsics, extrinsics, torch.tensor([9.0] * 4), torch.tensor([9.0] * 4))
    expected = torch.stack([pinhole.project(point.expand(4, 1, 3))[:, 0] for point in points], 1)
    uvz = project(points, rotation, Camera(distance, focal, principal, torch.full((4, 4), math.nan).double()))
    torch.testing.assert_close(uvz[..., :2], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("distance", [3.0, 5.0, 8.0, 12.0])
def test_canonical_scale_is_600_pixels_a_unit(distance):
    """Half a unit through the centre, from any distance, is 300 pixels in the picture resized by distance / 5."""
    segment = torch.tensor([(-0.25, 0, 0), (0.25, 0, 0)], dtype=torch.float64)
    picture = project(segment, rotation_from_viewpoint(viewpoint_deg(0, 0, 0)), camera(distance).scaled(distance / 5))
    assert (picture[0, 1, 0] - picture[0, 0, 0]).item() == pytest.approx(300)


def test_canonical_camera_is_that_of_nemo():
    made = canonical_camera(256, 672)
    assert made.distance.item() == 5 and made.focal.item() == 3000 and made.principal.tolist() == [[336, 128]]
    assert made.box.isnan().all() and len(made) == 1


def test_real_pascal3d_sample():
    """Numbers of PASCAL3D+'s n02958343_2202: its own car model projects to ``projected``, annotated is ``box``.

    Our one cuboid for all cars must fall nearly there, and nowhere near with azimuth or distance misread.
    """
    projected, box = (42.95, 90.85, 473.28, 255.62), (45.42, 86.74, 490.06, 245.54)
    assert overlap(projected, box) == pytest.approx(0.879, abs=1e-3)
    assert 5.895105 / 5 == pytest.approx(1.17902, abs=1e-5)
    view = torch.tensor([[4.65206, -0.081673, -0.00031]], dtype=torch.float64)
    vertices = category_cuboid("car").vertices.double()

    def drawn(viewpoint: torch.Tensor, distance: float) -> tuple[float, ...]:
        uv = project(vertices, rotation_from_viewpoint(viewpoint), camera(distance, 3000.0, (256.699, 165.546)))[
            0, :, :2
        ]
        return (*uv.amin(0).tolist(), *uv.amax(0).tolist())

    assert overlap(drawn(view, 5.895105), projected) > 0.8
    assert overlap(drawn(view, 5.895105), box) > 0.85
    assert overlap(drawn(view + torch.tensor([math.pi / 2, 0, 0]), 5.895105), box) < 0.6
    assert overlap(drawn(view, 5.0), box) < 0.7


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def test_box_camera_stretches_the_mesh_onto_the_box():
    mesh = cuboid((-0.2, -0.45, -0.15), (0.2, 0.45, 0.15), 200)
    viewpoint = torch.deg2rad(torch.tensor([[20.0, 5, 0], [110, -10, 20], [250, 30, -40]], dtype=torch.float64))
    boxes = torch.tensor([(10.0, 20, 110, 60), (-5, 3, 40, 90), (0, 0, 1, 1)], dtype=torch.float64)
    batch = camera().expanded(3)
    boxed = Camera(batch.distance, batch.focal, batch.principal, boxes)
    uvz = project(mesh.vertices.double(), rotation_from_viewpoint(viewpoint), boxed)
    torch.testing.assert_close(torch.cat((uvz[..., :2].amin(1), uvz[..., :2].amax(1)), -1), boxes)
    depth = project(mesh.vertices.double(), rotation_from_viewpoint(viewpoint), batch)[..., 2]
    torch.testing.assert_close(uvz[..., 2], depth)


def test_box_camera_does_not_care_about_focal_length_or_principal_point():
    mesh = cuboid((-0.2, -0.45, -0.15), (0.2, 0.45, 0.15), 200)
    rotation, box = rotation_from_viewpoint(viewpoint_deg(40, 10, 5)), (10.0, 20.0, 110.0, 60.0)
    first = project(mesh.vertices.double(), rotation, camera(box=box))
    second = project(mesh.vertices.double(), rotation, camera(focal=7.0, principal=(1.0, 2.0), box=box))
    torch.testing.assert_close(first, second)


def test_one_batch_may_mix_box_cameras_and_known_ones():
    mesh = cuboid((-0.2, -0.45, -0.15), (0.2, 0.45, 0.15), 200)
    known, boxed = camera(), camera(box=(10.0, 20.0, 110.0, 60.0))
    rotation = rotation_from_viewpoint(viewpoint_deg(40, 10, 5))
    both = project(mesh.vertices.double(), rotation.expand(2, 3, 3), Camera.stack([known, boxed]))
    for item, alone in enumerate((known, boxed)):
        torch.testing.assert_close(both[item : item + 1], project(mesh.vertices.double(), rotation, alone))


def test_box_camera_has_the_finite_and_right_gradient():
    vertices = cuboid((-0.2, -0.45, -0.15), (0.2, 0.45, 0.15), 60).vertices.double()
    mixed = Camera.stack([camera(box=(10.0, 20.0, 110.0, 60.0)), camera()])
    viewpoint = torch.tensor([[0.6, 0.2, 0.1], [2.0, -0.1, 0.3]], dtype=torch.float64, requires_grad=True)

    def picture(at: torch.Tensor) -> torch.Tensor:
        return project(vertices, rotation_from_viewpoint(at), mixed)

    assert torch.autograd.gradcheck(picture, viewpoint)
    head_on = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)  # many vertices share the box's sides
    picture(head_on).square().sum().backward()
    assert head_on.grad.isfinite().all()


def test_mirrored_camera_mirrors_principal_point_and_box():
    mirrored = mirror_camera(camera(principal=(100.0, 50.0), box=(10.0, 20.0, 110.0, 60.0)), 300)
    assert mirrored.principal.tolist() == [[200, 50]] and mirrored.box.tolist() == [[190, 20, 290, 60]]
    twice = mirror_camera(mirrored, 300)
    assert twice.principal.tolist() == [[100, 50]] and twice.box.tolist() == [[10, 20, 110, 60]]


def test_batches_of_cameras():
    two = Camera.stack([camera(2.0), camera(3.0, box=(1.0, 2.0, 3.0, 4.0))])
    assert len(two) == 2 and two[1:].distance.item() == 3 and two[1:].box.tolist() == [[1, 2, 3, 4]]
    assert two.expanded(3).distance.tolist() == [2, 2, 2, 3, 3, 3]
    assert two.to(torch.float32).focal.dtype == torch.float32
    half = two.scaled(0.5)
    assert half.focal.tolist() == [1500, 1500] and half.box[1].tolist() == [0.5, 1, 1.5, 2]
    assert half.distance.tolist() == [2, 3]


def test_points_at_the_camera_stay_finite():
    uvz = project(torch.tensor([(0.0, -5.0, 0.0), (0.1, -6.0, 0.0)]).double(), torch.eye(3)[None].double(), camera(0.0))
    assert uvz.isfinite().all()
