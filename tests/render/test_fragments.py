"""Weights of the seen vertices: perspective, gradient, and what engines with snapped vertices may do to them."""

import torch

from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.fragments import covered, fragments, perspective_weights

SIZE = (24, 40)


def test_weights_interpolate_points_in_space_back_onto_their_cells(meshes, view):
    """The weighted point of a face, projected again, is the centre of the cell: perspective-correct."""
    mesh = meshes["torus"]
    uvz, _, camera = view(mesh, SIZE, poses=3, distance=1.5)
    uvz = uvz.double()
    seen = fragments(uvz, mesh.faces, rasterize(uvz, mesh.faces, SIZE))
    plane = (uvz[..., :2] - camera.principal[:, None]) / camera.focal[:, None, None]
    space = torch.cat((plane * uvz[..., 2:], uvz[..., 2:]), -1)
    item = torch.arange(3).view(3, 1, 1, 1)
    point = (seen.weight[..., None] * space[item, seen.vertex]).sum(-2)
    back = point[..., :2] / point[..., 2:] * camera.focal.view(3, 1, 1, 1) + camera.principal.view(3, 1, 1, 2)
    v, u = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    assert seen.mask.any()
    torch.testing.assert_close(back[seen.mask], torch.stack((u, v), -1).double().expand_as(back)[seen.mask])


def test_weights_are_barycentric_where_something_is_seen_and_zero_elsewhere(meshes, view):
    mesh = meshes["cuboid"]
    uvz, _, _ = view(mesh, SIZE, poses=3)
    face_id = rasterize(uvz, mesh.faces, SIZE)
    seen = fragments(uvz, mesh.faces, face_id)
    assert torch.equal(seen.mask, face_id >= 0) and seen.mask.any() and not seen.mask.all()
    torch.testing.assert_close(seen.weight.sum(-1), seen.mask.float())
    assert (seen.weight > -2e-3).all()
    assert (seen.vertex[~seen.mask] == 0).all()
    assert torch.equal(seen.vertex[seen.mask], mesh.faces[face_id[seen.mask].long()])


def test_a_list_of_cells_gives_what_the_map_gives(meshes, view):
    mesh = meshes["cuboid"]
    uvz, _, _ = view(mesh, SIZE, poses=3)
    face_id = rasterize(uvz, mesh.faces, SIZE)
    seen = fragments(uvz, mesh.faces, face_id)
    vertex, weight = covered(uvz, mesh.faces, face_id, seen.mask.nonzero(as_tuple=True))
    assert torch.equal(vertex, seen.vertex[seen.mask]) and torch.equal(weight, seen.weight[seen.mask])


def test_gradient_of_the_weights_against_finite_differences():
    corners = torch.tensor([[[1.0, 2, 3], [9, 1, 4], [4, 8, 5]]], dtype=torch.float64, requires_grad=True)
    point = torch.tensor([[4.5, 3.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(perspective_weights, (corners, point))


def test_centres_beside_a_thin_face_keep_bounded_weights_and_gradients():
    """An engine that snaps vertices may report a sliver for a centre outside it, where weights are in the hundreds."""
    corners = torch.tensor([[[0.0, 0.0, 5], [10, 0.01, 5], [10, 0.02, 5]]], requires_grad=True)
    weight = perspective_weights(corners, torch.tensor([[5.0, 0.06]]))
    assert weight.abs().max() < 1.01 and torch.isclose(weight.sum(), torch.tensor(1.0))
    weight.square().sum().backward()
    assert corners.grad.isfinite().all()


def test_a_face_seen_edge_on_gives_no_nan():
    corners = torch.tensor([[[0.0, 0.5, 5], [4, 0.5, 5], [8, 0.5, 6]]], requires_grad=True)
    weight = perspective_weights(corners, torch.tensor([[2.5, 0.5]]))
    weight.sum().backward()
    assert weight.isfinite().all() and corners.grad.isfinite().all()


def test_nothing_seen_is_an_empty_map(meshes):
    mesh = meshes["cuboid"]
    uvz = torch.full((2, len(mesh.vertices), 3), -1.0, requires_grad=True)
    seen = fragments(uvz, mesh.faces, rasterize(uvz, mesh.faces, SIZE))
    assert not seen.mask.any() and (seen.weight == 0).all()
    seen.weight.sum().backward()
