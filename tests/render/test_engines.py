"""The engines against a float64 brute force, ray casting, each other, and the rules they promise."""

import importlib

import pytest
import torch
import trimesh

from nvsm_lightning.errors import EngineError
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render import engines
from nvsm_lightning.render.engines import available, choose_engine, rasterize

EXACT = ("torch", "numba")
TRIANGLE = torch.tensor([[0, 1, 2]])


def triangle(*corners: tuple[float, float, float]) -> torch.Tensor:
    """One picture with some (u, v, depth) vertices."""
    return torch.tensor([corners], dtype=torch.float32)


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("name", ["cuboid", "torus"])
@pytest.mark.parametrize("size", [(32, 84), (40, 17)])
def test_faces_agree_with_a_float64_brute_force(engine, name, size, meshes, view, brute_force):
    faces = meshes[name].faces
    uvz, _, _ = view(meshes[name], size, poses=4, distance=2.0)
    expected = brute_force(uvz, faces, size)
    assert (expected >= 0).float().mean() > 0.05
    assert (rasterize(uvz, faces, size, engine) == expected).float().mean() >= 0.9999


@pytest.mark.parametrize("name", ["cuboid", "torus"])
def test_both_engines_do_the_same_arithmetic(name, meshes, view):
    uvz, _, _ = view(meshes[name], (20, 48), poses=32)
    faces = meshes[name].faces
    assert torch.equal(rasterize(uvz, faces, (20, 48), "torch"), rasterize(uvz, faces, (20, 48), "numba"))


def test_faces_agree_with_ray_casting(meshes, view):
    pytest.importorskip("embreex")
    mesh, size = meshes["torus"], (32, 84)
    uvz, viewpoint, camera = view(mesh, size, poses=4)
    drawn = rasterize(uvz, mesh.faces, size)
    scene = trimesh.Trimesh(mesh.vertices.double().numpy(), mesh.faces.numpy(), process=False)
    v, u = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    for item in range(4):
        x = (u.ravel() - camera.principal[item, 0]) / camera.focal[item]
        y = (v.ravel() - camera.principal[item, 1]) / camera.focal[item]
        rotation = rotation_from_viewpoint(viewpoint[item])
        direction = torch.stack((x, y, torch.ones_like(x)), -1) @ rotation  # rows times R: back to the object frame
        origin = (-camera.distance[item] * rotation[2]).expand_as(direction)
        hit = torch.from_numpy(scene.ray.intersects_first(origin.double().numpy(), direction.double().numpy()))
        assert (hit.view(size) == drawn[item]).float().mean() > 0.999


@pytest.mark.parametrize("engine", EXACT)
def test_cells_are_hit_at_their_centres(engine):
    """A triangle around the centre of cell (row 1, column 3) of a map that is not square."""
    uvz = triangle((3.4, 1.4, 1), (3.6, 1.4, 1), (3.5, 1.6, 1))
    expected = torch.full((1, 3, 5), -1)
    expected[0, 1, 3] = 0
    assert torch.equal(rasterize(uvz, TRIANGLE, (3, 5), engine), expected.int())


@pytest.mark.parametrize("engine", EXACT)
def test_both_sides_are_drawn(engine, meshes, view):
    uvz, _, _ = view(meshes["torus"], (20, 48), poses=4)
    faces = meshes["torus"].faces
    drawn = rasterize(uvz, faces, (20, 48), engine)
    assert (rasterize(uvz, faces.flip(-1), (20, 48), engine) == drawn).float().mean() > 0.999


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("on_centres", [False, True])
def test_shared_edges_leave_no_hole(engine, on_centres):
    """A crumpled sheet over the whole map; with vertices and diagonals exactly on cell centres, and anywhere."""
    lines = torch.arange(-2, 14, dtype=torch.float32) * 2 + 0.5
    v, u = torch.meshgrid(lines, lines, indexing="ij")
    points = torch.stack((u, v, torch.full_like(u, 3)), -1).view(1, -1, 3).repeat(8, 1, 1)
    if not on_centres:
        points[..., :2] += torch.rand(8, 256, 2, generator=torch.Generator().manual_seed(0)) * 1.2
    index = torch.arange(256).view(16, 16)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))
    faces = torch.cat((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)))
    assert (rasterize(points, faces, (24, 24), engine) >= 0).all()


