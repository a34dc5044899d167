"""The compiled search against the plain-torch one, which is its specification."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint, viewpoint_error
from nvsm_lightning.pose import fused
from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence, gather_evidence, object_scores
from nvsm_lightning.pose.projection_kernel import place, pose_gradient
from nvsm_lightning.pose.reference import grid_losses_torch, refine_torch
from nvsm_lightning.pose.score_kernel import look_up, score, uncovered_loss
from nvsm_lightning.pose.solver import SolverSettings, grid_losses, solve, start_losses
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.render.renderer import FeatureRenderer, rasterize

VIEWS = [(20, 10, 5), (100, 25, -8), (250, 15, 10)]
OFFSET = torch.tensor([[0.12, -0.05, 0.04]])


def noisy(scene, channels: int = 24) -> Evidence:
    """Evidence from random features: no cell agrees with any other by symmetry."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((len(scene.mesh.vertices), channels), (len(scene.viewpoint), channels, *scene.renderer.size))
    vertex, maps = (normalize(torch.randn(shape, generator=generator), dim=1) for shape in shapes)
    return gather_evidence(maps, vertex, normalize(torch.randn(channels, generator=generator), dim=0), scene.camera)


def doubled(evidence: Evidence) -> Evidence:
    camera = Camera(*(values.double() for values in evidence.camera.tensors()))
    return Evidence(evidence.cells.double() @ evidence.features.double().T, evidence.clutter.double(), camera)


def compiled_gradient(evidence: Evidence, item: int, pose: Tensor, renderer: FeatureRenderer, face_id, kind: int):
    """(loss, gradient [6]) of one pose by the kernels in float64, for given faces."""
    points, faces = renderer.vertices.double().numpy(), renderer.faces.numpy().astype(np.uint32)
    camera = fused._camera_rows(evidence.camera)[item].astype(float)  # float32: the cameras are exact in it
    rotation, slope, corner = np.empty((3, 3)), np.empty((3, 3, 3)), np.empty((len(points), 4))
    stretch = place(pose.numpy(), camera, points, rotation, slope, corner)
    seen = face_id.flatten().numpy()
    cell = np.flatnonzero(seen >= 0).astype(np.int32)
    face, similarity = seen[cell].astype(np.int32), np.empty((len(cell), 3))
    clutter, gradient = evidence.clutter[item].numpy(), np.empty((len(points), 3))
    look_up(evidence.table[item].numpy(), faces, cell, face, len(cell), similarity)
    loss = score(
        kind, corner, faces, renderer.size[1], cell, face, len(cell), similarity, clutter, uncovered_loss(clutter),
        gradient,
    )  # fmt: skip
    out = np.empty(6)
    pose_gradient(pose.numpy(), camera, points, rotation, slope, stretch, corner, gradient, out)
    return loss, torch.from_numpy(out)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_equal_autograd_in_double_precision(make_scene, boxed, objective, monkeypatch) -> None:
    scene = make_scene(VIEWS, boxed=boxed)
    evidence = doubled(noisy(scene))
    renderer = FeatureRenderer(scene.mesh, scene.renderer.size)
    renderer.vertices = renderer.vertices.double()
    pose = torch.cat((scene.viewpoint + OFFSET, torch.tensor([[0.03, 0.4, -0.7]]).expand(3, 3)), 1).double()
    camera = Camera(*(values.double() for values in scene.camera.tensors()))
    uvz = project(renderer.vertices, rotation_from_viewpoint(pose[:, :3]), camera.placed(pose[:, 3:]))
    face_id = rasterize(uvz, renderer.faces, renderer.size, "torch")
    monkeypatch.setattr("nvsm_lightning.pose.likelihood.rasterize", lambda *_: face_id)
    by_hand = pose.clone().requires_grad_()
    expected = OBJECTIVES[objective](evidence, by_hand[:, None, :3], renderer, by_hand[:, None, 3:])[:, 0]
    expected.sum().backward()
    for item in range(3):
        found = compiled_gradient(evidence, item, pose[item], renderer, face_id[item], fused.KINDS[objective])
        assert found[0] == pytest.approx(float(expected[item].detach()), abs=1e-12)
        assert by_hand.grad[item].abs().amin() > 1e-6
        assert torch.allclose(found[1], by_hand.grad[item], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tabled", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_grid_scores_as_in_torch(make_scene, objective, tabled) -> None:
    scene = make_scene(VIEWS)
    evidence = noisy(scene)
    other = scene.camera.principal + torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.5, -0.5]])  # the last has its own camera
    camera = Camera(scene.camera.distance, scene.camera.focal, other, scene.camera.box)
    cells = (None, None) if tabled else (evidence.cells, evidence.features)
    evidence = Evidence(evidence.table, evidence.clutter, camera, *cells)
    grid = PoseSpace(12, [0.0, 25.0], [0.0, 20.0]).grid()
    expected = grid_losses_torch(evidence, grid, scene.renderer, objective, 4096)
    for _ in range(2):  # the second time from kept plans
        found = fused.grid_losses_fused(evidence, grid, scene.renderer, objective)
        assert found.dtype == expected.dtype and torch.allclose(found, expected, rtol=0, atol=2e-6)


