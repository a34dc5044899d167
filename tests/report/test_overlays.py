import math

import pytest
import torch
from PIL import Image

from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.meshes import cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.report.overlays import PREDICTED, TRUTH, captioned, overlay, project_cuboid, to_image

MESH = cuboid((-0.2, -0.5, -0.1), (0.2, 0.4, 0.15), 100)


def viewpoint(*degrees):
    return torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))


def test_corners_are_the_projected_corners_of_the_mesh():
    camera, pose = canonical_camera(200, 300, 200.0), viewpoint(40, 20, 10)
    corners, _, _ = project_cuboid(MESH, pose, camera)
    points = torch.tensor([[-0.2, -0.5, -0.1], [0.2, 0.4, 0.15]])
    expected = project(points, rotation_from_viewpoint(pose)[None], camera)[0, :, :2]
    assert torch.allclose(corners[[0, 7]], expected, atol=1e-3)


def test_a_box_camera_fills_its_box_with_the_cuboid_though_the_arrow_leaves_it():
    box = torch.tensor([[30.0, 40.0, 130.0, 90.0]])
    camera = Camera(torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([[100.0, 60.0]]), box)
    corners, arrow, _ = project_cuboid(MESH, viewpoint(90, 5, 0), camera)
    assert corners.amin(0).tolist() == pytest.approx([30, 40], abs=1e-3)
    assert corners.amax(0).tolist() == pytest.approx([130, 90], abs=1e-3)
    assert not 30 <= arrow[1, 0] <= 130


def test_the_arrow_points_to_where_the_front_is_seen():
    camera = canonical_camera(200, 300, 200.0)
    tail, head = project_cuboid(MESH, viewpoint(90, 0, 0), camera)[1]
    assert head[0] < tail[0] - 20  # from the object's left side, its front is on the left of the picture
    tail, head = project_cuboid(MESH, viewpoint(0, 30, 0), camera)[1]
    assert head[1] > tail[1] + 5  # seen from the front and above, it looks down at us


def test_the_far_corner_is_behind():
    far = project_cuboid(MESH, viewpoint(30, 20, 0), canonical_camera(200, 300, 200.0))[2]
    assert far == 0b010  # x low, y high (back), z low: seen from the front left and above


def test_overlay_tints_the_front_and_leaves_the_rest_alone():
    grey = torch.full((3, 200, 300), 0.5)
    picture = overlay(grey, canonical_camera(200, 300, 200.0), MESH, [(viewpoint(90, 0, 0), PREDICTED)], width=300)
    assert picture.size == (300, 200)
    assert picture.getpixel((5, 5)) == (128, 128, 128)
    # the side view of the cuboid spans 100 px forward and 80 px back; the face seen edge-on is the front, nearly a line
    red, _, blue = picture.getpixel((150 - 98, 100))
    assert red > blue + 60


def test_a_pose_that_is_not_finite_is_not_drawn():
    grey = torch.full((3, 60, 80), 0.5)
    picture = overlay(grey, canonical_camera(60, 80, 50.0), MESH, [(torch.tensor([math.nan, 0, 0]), TRUTH)], width=80)
    assert picture.getcolors() == [(60 * 80, (128, 128, 128))]


def test_captions_stand_below_and_fit():
    picture = captioned(Image.new("RGB", (100, 50)), ["short", "a line that is much too long for a hundred pixels"])
    assert picture.width == 100
    assert picture.height > 80
    right_margin = picture.crop((97, 50, 100, picture.height))
    assert right_margin.getcolors() == [(3 * (picture.height - 50), (255, 255, 255))]


def test_bytes_and_floats_give_the_same_picture():
    values = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert to_image(values).tobytes() == to_image(values.float() / 255).tobytes()


def test_a_placement_moves_the_cuboid_as_it_moves_the_object():
    camera, pose, image = canonical_camera(200, 300, 200.0), viewpoint(40, 20, 10), torch.zeros(3, 200, 300)
    placement = torch.tensor([0.1, 30.0, -5.0])
    moved = overlay(image, camera, MESH, [(torch.cat((pose, placement)), PREDICTED)], 600)
    expected = overlay(image, camera.placed(placement[None]), MESH, [(pose, PREDICTED)], 600)
    unknown = overlay(image, camera, MESH, [(torch.cat((pose, placement * math.nan)), PREDICTED)], 600)
    assert moved.tobytes() == expected.tobytes() != unknown.tobytes()
    assert unknown.tobytes() == overlay(image, camera, MESH, [(pose, PREDICTED)], 600).tobytes()
