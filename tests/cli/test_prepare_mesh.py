"""``nvsm prepare mesh``: one file a subtype, which a method reads."""

import pytest

from nvsm_lightning.cli.main import main
from nvsm_lightning.geometry.cad import read_cad
from nvsm_lightning.geometry.meshes import cuboid, write_off
from nvsm_lightning.methods.category_mesh import MeshSpec, category_meshes


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "CAD"
    folder.mkdir()
    for name, height in (("01", 0.1), ("04", 0.2)):
        write_off(cuboid((-0.2, -0.4, -height), (0.2, 0.4, height), 60), folder / f"{name}.off")
    return folder


@pytest.mark.parametrize(
    ("kind", "heights"), [("single", {1: 0.4}), ("multi", {1: 0.2, 4: 0.4}), ("downsample", {1: 0.2, 4: 0.4})]
)
def test_the_three_kinds_are_written_and_read_by_subtype(models, tmp_path, capsys, kind, heights):
    out = tmp_path / "out"
    words = ["prepare", "mesh", "--kind", kind, "--from", str(models), "--out", str(out), "--vertices", "150"]
    assert main(words) == 0
    meshes = category_meshes(MeshSpec(file=str(out)), "car")
    for index, height in heights.items():
        low, high = meshes[index].vertices.amin(0), meshes[index].vertices.amax(0)
        assert (high - low).tolist() == pytest.approx([0.4, 0.8, height], abs=0.03)
        assert 100 <= len(meshes[index].vertices) <= 170
    assert list(meshes) == list(heights) == list(read_cad(out))
    assert f"--model.mesh.file {out}" in capsys.readouterr().out


def test_meshes_of_another_set_are_not_mixed_in(models, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prepare", "mesh", "--kind", "multi", "--from", str(models), "--out", str(out)]) == 0
    assert main(["prepare", "mesh", "--kind", "multi", "--from", str(models), "--out", str(out)]) == 0  # over itself
    assert main(["prepare", "mesh", "--kind", "single", "--from", str(models), "--out", str(out)]) == 2
    assert "another set" in capsys.readouterr().err
    assert main(["prepare", "mesh", "--from", str(models)]) == 2
    assert "--out" in capsys.readouterr().err
