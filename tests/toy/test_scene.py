"""Pictures and labels agree: the pose, the cuboid and the mask belong together, and the factors of realism are really
there.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.meshes import cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.toy.backdrop import random_backdrop
from nvsm_lightning.toy.cars import FAMILIES, make_car
from nvsm_lightning.toy.drawing import FOCAL, Item, draw
from nvsm_lightning.toy.materials import random_lights, random_look
from nvsm_lightning.toy.scene import Realism, make_sample, random_viewpoint, rotation_matrix
from nvsm_lightning.toy.shapes import PART

PLAIN = Realism(width=200, height=140, distance=(16.0, 24.0), occluded=0.0, truncated=0.0, box_jitter=0.0)


def project_points(points, sample):
    camera = Camera(
        torch.tensor([sample.distance]),
        torch.tensor([FOCAL]),
        torch.tensor([sample.principal]),
        torch.full((1, 4), torch.nan),
    )
    rotation = rotation_from_viewpoint(torch.tensor([sample.viewpoint]))
    return project(torch.as_tensor(points, dtype=torch.float32), rotation, camera)[0, :, :2].numpy()


@pytest.mark.parametrize("index", range(4))
def test_labelled_camera_projects_the_object_onto_its_mask(index):
    sample = make_sample(np.random.default_rng(index), make_car, PLAIN)
    rows, columns = np.nonzero(sample.mask)
    seen = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    uv = project_points(sample.shape.vertices, sample)
    assert np.abs(np.concatenate((uv.min(0), uv.max(0))) - seen).max() < 1.5  # the very mesh: to the pixel
    assert np.abs(np.array(sample.box) - seen).max() < 1e-6
    low, high = sample.shape.vertices.min(0), sample.shape.vertices.max(0)
    corners = project_points(cuboid(tuple(low), tuple(high), 50).vertices, sample)
    assert (corners.min(0) <= seen[:2] + 1).all() and (
        corners.max(0) >= seen[2:] - 1
    ).all()  # and its cuboid encloses the mask
    assert sample.visible == 1 and not sample.occluded and not sample.truncated


def centre_of_part(azimuth_deg: float, part: str) -> np.ndarray:
    """Mean pixel of a car's front (or rear) lamps, painted glowing green, seen from an azimuth."""
    rng = np.random.default_rng(3)
    shape, look = make_car(rng, "sedan"), random_look(rng)
    albedo = np.zeros_like(look.albedo)
    albedo[PART[part]] = (0, 50, 0)
    look = replace(look, albedo=albedo, stickers=())
    rotation = rotation_matrix((math.radians(azimuth_deg), 0.1, 0.0))
    lights = random_lights(rng, rotation)
    colour = draw(
        [Item(shape, look, rotation, 1.0, np.array((0, 0, 9.0)))], lights, (200.0, 140.0), (280, 400), 1
    ).colour
    rows, columns = np.nonzero(colour[..., 1] - colour[..., 0] > 5)
    return np.array((len(rows), columns.mean() if len(rows) else np.nan, rows.mean() if len(rows) else np.nan))


def test_azimuth_zero_shows_the_front_and_ninety_the_left_side():
    assert centre_of_part(0, "lamp_front")[0] > 50 and centre_of_part(0, "lamp_back")[0] == 0
    assert centre_of_part(180, "lamp_back")[0] > 50 and centre_of_part(180, "lamp_front")[0] == 0
    assert centre_of_part(80, "lamp_front")[1] < 150  # seen from its left, a car drives to the picture's left
    assert centre_of_part(280, "lamp_front")[1] > 250


@pytest.mark.parametrize("family", FAMILIES)
def test_families_fill_a_unit_diagonal_and_vary(family):
    extents = np.stack([np.ptp(make_car(np.random.default_rng(k), family).vertices, axis=0) for k in range(5)])
    assert np.allclose(np.linalg.norm(extents, axis=1), 1, atol=1e-5)
    assert np.ptp(extents[:, 2]) > 0.005
    assert (np.argsort(extents, 1)[:, -1] == 1).all()  # longest from front to back


def test_background_is_never_constant():
    for k in range(8):
        sample = make_sample(np.random.default_rng(k), make_car, PLAIN)
        assert sample.image[~sample.mask].std(0).min() > 4
        assert random_backdrop(np.random.default_rng(k), 60, 80, 25.0).std() > 0.01


def test_occluders_hide_a_measured_share():
    realism = Realism(width=200, height=140, distance=(14.0, 16.0), occluded=1.0, truncated=0.0)
    samples = [make_sample(np.random.default_rng(k), make_car, realism) for k in range(5)]
    hidden = [sample for sample in samples if sample.occluded]
    assert len(hidden) >= 3
    assert all(0.7 < sample.visible < 0.98 for sample in hidden)


def test_truncation_is_small_and_said():
    samples = [
        make_sample(
            np.random.default_rng(k), make_car, Realism(width=200, height=140, distance=(16.0, 20.0), truncated=1.0)
        )
        for k in range(4)
    ]
    assert all(sample.truncated and 0.5 < sample.visible < 0.97 for sample in samples)


def test_viewpoints_are_long_tailed_and_cover_everything():
    rng = np.random.default_rng(0)
    azimuth, elevation, theta = np.degrees([random_viewpoint(rng, Realism()) for _ in range(3000)]).T
    share = np.histogram(azimuth, np.arange(0, 361, 30))[0] / len(azimuth)
    assert share.min() > 0.02 and share.max() > 2 * share.min()
    assert np.mean(elevation < 25) > 0.85 and elevation.max() > 25 and np.abs(theta).max() <= 8
