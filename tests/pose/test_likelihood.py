import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from nvsm_lightning.features.reading import similarity_table
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.pose.likelihood import (
    Evidence,
    area_loss,
    gather_evidence,
    object_scores,
    occlusion_map,
    pose_loss,
)
from nvsm_lightning.render.fragments import fragments
from nvsm_lightning.render.renderer import FeatureRenderer, rasterize


def double(scene, channels: int = 0) -> tuple[Evidence, FeatureRenderer, Tensor, Tensor, Tensor]:
    """Evidence, renderer, vertex features, feature map and clutter feature of a scene, all in float64."""
    renderer = FeatureRenderer(
        replace(scene.mesh, vertices=scene.mesh.vertices.double()), scene.renderer.size, scene.renderer.engine
    )
    camera = Camera(*(tensor.double() for tensor in scene.camera.tensors()))
    features, feature_map, clutter = scene.features.double(), scene.feature_map.double(), scene.clutter.double()
    if channels:
        generator = torch.Generator().manual_seed(0)
        shapes = ((len(features), channels), (len(feature_map), channels, *feature_map.shape[2:]), (1, channels))
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        features, feature_map, clutter = (torch.nn.functional.normalize(values, dim=1) for values in drawn)
        clutter = clutter[0]
    cells = feature_map.flatten(2).transpose(1, 2)
    return (
        Evidence(similarity_table(cells, features), cells @ clutter, camera),
        renderer,
        features,
        feature_map,
        clutter,
    )


def dense_loss(renderer, features, feature_map, clutter, camera, viewpoint: Tensor) -> Tensor:
    """NeMo's loss as it is written: render the feature map, then compare."""
    rendered, _ = renderer.render(features, project(renderer.vertices, rotation_from_viewpoint(viewpoint), camera))
    score = (rendered * feature_map).sum(1)
    ground = torch.einsum("bchw,c->bhw", feature_map, clutter)
    return 1 - (torch.maximum(score, ground).mean((1, 2)) - ground.mean((1, 2)))


