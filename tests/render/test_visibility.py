"""Visible vertices against the exact answer: normals for a convex mesh, rays for one that hides itself."""

import pytest
import torch
import trimesh

from nvsm_lightning.geometry.cameras import project
from nvsm_lightning.geometry.frames import camera_centre
from nvsm_lightning.geometry.meshes import category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.visibility import visible_vertices


def inside(uvz: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Whether a vertex projects into the frame."""
    u, v, _ = uvz.unbind(-1)
    return (u >= 0) & (u < size[1]) & (v >= 0) & (v < size[0])


@pytest.mark.parametrize("engine", ["torch", "numba"])
@pytest.mark.parametrize("distance", [1.2, 5.0])
def test_a_cuboid_vertex_is_seen_where_one_of_its_sides_faces_the_camera(engine, distance, view):
    size, mesh = (20, 48), category_cuboid("car", 600)
    uvz, viewpoint, _ = view(mesh, size, poses=16, distance=distance)
    ray = camera_centre(viewpoint, distance)[:, None] - mesh.vertices
    ray = ray / ray.norm(dim=-1, keepdim=True)
    half = mesh.vertices.amax(0)
    cosine = torch.full(uvz.shape[:2], -1.0)  # of the side that faces the camera most, of those the vertex belongs to
    for axis in range(3):
        for sign in (-1, 1):
            on_side = (mesh.vertices[:, axis] - sign * half[axis]).abs() < 1e-6
            cosine = torch.where(on_side, torch.maximum(cosine, sign * ray[..., axis]), cosine)
    visible = visible_vertices(uvz, mesh.faces, size, engine)
    away_from_silhouette = inside(uvz, size) & (cosine.abs() > 0.05)
    assert away_from_silhouette.sum() > 4000
    assert (visible == (cosine > 0))[away_from_silhouette].float().mean() >= 0.99
    assert not visible[~inside(uvz, size)].any()


def test_a_mesh_that_hides_itself_agrees_with_ray_casting(meshes, view):
    pytest.importorskip("embreex")
    mesh, size = meshes["torus"], (32, 84)
    uvz, viewpoint, _ = view(mesh, size, poses=4)
    scene = trimesh.Trimesh(mesh.vertices.double().numpy(), mesh.faces.numpy(), process=False)
    centre = camera_centre(viewpoint, 5.0)
    agree = []
    for item in range(4):
        ray = mesh.vertices - centre[item]
        length = ray.norm(dim=-1, keepdim=True)
        origin = centre[item].expand_as(ray).double().numpy()
        reach = torch.full((len(ray),), torch.inf)
        hits, index, _ = scene.ray.intersects_location(origin, (ray / length).double().numpy(), multiple_hits=False)
        reach[torch.from_numpy(index).long()] = (torch.tensor(hits).float() - centre[item]).norm(dim=-1)
        seen = reach > length[:, 0] - 0.01
        agree.append((visible_vertices(uvz, mesh.faces, size)[item] == seen)[inside(uvz, size)[item]])
    assert torch.cat(agree).float().mean() > 0.98


def test_nothing_behind_the_camera_is_visible(meshes):
    mesh = meshes["cuboid"]
    uvz = torch.rand(2, len(mesh.vertices), 3) * 10
    uvz[..., 2] = -1
    assert not visible_vertices(uvz, mesh.faces, (12, 12)).any()


def test_a_vertex_behind_another_face_is_hidden_and_one_beyond_the_tolerance_is_not():
    wall = [(-9.0, -9.0, 1.0), (40.0, -9.0, 1.0), (-9.0, 40.0, 1.0)]
    uvz = torch.tensor([[*wall, (5, 5, 1.005), (5, 5, 1.02), (5, 5, 0.5), (5, 13, 0.5), (20, 5, 0.5)]])
    visible = visible_vertices(uvz, torch.tensor([[0, 1, 2]]), (12, 20))
    assert visible.tolist() == [[False, False, False, True, False, True, False, False]]


def test_a_batch_is_its_items(meshes, view):
    mesh, size = meshes["torus"], (20, 48)
    uvz, _, _ = view(mesh, size, poses=5)
    together = visible_vertices(uvz, mesh.faces, size)
    assert torch.equal(together, torch.cat([visible_vertices(item[None], mesh.faces, size) for item in uvz]))
    assert visible_vertices(uvz[:0], mesh.faces, size).shape == (0, uvz.shape[1])


def test_visible_vertices_carry_no_gradient(meshes, view):
    mesh, size = meshes["cuboid"], (20, 48)
    _, viewpoint, camera = view(mesh, size, poses=1)
    uvz = project(mesh.vertices, rotation_from_viewpoint(viewpoint.requires_grad_()), camera)
    assert not visible_vertices(uvz, mesh.faces, size).requires_grad
