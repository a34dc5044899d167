"""Rendered feature maps against a cell-by-cell twin, and their gradients against finite differences."""

import pytest
import torch

from nvsm_lightning.geometry.cameras import project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.renderer import FeatureRenderer
from nvsm_lightning.render.visibility import visible_vertices

SIZE = (12, 30)


@pytest.mark.parametrize("own_features", [False, True])
def test_rendered_features_against_a_slow_twin(own_features, meshes, view):
    mesh = meshes["torus"]
    uvz, _, _ = view(mesh, SIZE, poses=2)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, len(mesh.vertices), 5, generator=generator)
    if not own_features:
        features = features[:1].expand(2, -1, -1)
    renderer = FeatureRenderer(mesh, SIZE)
    drawn, mask = renderer.render(features if own_features else features[0], uvz)
    seen = renderer.fragments(uvz)
    expected = torch.zeros(2, 5, *SIZE)
    for item, row, column in mask.nonzero().tolist():
        for corner in range(3):
            vertex, weight = seen.vertex[item, row, column, corner], seen.weight[item, row, column, corner]
            expected[item, :, row, column] += weight * features[item, vertex]
    assert drawn.shape == (2, 5, *SIZE) and mask.any()
    torch.testing.assert_close(drawn, expected)


def test_a_coordinate_drawn_as_a_feature_is_linear_in_space(meshes, view):
    """Depth as a vertex feature is the depth of the surface, whatever the size of the cells."""
    mesh = meshes["cuboid"]
    uvz, _, _ = view(mesh, SIZE, poses=2)
    drawn, mask = FeatureRenderer(mesh, SIZE).render(uvz[..., 2:], uvz)
    uvz_finer = uvz * torch.tensor([3.0, 3, 1])  # the middle one of 3 x 3 finer cells has the same centre
    finer, finer_mask = FeatureRenderer(mesh, (SIZE[0] * 3, SIZE[1] * 3)).render(uvz[..., 2:], uvz_finer)
    both = mask & finer_mask[:, 1::3, 1::3]
    assert both.sum() > 0.99 * mask.sum()
    torch.testing.assert_close(drawn[:, 0][both], finer[:, 0, 1::3, 1::3][both], atol=1e-4, rtol=0)


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_pose_gradient_against_central_differences_in_float64(engine, meshes, view):
    """With the seen faces held, as the gradient is defined; all three angles, distance and principal point."""
    mesh = meshes["cuboid"]
    _, viewpoint, camera = view(mesh, SIZE, poses=3)
    camera, vertices = camera.to(torch.float64), mesh.vertices.double()
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(vertices), 4, dtype=torch.float64, generator=generator)
    target = torch.randn(3, 4, *SIZE, dtype=torch.float64, generator=generator)

    def place(pose: torch.Tensor) -> torch.Tensor:
        moved = type(camera)(camera.distance + pose[:, 3], camera.focal, camera.principal + pose[:, 4:], camera.box)
        return project(vertices, rotation_from_viewpoint(pose[:, :3]), moved)

    pose = torch.cat((viewpoint.double(), torch.zeros(3, 3).double()), -1).requires_grad_()
    renderer = FeatureRenderer(mesh, SIZE, engine)
    held = rasterize(place(pose), mesh.faces, SIZE, engine)

    def loss(at: torch.Tensor) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nvsm_lightning.render.renderer.rasterize", lambda *_: held)
            return (renderer.render(features, place(at))[0] * target).sum()

    loss(pose).backward()
    step = 1e-6
    numeric = torch.zeros_like(pose)
    for item in range(3):
        for k in range(6):
            shift = torch.zeros_like(pose)
            shift[item, k] = step
            numeric[item, k] = (loss(pose.detach() + shift) - loss(pose.detach() - shift)) / (2 * step)
    assert (pose.grad - numeric).norm() < 1e-6 * numeric.norm()


def test_feature_gradient_is_the_weight_with_which_a_vertex_is_seen(meshes, view):
    mesh = meshes["cuboid"]
    uvz, _, _ = view(mesh, SIZE, poses=2)
    features = torch.randn(len(mesh.vertices), 3).requires_grad_()
    renderer = FeatureRenderer(mesh, SIZE)
    renderer.render(features, uvz)[0].sum().backward()
    seen = renderer.fragments(uvz)
    weight = torch.zeros(len(mesh.vertices)).index_add(0, seen.vertex.flatten(), seen.weight.flatten())
    torch.testing.assert_close(features.grad, weight[:, None].expand(-1, 3))


def test_an_empty_batch_renders_to_an_empty_map(meshes):
    mesh = meshes["cuboid"]
    drawn, mask = FeatureRenderer(mesh, SIZE).render(torch.randn(len(mesh.vertices), 7), torch.zeros(0, 864, 3))
    assert drawn.shape == (0, 7, *SIZE) and mask.shape == (0, *SIZE)


def test_the_mesh_moves_with_the_model_but_is_not_saved(meshes):
    renderer = FeatureRenderer(meshes["cuboid"], SIZE)
    assert not renderer.state_dict() and not list(renderer.parameters())
    assert renderer.to("meta").faces.is_meta and renderer.vertices.is_meta


def test_visibility_is_that_of_the_room(meshes, view):
    mesh = meshes["torus"]
    uvz, _, _ = view(mesh, SIZE, poses=2)
    renderer = FeatureRenderer(mesh, SIZE, "torch")
    assert torch.equal(renderer.visible(uvz), visible_vertices(uvz, mesh.faces, SIZE, "torch"))