@pytest.mark.parametrize("engine", EXACT)
def test_the_nearest_face_wins_whatever_the_order(engine):
    corners = ((-9.0, -9.0), (30.0, -9.0), (-9.0, 30.0))
    uvz = triangle(*((u, v, 2.0) for u, v in corners), *((u, v, 1.0) for u, v in corners))
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    assert (rasterize(uvz, faces, (4, 6), engine) == 1).all()
    assert (rasterize(uvz, faces.flip(0), (4, 6), engine) == 0).all()


@pytest.mark.parametrize("engine", EXACT)
def test_at_equal_depth_the_lowest_id_wins(engine):
    uvz = triangle((-9, -9, 1.5), (30, -9, 2.5), (-9, 30, 1.7))
    assert (rasterize(uvz, torch.tensor([[0, 1, 2], [0, 1, 2], [2, 0, 1]]), (4, 6), engine) == 0).all()


@pytest.mark.parametrize("engine", EXACT)
def test_inverse_depth_is_what_is_linear_in_the_picture(engine):
    """A plane from depth 1 (u = 0) to depth 4 (u = 8) has depth 1.6 in the middle, and so hides a wall at 2 there."""
    slope = ((0, -50, 1), (0, 50, 1), (8, -50, 4), (8, 50, 4))
    wall = ((0, -50, 2), (0, 50, 2), (8, -50, 2), (8, 50, 2))
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]])
    sloping = rasterize(triangle(*slope, *wall), faces, (1, 8), engine)[0, 0] < 2
    # 1/z = 1 - (3/4) u / 8 > 1/2 where u < 5 1/3; depth linear in u would cross at 2 2/3.
    assert sloping.tolist() == [True] * 5 + [False] * 3


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("depth", [0.0, -1.0, torch.nan, torch.inf])
def test_faces_reaching_behind_the_camera_or_nowhere_are_dropped(engine, depth):
    uvz = triangle((-9, -9, depth), (30, -9, 1), (-9, 30, 1), (-9, -9, 5), (30, -9, 5), (-9, 30, 5))
    assert (rasterize(uvz, torch.tensor([[0, 1, 2], [3, 4, 5]]), (4, 6), engine) == 1).all()


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize("coordinate", [torch.nan, torch.inf, -torch.inf])
def test_faces_with_an_invalid_corner_are_dropped(engine, coordinate):
    for axis in range(2):
        uvz = triangle((-9, -9, 1), (30, -9, 1), (-9, 30, 1))
        uvz[0, 1, axis] = coordinate
        assert (rasterize(uvz, TRIANGLE, (4, 6), engine) == -1).all()


@pytest.mark.parametrize("engine", EXACT)
def test_faces_without_area_draw_nothing_and_hide_nothing(engine):
    point, line = ((2.5, 1.5, 0.5),) * 3, ((0.5, 1.5, 0.5), (3.5, 1.5, 0.5), (5.5, 1.5, 0.5))
    uvz = triangle(*point, *line, (-9, -9, 5), (30, -9, 5), (-9, 30, 5))
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [3, 3, 4], [6, 7, 8]])
    assert (rasterize(uvz, faces, (4, 6), engine) == 3).all()


@pytest.mark.parametrize("engine", EXACT)
def test_faces_outside_the_frame_draw_nothing(engine):
    corners = torch.tensor([(0.0, 0.0), (5.0, 0.0), (0.0, 5.0)])
    for shift in ((100, 0), (-100, 0), (0, 100), (0, -100), (1e30, 0), (0, -1e30)):
        uvz = torch.cat((corners + torch.tensor(shift), torch.ones(3, 1)), -1)[None]
        assert (rasterize(uvz, TRIANGLE, (4, 6), engine) == -1).all()


