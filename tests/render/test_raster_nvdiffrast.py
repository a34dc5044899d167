"""The CUDA engine: on CUDA against the exact engine; anywhere, its bookkeeping on a stand-in for nvdiffrast."""

import importlib
import sys
from types import ModuleType

import pytest
import torch

from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.raster_torch import rasterize_torch

SIZE = (32, 84)


def test_agrees_with_the_exact_engine_but_for_snapped_edges(meshes, view):
    pytest.importorskip("nvdiffrast.torch", reason="nvdiffrast is not installed")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for name in meshes:
        faces = meshes[name].faces
        uvz, _, _ = view(meshes[name], SIZE, poses=8)
        exact = rasterize(uvz, faces, SIZE, "torch")
        drawn = rasterize(uvz.cuda(), faces, SIZE, "nvdiffrast").cpu()
        assert (drawn == exact).float().mean() > 0.95
        assert ((drawn >= 0) == (exact >= 0)).float().mean() > 0.99


@pytest.fixture
def on_fake(monkeypatch):
    """The engine on a stand-in for nvdiffrast (written from its documentation), and the batch sizes it was given."""
    batches = []

    def fake_rasterize(context, pos, tri, resolution, grad_db):
        assert pos.is_contiguous() and pos.dtype == torch.float32 and tri.dtype == torch.int32 and not grad_db
        batches.append(len(pos))
        height, width = resolution
        x, y, _, w = pos.unbind(-1)  # row 0 is the lowest y; centres at (2 k + 1) / n - 1
        uvz = torch.stack(((x / w + 1) / 2 * width, (y / w + 1) / 2 * height, w), -1)
        face = rasterize_torch(uvz, tri, resolution)
        return torch.stack((*(torch.zeros_like(face),) * 3, face + 1), -1).float(), None

    fake = ModuleType("nvdiffrast.torch")
    fake.rasterize, fake.RasterizeCudaContext = fake_rasterize, type("RasterizeCudaContext", (str,), {})
    package = ModuleType("nvdiffrast")
    package.torch = fake
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", fake)
    name = "nvsm_lightning.render.raster_nvdiffrast"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name), batches
    sys.modules.pop(name, None)


def test_maps_come_out_as_from_the_reference_in_chunks(on_fake, meshes, view, monkeypatch):
    engine, batches = on_fake
    monkeypatch.setattr(engine, "CHUNK", 3)
    faces = meshes["torus"].faces
    uvz, _, _ = view(meshes["torus"], SIZE, poses=7)
    drawn = engine.rasterize_nvdiffrast(uvz.double(), faces, SIZE)
    assert batches == [3, 3, 1] and drawn.dtype == torch.int32
    assert (drawn == rasterize_torch(uvz, faces, SIZE)).float().mean() > 0.999  # clip space rounds the vertices


def test_pictures_with_vertices_behind_the_camera_are_drawn_by_the_reference(on_fake, meshes, view):
    engine, batches = on_fake
    faces = meshes["torus"].faces
    uvz, _, _ = view(meshes["torus"], SIZE, poses=4)
    uvz[1, :50, 2] = -1
    uvz[3, 0, 0] = torch.nan
    drawn = engine.rasterize_nvdiffrast(uvz, faces, SIZE)
    expected = rasterize_torch(uvz, faces, SIZE)
    assert batches == [2]
    assert torch.equal(drawn[[1, 3]], expected[[1, 3]])
    assert (drawn == expected).float().mean() > 0.999
