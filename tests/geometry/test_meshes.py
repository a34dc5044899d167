"""Cuboids (golden counts, winding, merging), the intervals they are measured with, and mesh files."""

import numpy as np
import pytest
import scipy.io
import torch
import trimesh

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.meshes import (
    CATEGORY_EXTENT,
    Mesh,
    category_cuboid,
    cuboid,
    read_mesh,
    shortest_interval,
    write_off,
)

CAR_LIKE = (-0.2, -0.45, -0.15), (0.2, 0.45, 0.15)


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.double().numpy(), mesh.faces.numpy(), process=False)


@pytest.mark.parametrize(
    ("low", "high", "count", "vertices"),
    [(*CAR_LIKE, (11, 24, 8), 1088), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (13, 13, 13), 1014)],
)
def test_golden_counts_of_nemos_cuboids(low, high, count, vertices):
    mesh = cuboid(low, high, 1000, merge_edges=False)
    assert len(mesh.vertices) == vertices
    assert tuple(len(np.unique(mesh.vertices[:, axis])) for axis in range(3)) == count
    n, m, k = (c - 1 for c in count)
    assert len(mesh.faces) == 4 * (n * m + m * k + k * n)


def test_merging_removes_repeated_places_and_nothing_else():
    split, merged = cuboid(*CAR_LIKE, merge_edges=False), cuboid(*CAR_LIKE)
    assert len(merged.vertices) == len(np.unique(split.vertices.numpy(), axis=0)) < len(split.vertices)
    torch.testing.assert_close(merged.vertices[merged.faces], split.vertices[split.faces], atol=1e-7, rtol=0)


@pytest.mark.parametrize("target", [8, 100, 1000])
def test_a_merged_cuboid_is_closed_wound_outward_and_has_the_volume_of_its_box(target):
    solid = as_trimesh(cuboid((-0.2, -0.5, 0.1), (0.2, 0.4, 0.4), target))
    assert solid.is_watertight and solid.is_winding_consistent
    assert solid.volume == pytest.approx(0.4 * 0.9 * 0.3, rel=1e-5)  # negative if wound inward
    np.testing.assert_allclose(solid.bounds, [[-0.2, -0.5, 0.1], [0.2, 0.4, 0.4]], atol=1e-7)


def test_a_flat_side_still_has_its_two_ends():
    """An axis shorter than the grid edge would get one sample; it gets two."""
    mesh = cuboid((0.0, 0.0, 0.0), (1.0, 1.0, 0.001), 100)
    assert sorted(np.unique(mesh.vertices[:, 2])) == pytest.approx([0, 0.001])


def test_a_box_without_volume_is_refused():
    with pytest.raises(DataError, match="high > low"):
        cuboid((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))


def test_every_category_has_a_centred_symmetric_cuboid_of_about_the_size_asked():
    assert len(CATEGORY_EXTENT) == 13
    for category, extent in CATEGORY_EXTENT.items():
        mesh = category_cuboid(category, 1000)
        torch.testing.assert_close(mesh.vertices.amax(0) * 2, torch.tensor(extent))
        torch.testing.assert_close(mesh.vertices.amin(0) * -2, torch.tensor(extent))
        assert 700 < len(mesh.vertices) < 1150
        mirrored = {tuple(p) for p in (mesh.vertices * torch.tensor([-1, 1, 1])).mul(1e4).round().int().tolist()}
        assert mirrored == {tuple(p) for p in mesh.vertices.mul(1e4).round().int().tolist()}


def test_an_unknown_category_names_the_known_ones():
    with pytest.raises(DataError, match=r"'unicorn'.*aeroplane, bicycle"):
        category_cuboid("unicorn")


@pytest.mark.parametrize("category", sorted(set(CATEGORY_EXTENT) - {"car", "horse"}))
def test_extents_are_those_of_the_published_models(category, shared_data):
    """Car is an exception: its extents are the authors' own, from ten models of which five are at hand; horses are
    not in PASCAL3D+."""
    models = scipy.io.loadmat(shared_data("pascal3d_cad") / f"{category}.mat")[category][0]
    vertices = np.concatenate([model["vertices"] for model in models if model["vertices"].size])
    extent = [np.subtract(*shortest_interval(vertices[:, axis])[::-1]) for axis in range(3)]
    assert extent == pytest.approx(CATEGORY_EXTENT[category], abs=5.1e-4)