@pytest.mark.parametrize("engine", EXACT)
def test_an_empty_batch_and_an_empty_mesh_give_empty_maps(engine):
    empty = rasterize(torch.zeros(0, 3, 3), TRIANGLE, (4, 6), engine)
    assert empty.shape == (0, 4, 6) and empty.dtype == torch.int32
    assert (rasterize(torch.ones(2, 3, 3), torch.zeros(0, 3, dtype=torch.long), (4, 6), engine) == -1).all()


@pytest.mark.parametrize("engine", EXACT)
def test_input_of_any_float_type_memory_order_and_index_type(engine, meshes, view):
    uvz, _, _ = view(meshes["cuboid"], (20, 48), poses=3)
    faces = meshes["cuboid"].faces
    drawn = rasterize(uvz, faces, (20, 48), engine)
    transposed = uvz.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(rasterize(transposed.double().requires_grad_(), faces.int(), (20, 48), engine), drawn)
    assert torch.equal(rasterize(uvz, faces.T.contiguous().T, (20, 48), engine), drawn)


def test_threads_change_nothing(meshes, view):
    uvz, _, _ = view(meshes["torus"], (20, 48), poses=13)
    faces, before = meshes["torus"].faces, torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = rasterize(uvz, faces, (20, 48), "numba")
        torch.set_num_threads(3)
        assert torch.equal(rasterize(uvz, faces, (20, 48), "numba"), one)
    finally:
        torch.set_num_threads(before)


def test_without_any_folder_for_its_cache_the_kernel_is_compiled_all_the_same(monkeypatch):
    from nvsm_lightning.render import compiling

    asked = []

    def refuse(kernel, cache=False, **_):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return kernel

    monkeypatch.setattr(compiling.numba, "njit", refuse)
    assert compiling.compiled(len) is len and asked == [True, False]


def test_large_batches_are_drawn_in_parts(meshes, view, monkeypatch):
    from nvsm_lightning.render import raster_torch

    uvz, _, _ = view(meshes["torus"], (20, 48), poses=5)
    whole = rasterize(uvz, meshes["torus"].faces, (20, 48), "torch")
    monkeypatch.setitem(raster_torch.PAIRS, "cpu", 500)
    assert torch.equal(rasterize(uvz, meshes["torus"].faces, (20, 48), "torch"), whole)


def test_auto_draws_with_numba_on_the_cpu():
    assert available("numba")
    assert choose_engine("auto", torch.device("cpu")) == "numba"
    assert choose_engine("auto", torch.device("meta")) == "torch"


def test_an_unknown_engine_is_named_with_the_known_ones():
    with pytest.raises(EngineError, match=r"'opengl'.*auto, torch, numba, nvdiffrast"):
        rasterize(torch.ones(1, 3, 3), TRIANGLE, (4, 6), "opengl")


@pytest.mark.parametrize(("engine", "device"), [("nvdiffrast", "cpu"), ("numba", "cuda")])
def test_an_engine_of_another_device_says_so(engine, device):
    with pytest.raises(EngineError, match=f"{engine!r} draws on .* only; these tensors are on {device}"):
        choose_engine(engine, torch.device(device))


def test_a_missing_engine_says_what_to_install_and_is_tried_once(monkeypatch):
    tried = []

    def refuse(name: str):
        tried.append(name)
        raise ImportError("no such thing")

    monkeypatch.setattr(importlib, "import_module", refuse)
    engines._load.cache_clear()
    try:
        for _ in range(3):
            with pytest.raises(EngineError, match=r"'numba' cannot be used here .*no such thing.*pip install numba"):
                rasterize(torch.ones(1, 3, 3), TRIANGLE, (4, 6), "numba")
        assert len(tried) == 1
        assert not available("nvdiffrast") and choose_engine("auto", torch.device("cuda")) == "torch"
    finally:
        engines._load.cache_clear()