@pytest.mark.parametrize("boxed", [False, True])
def test_the_table_gives_loss_and_gradient_of_the_rendered_map(make_scene, boxed) -> None:
    scene = make_scene([(20, 10, 5), (100, 25, -8), (250, 15, 10)], boxed=boxed)
    evidence, renderer, features, feature_map, clutter = double(scene, channels=128)
    start = scene.viewpoint.double() + torch.tensor([0.1, -0.05, 0.03])
    by_table, by_map = start.clone().requires_grad_(), start.clone().requires_grad_()
    loss = pose_loss(evidence, by_table[:, None], renderer)[:, 0]
    expected = dense_loss(renderer, features, feature_map, clutter, evidence.camera, by_map)
    loss.sum().backward()
    expected.sum().backward()
    assert torch.allclose(loss, expected, rtol=0, atol=1e-9)
    assert by_map.grad.abs().amin() > 1e-5
    assert torch.allclose(by_table.grad, by_map.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("boxed", [False, True])
def test_the_gradient_equals_finite_differences_at_frozen_faces(make_scene, boxed, monkeypatch) -> None:
    scene = make_scene([(20, 10, 5), (250, 15, 10)], boxed=boxed)
    evidence, renderer, *_ = double(scene)
    start = scene.viewpoint.double() + torch.tensor([0.05, -0.04, 0.03])
    uvz = project(renderer.vertices, rotation_from_viewpoint(start), evidence.camera)
    faces_seen = rasterize(uvz, renderer.faces, renderer.size)
    # The outline gives no gradient (hard visibility), so the faces are held while the pose moves.
    monkeypatch.setattr("nvsm_lightning.pose.likelihood.rasterize", lambda uvz, *_: faces_seen)
    viewpoint = start.clone().requires_grad_()
    pose_loss(evidence, viewpoint[:, None], renderer).sum().backward()
    step = 1e-6
    for angle in range(3):
        moved = torch.zeros(3, dtype=torch.float64)
        moved[angle] = step
        with torch.no_grad():
            up, down = (pose_loss(evidence, (start + sign * moved)[:, None], renderer)[:, 0] for sign in (1, -1))
        assert torch.allclose((up - down) / (2 * step), viewpoint.grad[:, angle], rtol=1e-5, atol=1e-8)
    assert viewpoint.grad.abs().amax() > 1e-3


def test_poses_of_a_picture_are_scored_with_its_own_map_and_camera(scene) -> None:
    poses = torch.stack([scene.viewpoint.roll(shift, 0) for shift in range(3)], 1)  # picture b, pose p: view b - p
    together = pose_loss(scene.evidence, poses, scene.renderer)
    whole = scene.evidence
    for item in range(len(poses)):
        own = Evidence(whole.table[item : item + 1], whole.clutter[item : item + 1], whole.camera[item : item + 1])
        for pose in range(3):
            alone = pose_loss(own, poses[item : item + 1, pose : pose + 1], scene.renderer)
            assert together[item, pose] == pytest.approx(float(alone), abs=1e-6)
    assert (together.argmin(1) == 0).all()


def test_the_loss_of_the_formula_cell_by_cell(scene) -> None:
    evidence, picture = scene.evidence, 1
    viewpoint = scene.viewpoint + torch.tensor([0.1, 0.0, 0.0])
    uvz = project(scene.mesh.vertices, rotation_from_viewpoint(viewpoint), scene.camera)
    seen = fragments(uvz, scene.mesh.faces, rasterize(uvz, scene.mesh.faces, scene.renderer.size))
    height, width = scene.renderer.size
    total = 0.0
    for row in range(height):
        for column in range(width):
            observed = scene.feature_map[picture, :, row, column]
            ground = float(observed @ scene.clutter)
            weight, vertex = seen.weight[picture, row, column], seen.vertex[picture, row, column]
            score = float(observed @ (weight[:, None] * scene.features[vertex]).sum(0))
            total += max(score, ground) - ground
    loss = pose_loss(evidence, viewpoint[:, None], scene.renderer)[picture, 0]
    assert float(loss) == pytest.approx(1 - total / (height * width), abs=1e-5)


def test_the_area_score_does_not_reward_a_larger_silhouette(scene) -> None:
    """With similarity 1 in every cell all poses score the same, whatever they cover."""
    evidence = scene.evidence
    flat = Evidence(torch.ones_like(evidence.table), torch.full_like(evidence.clutter, 0.25), evidence.camera)
    poses = torch.deg2rad(torch.tensor([(0.0, 0.0, 0.0), (90.0, 0.0, 0.0)])).expand(5, 2, 3)
    assert torch.allclose(area_loss(flat, poses, scene.renderer), torch.full((5, 2), 0.25), atol=1e-5)
    score, mask = object_scores(flat, poses, scene.renderer)
    assert (mask.sum(-1)[:, 1] > 1.5 * mask.sum(-1)[:, 0]).all() and (score[~mask] == 0).all()


def test_the_area_loss_is_the_mean_ratio_over_covered_cells(scene) -> None:
    poses = scene.viewpoint[:, None] + torch.tensor([0.2, 0.0, 0.05])
    score, mask = object_scores(scene.evidence, poses, scene.renderer)
    for item in range(5):
        cells = mask[item, 0].nonzero()[:, 0].tolist()
        ratios = [float(score[item, 0, cell] - scene.evidence.clutter[item, cell]) for cell in cells]
        loss = area_loss(scene.evidence, poses, scene.renderer)[item, 0]
        assert float(loss) == pytest.approx(1 - sum(ratios) / len(ratios), abs=1e-5)


def test_the_occlusion_map_marks_an_occluded_patch(scene) -> None:
    feature_map = scene.feature_map.clone()
    _, mask = object_scores(scene.evidence, scene.viewpoint[:, None], scene.renderer)
    covered = mask[:, 0].view(-1, *scene.renderer.size)
    middle = torch.zeros_like(covered)
    middle[:, 5:11, 17:22] = True  # a thing that looks like the background in front of the car
    feature_map = torch.where(middle[:, None], scene.clutter[None, :, None, None], feature_map)
    evidence = gather_evidence(feature_map, scene.features, scene.clutter, scene.camera)
    labels = occlusion_map(evidence, scene.viewpoint, scene.renderer)
    assert (middle & covered).flatten(1).any(1).all()
    expected = torch.where(covered, torch.where(middle, 2.0, 1.0), 0.0)
    assert torch.equal(labels, expected)


def test_what_looks_like_neither_object_nor_clutter_is_hidden_below_a_similarity(scene) -> None:
    _, mask = object_scores(scene.evidence, scene.viewpoint[:, None], scene.renderer)
    covered = mask[:, 0].view(-1, *scene.renderer.size)
    middle = torch.zeros_like(covered)
    middle[:, 5:11, 17:22] = True
    # a feature a little like the object and against the clutter: the paper's rule takes it for the object
    mean = nnf.normalize(scene.features.mean(0), dim=0)
    strange = nnf.normalize(0.2 * mean - scene.clutter, dim=0)
    feature_map = torch.where(middle[:, None], strange[None, :, None, None], scene.feature_map)
    evidence = gather_evidence(feature_map, scene.features, scene.clutter, scene.camera)
    papers = occlusion_map(evidence, scene.viewpoint, scene.renderer)
    ours = occlusion_map(evidence, scene.viewpoint, scene.renderer, 0.45)
    assert (papers[middle & covered] == 2).float().mean() < 0.5
    assert (ours[middle & covered] == 2).all()
    assert torch.equal(ours[~middle], papers[~middle])


def test_tables_are_float32_and_poses_exact_under_autocast(scene) -> None:
    plain = scene.evidence
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evidence = gather_evidence(scene.feature_map, scene.features, scene.clutter, scene.camera)
        loss = pose_loss(evidence, scene.viewpoint[:, None], scene.renderer)
    assert torch.equal(evidence.table, plain.table) and torch.equal(evidence.clutter, plain.clutter)
    # A projection rounded to bf16 would move vertices by a twentieth of a cell.
    assert torch.allclose(loss, pose_loss(plain, scene.viewpoint[:, None], scene.renderer), atol=1e-6)


def test_evidence_of_inference_mode_is_copied_only_then(scene) -> None:
    with torch.inference_mode():
        made = gather_evidence(scene.feature_map, scene.features, scene.clutter, scene.camera)
    plain = scene.evidence
    assert plain.usable() is plain and made.clutter.is_inference()
    assert torch.equal(made.usable().table, made.table) and math.isfinite(float(made.usable().table.sum()))
