"""Cuboids around CAD models, dividing and clustering."""

import pytest
import torch
import trimesh

from nvsm_lightning.geometry.meshes import CATEGORY_EXTENT, Mesh, cuboid
from nvsm_lightning.geometry.remesh import clustered, divided, enclosing_cuboid, with_faces

BOX = cuboid((-0.2, -0.4, -0.1), (0.2, 0.4, 0.1), 8)


def extent(mesh: Mesh) -> list[float]:
    return (mesh.vertices.amax(0) - mesh.vertices.amin(0)).tolist()


def area(mesh: Mesh) -> float:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).area


def test_a_cuboid_encloses_one_model_or_all_of_them():
    tall = cuboid((-0.1, -0.3, -0.2), (0.1, 0.3, 0.2), 8)
    assert extent(enclosing_cuboid([BOX])) == pytest.approx([0.4, 0.8, 0.2])
    assert extent(enclosing_cuboid([BOX, tall])) == pytest.approx([0.4, 0.8, 0.4])
    assert len(enclosing_cuboid([BOX], 300).vertices) == pytest.approx(300, rel=0.2)


def test_a_stray_vertex_in_a_hundred_is_left_out_and_the_cuboid_is_centred():
    points = torch.cat((cuboid((-0.2, -0.4, -0.1), (0.2, 0.4, 0.1), 2000).vertices, torch.tensor([[5.0, 5.0, 5.0]])))
    mesh = enclosing_cuboid([Mesh(points, BOX.faces)])
    assert extent(mesh) == pytest.approx([0.4, 0.8, 0.2], abs=0.05)
    assert (mesh.vertices.amax(0) + mesh.vertices.amin(0)).abs().max() < 1e-6


def test_dividing_keeps_the_surface():
    fine = divided(BOX, 0.05)
    corners = fine.vertices[fine.faces]
    assert (corners - corners.roll(1, 1)).norm(dim=-1).max() <= 0.05 + 1e-6
    assert area(fine) == pytest.approx(area(BOX), rel=1e-5)


def test_clustering_keeps_shape_and_symmetry_with_fewer_vertices():
    fine = divided(BOX, 0.02)
    mesh = clustered(fine, 0.08)
    assert len(mesh.vertices) < len(fine.vertices) / 5
    assert extent(mesh) == pytest.approx(extent(BOX), abs=0.08)
    mirrored = mesh.vertices * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.cdist(mirrored, mesh.vertices).amin(1).max() < 0.02  # divided triangles are not quite symmetric
    sides = mesh.vertices[mesh.faces]
    assert (sides - sides.roll(1, 1)).norm(dim=-1).min() > 0
    assert len(mesh.faces.sort(1).values.unique(dim=0)) == len(mesh.faces)
    assert mesh.faces.unique().tolist() == list(range(len(mesh.vertices)))


def test_leaving_out_faces_leaves_out_their_vertices():
    part = with_faces(BOX, torch.arange(len(BOX.faces)) < 2)
    torch.testing.assert_close(part.vertices[part.faces], BOX.vertices[BOX.faces[:2]])
    assert len(part.vertices) == len(BOX.faces[:2].unique())


def test_the_real_models_give_the_cuboid_of_the_category(shared_data):
    from nvsm_lightning.geometry.cad import read_cad

    measured = extent(enclosing_cuboid(read_cad(shared_data("pascal3d_cad") / "bus.mat").values()))
    assert measured == pytest.approx(CATEGORY_EXTENT["bus"], abs=0.002)
