"""CAD models of a category from .mat, folders and single files."""

import numpy as np
import pytest
import scipy.io
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cad import read_cad
from nvsm_lightning.geometry.meshes import cuboid, write_off

BOX = cuboid((-0.2, -0.4, -0.1), (0.2, 0.4, 0.1), 60)


def write_mat(path, entries, name="car"):
    """``CAD/<category>.mat``: one entry a model, faces counted from 1, [] where a model is absent."""
    array = np.zeros((1, len(entries)), dtype=[("vertices", object), ("faces", object), ("left_wheel", object)])
    for place, mesh in enumerate(entries):
        empty = np.zeros((0, 0))
        array[0, place]["vertices"] = empty if mesh is None else mesh.vertices.double().numpy()
        array[0, place]["faces"] = empty if mesh is None else mesh.faces.numpy().astype(float) + 1
        array[0, place]["left_wheel"] = empty
    scipy.io.savemat(path, {name: array})


def test_absent_models_keep_the_index_of_the_others(tmp_path):
    write_mat(tmp_path / "car.mat", [None, BOX, None, BOX])
    models = read_cad(tmp_path / "car.mat")
    assert list(models) == [2, 4]
    torch.testing.assert_close(models[4].vertices, BOX.vertices)
    assert models[4].faces.equal(BOX.faces)


def test_a_single_model_may_be_no_list(tmp_path):
    write_mat(tmp_path / "car.mat", [BOX])
    assert list(read_cad(tmp_path / "car.mat")) == [1]


def test_a_folder_is_numbered_by_its_file_names(tmp_path):
    for name in ("01", "03"):
        write_off(BOX, tmp_path / f"{name}.off")
    assert list(read_cad(tmp_path)) == [1, 3]
    write_off(BOX, tmp_path / "sedan.off")
    assert list(read_cad(tmp_path)) == [1, 2, 3]
    assert list(read_cad(tmp_path / "sedan.off")) == [1]


@pytest.mark.parametrize("wrong", [0, 99])
def test_faces_beyond_the_vertices_are_refused(tmp_path, wrong):
    faces = BOX.faces.clone()
    faces[0, 0] = wrong - 1
    write_mat(tmp_path / "car.mat", [type(BOX)(BOX.vertices, faces)])
    with pytest.raises(DataError, match=r"Model 1 of .*car\.mat"):
        read_cad(tmp_path / "car.mat")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no CAD file .*car\.mat"):
        read_cad(tmp_path / "car.mat")
    (tmp_path / "car.mat").write_text("<html>")
    with pytest.raises(DataError, match="cannot be read"):
        read_cad(tmp_path / "car.mat")
    scipy.io.savemat(tmp_path / "bus.mat", {"a": 1, "b": 2})
    with pytest.raises(DataError, match="one list of models"):
        read_cad(tmp_path / "bus.mat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no CAD model"):
        read_cad(tmp_path / "empty")


def test_the_real_models_of_a_category_are_read(shared_data):
    models = read_cad(shared_data("pascal3d_cad") / "car.mat")
    assert list(models) == [1, 3, 4, 6, 8]
    for mesh in models.values():
        size = mesh.vertices.amax(0) - mesh.vertices.amin(0)
        assert size.norm() == pytest.approx(1, abs=0.05) and size.argmax() == 1  # box diagonal 1, longest along y
