import pytest
import torch

from nvsm_lightning.geometry.meshes import Mesh, cuboid
from nvsm_lightning.render.culling import hides_its_back
from nvsm_lightning.render.renderer import FeatureRenderer, rasterize

BOX = ((-0.2, -0.4, -0.1), (0.2, 0.4, 0.1))


def test_closed_meshes_with_outward_winding_hide_their_back(meshes) -> None:
    assert all(hides_its_back(mesh.vertices, mesh.faces) for mesh in meshes.values())
    assert FeatureRenderer(meshes["torus"], (8, 8)).hides_its_back


@pytest.mark.parametrize(
    "mesh",
    [
        Mesh(cuboid(*BOX, 100).vertices, cuboid(*BOX, 100).faces.flip(1)),  # inside out
        Mesh(cuboid(*BOX, 100).vertices, cuboid(*BOX, 100).faces[1:]),  # a hole
        Mesh(cuboid(*BOX, 100).vertices, torch.cat((cuboid(*BOX, 100).faces[:1].flip(1), cuboid(*BOX, 100).faces[1:]))),
        cuboid(*BOX, 100, merge_edges=False),  # NeMo's own: sides that only touch
        Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)),
    ],
    ids=["inside out", "hole", "one face turned", "open sides", "empty"],
)
def test_others_do_not(mesh) -> None:
    assert not hides_its_back(mesh.vertices, mesh.faces)


@pytest.mark.parametrize("engine", ["torch", "numba"])
@pytest.mark.parametrize("name", ["cuboid", "torus"])
def test_without_hidden_sides_the_picture_is_the_same(meshes, view, name, engine) -> None:
    mesh = meshes[name]
    uvz, _, _ = view(mesh, (32, 84), 8)
    whole, culled = (rasterize(uvz, mesh.faces, (32, 84), engine, cull) for cull in (False, True))
    covered = (whole >= 0) | (culled >= 0)
    assert (whole == culled)[covered].double().mean() >= 0.9999
    inside_out = rasterize(uvz, mesh.faces.flip(1), (32, 84), engine, True)
    assert (whole == inside_out)[covered].double().mean() < 0.1  # culling does leave faces out
