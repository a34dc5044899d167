"""Which mesh stands for a category: a known cuboid, one of given sides, or a file."""

import warnings

import pytest
import torch
import trimesh

from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.methods.category_mesh import MeshSpec, category_mesh, warn_where_cut


def sides(mesh) -> torch.Tensor:
    return mesh.vertices.amax(0) - mesh.vertices.amin(0)


def test_a_category_of_ones_own_is_a_cuboid_of_the_given_sides() -> None:
    mesh = category_mesh(MeshSpec(extent=(1.8, 4.5, 1.4), vertices=300), "tractor")
    wanted = torch.tensor([1.8, 4.5, 1.4])
    torch.testing.assert_close(sides(mesh), wanted / wanted.norm())
    torch.testing.assert_close(mesh.vertices.amax(0), -mesh.vertices.amin(0))
    assert 200 < len(mesh.vertices) < 300


def test_given_sides_come_before_those_of_the_category() -> None:
    tall = category_mesh(MeshSpec(extent=(1.0, 1.0, 2.0)), "car")
    assert sides(tall).argmax() == 2 and sides(category_mesh(MeshSpec(), "car")).argmax() == 1


def test_a_category_without_a_cuboid_is_told_what_to_give() -> None:
    with pytest.raises(DataError, match=r"tractor.*--model\.mesh\.extent .*--model\.mesh\.file"):
        category_mesh(MeshSpec(), "tractor")


@pytest.mark.parametrize(
    "extent", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0), (1.0, float("inf"), 1.0)]
)
def test_sides_that_are_none_are_refused(extent) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        MeshSpec(extent=extent)


def test_a_mesh_in_other_units_is_named(tmp_path) -> None:
    """A box as camera would hide it until the camera lies inside of the mesh."""
    mesh = category_mesh(MeshSpec(vertices=60), "car")
    for scale, name in ((1.0, "unit.off"), (4.6, "metres.off")):
        trimesh.Trimesh(mesh.vertices.numpy() * scale, mesh.faces.numpy(), process=False).export(tmp_path / name)
    with warnings.catch_warnings(action="error"):
        category_mesh(MeshSpec(str(tmp_path / "unit.off")), "car")
    with pytest.warns(UserWarning, match=r"is 4\.5.* scale it by 0\.2"):
        category_mesh(MeshSpec(str(tmp_path / "metres.off")), "car")


@pytest.mark.parametrize(
    ("category", "height", "width", "cut"),
    [("car", 160, 384, False), ("chair", 160, 384, True), ("chair", 256, 224, False), ("car", 160, 160, True)],
)
def test_a_crop_that_cuts_the_object_off_is_warned_of(category, height, width, cut) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_where_cut(category_mesh(MeshSpec(), category), height, width, 300.0)
    assert len(said) == cut and (not cut or "--data.crop.height" in str(said[0].message))


def test_a_file_and_sides_are_refused() -> None:
    with pytest.raises(ConfigError, match="not both"):
        MeshSpec(file="cow.off", extent=(1.0, 2.0, 3.0))
