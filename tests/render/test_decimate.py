"""Decimation: what is inside goes, the silhouette stays, the number of vertices is met."""

import pytest
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.meshes import Mesh, cuboid
from nvsm_lightning.render.decimate import decimate, outer_faces, silhouette_iou

OUTSIDE = cuboid((-0.2, -0.4, -0.15), (0.2, 0.4, 0.15), 60)
INSIDE = cuboid((-0.1, -0.2, -0.07), (0.1, 0.2, 0.07), 200)


@pytest.fixture(scope="module")
def car() -> Mesh:
    """A box with an engine in it."""
    faces = torch.cat((OUTSIDE.faces, INSIDE.faces + len(OUTSIDE.vertices)))
    return Mesh(torch.cat((OUTSIDE.vertices, INSIDE.vertices)), faces)


def test_what_is_inside_is_not_seen(car):
    assert outer_faces(car).tolist() == [True] * len(OUTSIDE.faces) + [False] * len(INSIDE.faces)


def test_a_decimated_model_has_the_vertices_asked_for_all_of_them_outside(car):
    mesh = decimate(car, 200)
    assert 150 <= len(mesh.vertices) <= 200
    distance = (mesh.vertices.abs() / torch.tensor([0.2, 0.4, 0.15])).amax(1)
    assert distance.min() > 0.8  # 1 = on the outside, 0.5 = the engine
    assert silhouette_iou(mesh, car) > 0.88  # means of corners lie inside them
    with pytest.raises(DataError, match="at least 8"):
        decimate(car, 4)


def test_silhouettes_of_different_meshes_differ():
    assert silhouette_iou(OUTSIDE, OUTSIDE) == 1
    half = Mesh(OUTSIDE.vertices * torch.tensor([1.0, 0.5, 1.0]), OUTSIDE.faces)
    iou = silhouette_iou(half, OUTSIDE)
    assert 0.4 < iou < 0.75 and iou == pytest.approx(silhouette_iou(OUTSIDE, half))
