"""Which mesh stands for a category: a known cuboid, one of given sides, or a file."""

import pytest
import torch

from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.methods.category_mesh import MeshSpec, category_mesh


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


def test_a_file_and_sides_are_refused() -> None:
    with pytest.raises(ConfigError, match="not both"):
        MeshSpec(file="cow.off", extent=(1.0, 2.0, 3.0))