def test_long_grids_are_scored_in_parts(scene, monkeypatch) -> None:
    grid = PoseSpace(12, [0.0, 25.0], [0.0]).grid()
    whole = fused.grid_losses_fused(scene.evidence, grid, scene.renderer, "likelihood")
    monkeypatch.setattr(fused, "POSES_A_PLAN", 7)
    assert torch.equal(fused.grid_losses_fused(scene.evidence, grid, scene.renderer, "likelihood"), whole)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_search_ends_where_it_ends_in_torch(make_scene, objective, boxed) -> None:
    scene = make_scene(VIEWS, boxed=boxed)
    start = torch.zeros(3, 2, 6)
    start[..., :3] = scene.viewpoint[:, None] + torch.stack((OFFSET, -OFFSET), 1)
    unit = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    arguments = scene.evidence, start, scene.renderer, unit, 20, 0.1, 0.3, objective
    (found, loss), (expected, expected_loss) = fused.refine_fused(*arguments), refine_torch(*arguments)
    # From one start both walk the same way but for rounding; where the loss is flat they may part by a little.
    assert torch.allclose(loss, expected_loss, atol=1e-3)
    assert torch.rad2deg(viewpoint_error(found[..., :3], expected[..., :3])).median() < 0.05
    one = (*arguments[:4], 1, *arguments[5:])
    (found, _), (expected, _) = fused.refine_fused(*one), refine_torch(*one)
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_picture_is_solved_alike_in_any_batch_and_any_number_of_threads(scene) -> None:
    whole = noisy(scene)
    space, settings = PoseSpace(12, [0.0, 20.0], [0.0]), SolverSettings(steps=5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = solve(whole, space, scene.renderer, settings)
        torch.set_num_threads(3)
        shared = solve(whole, space, scene.renderer, settings)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together.viewpoint, shared.viewpoint) and torch.equal(together.loss, shared.loss)
    for item in (0, 4):
        part = slice(item, item + 1)
        own = Evidence(None, whole.clutter[part], whole.camera[part], whole.cells[part], whole.features)
        alone = solve(own, space, scene.renderer, settings)
        assert torch.equal(alone.viewpoint[0], together.viewpoint[item])
        assert torch.equal(alone.scored.grid_loss[0], together.scored.grid_loss[item])


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_distance_and_place_are_found_where_they_are_free(scene, engine) -> None:
    two, truth = slice(0, 2), scene.viewpoint[:2]
    camera = scene.camera[two]
    moved = Camera(camera.distance * 1.08, camera.focal, camera.principal + torch.tensor([1.5, -1.0]), camera.box)
    evidence = Evidence(scene.evidence.table[two], scene.evidence.clutter[two], moved)
    renderer = FeatureRenderer(scene.mesh, scene.renderer.size, engine)
    space, settings = PoseSpace(12, [15.0], [0.0]), {"steps": 30, "modes": 1}
    estimate = solve(evidence, space, renderer, SolverSettings(free=["distance", "translation"], **settings))
    fixed = solve(evidence, space, renderer, SolverSettings(**settings))
    errors = [torch.rad2deg(viewpoint_error(each.viewpoint, truth)) for each in (estimate, fixed)]
    assert (estimate.loss < fixed.loss).all() and errors[0].amax() < 5 < errors[1].amin()
    assert torch.allclose(estimate.placement[:, 0], torch.tensor(-math.log(1.08)), atol=0.05)
    assert torch.allclose(estimate.placement[:, 1:], torch.tensor([-1.5, 1.0]), atol=0.5)
    assert fixed.placement is None


def test_leaving_cells_out_leaves_the_others_as_they_are(make_scene) -> None:
    scene = make_scene(VIEWS)
    evidence, size = noisy(scene), scene.renderer.size
    smaller, less = evidence.every(2, size)
    assert less == (8, 20) and evidence.every(1, size)[0] is evidence
    poses = (scene.viewpoint + OFFSET)[:, None]
    whole, mask = object_scores(evidence, poses, scene.renderer)
    part, part_mask = object_scores(smaller, poses, scene.renderer.resized(less))
    for values, picked in ((whole, part), (mask, part_mask)):
        assert torch.allclose(
            values.unflatten(2, size)[:, 0, ::2, ::2].flatten(1).float(), picked[:, 0].float(), atol=1e-5
        )
    settings, space = SolverSettings(stride=2), PoseSpace(36, [0.0, 15.0, 30.0], [0.0])
    found = solve(scene.evidence, space, scene.renderer, settings)
    assert torch.rad2deg(viewpoint_error(found.viewpoint, scene.viewpoint)).amax() < 2
    fewer = scene.evidence.every(2, size)[0]
    expected = grid_losses(fewer, space.grid(), scene.renderer.resized(less), settings.objective)
    assert torch.equal(found.scored.grid_loss, expected)
    papers = [
        start_losses(scene.evidence, space, scene.renderer, replace(settings, name="paper", stride=k)) for k in (1, 2)
    ]
    assert torch.equal(papers[0][1], papers[1][1])  # it looks at all