def test_shortest_interval_against_trying_all():
    values = np.random.default_rng(0).normal(size=200) ** 3
    for share in (0.5, 0.9, 0.99, 1.0):
        low, high = shortest_interval(values, share)
        assert np.mean((values >= low) & (values <= high)) >= share
        pairs = [
            (a, b) for a in values for b in values if a <= b and np.sum((values >= a) & (values <= b)) >= share * 200
        ]
        assert high - low == pytest.approx(min(b - a for a, b in pairs))


def test_shortest_interval_leaves_out_what_lies_far_off():
    assert shortest_interval(np.r_[np.linspace(0, 1, 99), 50.0]) == (0, 1)
    assert shortest_interval(np.array([3.0])) == (3, 3)


@pytest.mark.parametrize(("values", "share"), [([], 0.99), ([1.0], 0.0), ([1.0], 1.5)])
def test_an_interval_of_nothing_is_refused(values, share):
    with pytest.raises(DataError):
        shortest_interval(np.array(values), share)


def test_off_files_bring_a_mesh_back(tmp_path):
    mesh = category_cuboid("bus", 300)
    write_off(mesh, tmp_path / "bus.off")
    back = read_mesh(tmp_path / "bus.off")
    torch.testing.assert_close(back.vertices, mesh.vertices, atol=1e-7, rtol=0)
    assert torch.equal(back.faces, mesh.faces)


def test_off_files_have_the_plain_layout_of_nemos_reader(tmp_path):
    mesh = category_cuboid("bus", 300)
    write_off(mesh, tmp_path / "bus.off")
    lines = (tmp_path / "bus.off").read_text().splitlines()
    assert lines[0] == "OFF" and lines[1].split() == [str(len(mesh.vertices)), str(len(mesh.faces)), "0"]
    assert len(lines[2].split()) == 3 and lines[2 + len(mesh.vertices)].split()[0] == "3"


def test_repeated_vertices_are_merged_on_reading_unless_asked_not_to(tmp_path):
    split = cuboid(*CAR_LIKE, 100, merge_edges=False)
    write_off(split, tmp_path / "split.off")
    assert len(read_mesh(tmp_path / "split.off", merge_vertices=False).vertices) == len(split.vertices)
    merged = read_mesh(tmp_path / "split.off")
    assert len(merged.vertices) == len(cuboid(*CAR_LIKE, 100).vertices)
    torch.testing.assert_close(merged.vertices[merged.faces], split.vertices[split.faces])


def test_obj_files_with_texture_seams_and_quads(tmp_path):
    text = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 9 9 9\nvt 0 0\nvt 1 0\nf 1/1 2/2 3/1 4/2\nf 1/2 3/2 4/1\n"
    (tmp_path / "quad.obj").write_text(text)
    mesh = read_mesh(tmp_path / "quad.obj")
    assert sorted(mesh.vertices.tolist()) == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]
    assert len(mesh.faces) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "OFF\n",
        "OFF\n3 1 0\n0 0 0\n1 0 0\n",  # cut off
        "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n",  # a vertex that is not there
        "OFF\n3 1 0\n0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n",
        "OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n",  # no faces
    ],
)
def test_a_broken_file_is_named(text, tmp_path):
    (tmp_path / "broken.off").write_text(text)
    with pytest.raises(DataError, match=r"broken\.off"):
        read_mesh(tmp_path / "broken.off")


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no mesh file .*nothing\.off"):
        read_mesh(tmp_path / "nothing.off")
    (tmp_path / "cad.step").write_text("x")
    with pytest.raises(DataError, match=r"cad\.step"):
        read_mesh(tmp_path / "cad.step")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere/x\.off"):
        write_off(category_cuboid("car", 50), tmp_path / "nowhere" / "x.off")
