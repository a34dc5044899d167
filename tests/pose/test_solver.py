import math

import pytest
import torch
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence, pose_loss
from nvsm_lightning.pose.solver import SolverSettings, distinct_modes, grid_losses, refine, solve
from nvsm_lightning.pose.space import PoseSpace, paper_grid
from nvsm_lightning.render.renderer import FeatureRenderer

SPACE = PoseSpace(36, [0.0, 15.0, 30.0], [0.0])


def error_deg(viewpoint: Tensor, scene) -> Tensor:
    return torch.rad2deg(viewpoint_error(viewpoint, scene.viewpoint))


@pytest.mark.parametrize(("name", "objective"), [("short", "likelihood"), ("paper", "likelihood"), ("short", "area")])
def test_poses_of_a_coloured_cuboid_are_found_within_two_degrees(scene, name, objective) -> None:
    estimate = solve(scene.evidence, SPACE, scene.renderer, SolverSettings(name=name, objective=objective))
    assert error_deg(estimate.viewpoint, scene).max() < 2, error_deg(estimate.viewpoint, scene)
    assert ((estimate.viewpoint[:, 0] >= 0) & (estimate.viewpoint[:, 0] < 2 * math.pi)).all()
    # The loss that is told is the loss of the pose that is told, and the start is a pose of the grid.
    told = OBJECTIVES[objective](scene.evidence, estimate.viewpoint[:, None], scene.renderer)[:, 0]
    assert torch.allclose(estimate.loss, told, atol=1e-5)
    grid = (SPACE if name == "short" else paper_grid()).grid()
    assert (estimate.start[:, None] == grid[None]).all(-1).any(1).all()


def test_poses_are_found_with_box_cameras(make_scene) -> None:
    scene = make_scene([(20, 10, 5), (250, 15, 0)], boxed=True)
    estimate = solve(scene.evidence, SPACE, scene.renderer, SolverSettings())
    assert error_deg(estimate.viewpoint, scene).max() < 3


def test_a_quarter_occluded_cuboid_is_still_found(scene) -> None:
    feature_map = scene.feature_map.clone()
    feature_map[..., 24:] = scene.clutter[None, :, None, None]
    table = torch.einsum("bchw,vc->bhwv", feature_map, scene.features).flatten(1, 2)
    clutter = torch.einsum("bchw,c->bhw", feature_map, scene.clutter).flatten(1)
    estimate = solve(Evidence(table, clutter, scene.camera), SPACE, scene.renderer, SolverSettings())
    assert error_deg(estimate.viewpoint, scene).max() < 10


def test_grid_losses_are_those_of_the_objective_asked_for(scene) -> None:
    grid = SPACE.grid()[::9]
    for name, objective in OBJECTIVES.items():
        expected = objective(scene.evidence, grid.expand(5, -1, -1), scene.renderer)
        assert torch.allclose(grid_losses(scene.evidence, grid, scene.renderer, name), expected, atol=1e-6)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_pictures_of_one_camera_get_the_losses_they_would_get_alone(make_scene, objective) -> None:
    """Plain torch draws the grid once for all of them; pictures of several cameras are drawn one by one."""
    scene = make_scene([(20, 10, 5), (250, 15, 0), (130, 0, -5)])
    renderer = FeatureRenderer(scene.mesh, scene.renderer.size, "torch")
    one, grid = scene.camera[:1], SPACE.grid()[::9]
    several = Camera(one.distance * torch.tensor([1.0, 1.1, 0.9]), *scene.camera.tensors()[1:])
    for camera in (one.expanded(3), several):
        evidence = Evidence(scene.evidence.table, scene.evidence.clutter, camera)
        expected = OBJECTIVES[objective](evidence, grid.expand(3, -1, -1), renderer)
        assert torch.equal(grid_losses(evidence, grid, renderer, objective), expected)
        assert torch.allclose(grid_losses(evidence, grid, renderer, objective, chunk=4), expected, atol=1e-6)


def test_grid_losses_do_not_depend_on_the_chunk(scene) -> None:
    grid = SPACE.grid()
    whole = grid_losses(scene.evidence, grid, scene.renderer)
    assert whole.shape == (5, len(grid)) and not whole.requires_grad
    for chunk in (1, 7, 50):
        assert torch.allclose(grid_losses(scene.evidence, grid, scene.renderer, chunk=chunk), whole, atol=1e-6)
    for pose in (0, 17, 107):
        own = pose_loss(scene.evidence, grid[pose].expand(5, 1, 3), scene.renderer)[:, 0]
        assert torch.allclose(whole[:, pose], own, atol=1e-6)


def test_distinct_modes_are_the_best_that_lie_apart() -> None:
    grid = PoseSpace(36, [0.0], [0.0]).grid()
    loss = torch.ones(2, 36)
    loss[0, [0, 1, 18, 9]] = torch.tensor([0.1, 0.2, 0.3, 0.4])  # 10 degrees is the neighbour of 0, not a mode
    loss[1, [35, 0, 3]] = torch.tensor([0.1, 0.2, 0.3])  # 0 is near 350 around the turn; 30 is 40 away
    modes = torch.rad2deg(distinct_modes(loss, grid, 3, math.radians(30)))[..., 0]
    assert torch.allclose(modes[0], torch.tensor([0.0, 180.0, 90.0]), atol=1e-3)
    assert torch.allclose(modes[1, :2], torch.tensor([350.0, 30.0]), atol=1e-3)


def test_modes_that_the_grid_cannot_hold_repeat_the_best() -> None:
    grid = PoseSpace(36, [0.0], [0.0]).grid()[10:12]
    modes = distinct_modes(torch.tensor([[0.5, 0.1]]), grid, 3, math.radians(30))
    assert torch.equal(modes, grid[1].expand(1, 3, 3))


def test_the_best_iterate_is_never_worse_than_the_start(scene) -> None:
    generator = torch.Generator().manual_seed(0)
    start = scene.viewpoint[:, None] + 0.3 * torch.randn(5, 4, 3, generator=generator)
    before = pose_loss(scene.evidence, start, scene.renderer)
    for rate in (0.05, 1.0):  # a far too large step must not harm
        best, loss = refine(scene.evidence, start, scene.renderer, torch.ones(3), 6, rate, 0.3)
        assert (loss <= before + 1e-6).all()
        assert torch.allclose(pose_loss(scene.evidence, best, scene.renderer), loss, atol=1e-6)


def test_no_step_returns_the_start(scene) -> None:
    start = scene.viewpoint[:, None] + 0.1
    best, loss = refine(scene.evidence, start, scene.renderer, torch.ones(3), 0, 0.1, 0.3)
    assert torch.equal(best, start) and torch.allclose(loss, pose_loss(scene.evidence, start, scene.renderer))


def test_angles_that_are_not_free_keep_their_grid_value(scene) -> None:
    space = PoseSpace(36, [10.0], [2.0], free=["azimuth"])
    estimate = solve(scene.evidence, space, scene.renderer, SolverSettings())
    fixed = torch.deg2rad(torch.tensor([10.0, 2.0]))
    assert torch.allclose(estimate.viewpoint[:, 1:], fixed.expand(5, 2), atol=1e-6)
    assert not torch.allclose(estimate.viewpoint[:, 0], estimate.start[:, 0])


def test_pictures_are_solved_independently(scene) -> None:
    together = solve(scene.evidence, SPACE, scene.renderer, SolverSettings(steps=6))
    whole = scene.evidence
    for item in range(2):
        part = slice(item, item + 1)
        alone = solve(
            Evidence(whole.table[part], whole.clutter[part], whole.camera[part]),
            SPACE, scene.renderer, SolverSettings(steps=6),
        )  # fmt: skip
        assert torch.allclose(alone.viewpoint[0], together.viewpoint[item], atol=1e-4)


def test_the_solver_works_in_inference_mode(scene) -> None:
    expected = solve(scene.evidence, SPACE, scene.renderer, SolverSettings(steps=4))
    with torch.inference_mode():
        estimate = solve(scene.evidence, SPACE, scene.renderer, SolverSettings(steps=4))
        assert torch.allclose(estimate.viewpoint, expected.viewpoint, atol=1e-5)


def test_autocast_does_not_blur_the_pose(scene) -> None:
    expected = solve(scene.evidence, SPACE, scene.renderer, SolverSettings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        estimate = solve(scene.evidence, SPACE, scene.renderer, SolverSettings())
    assert torch.allclose(estimate.viewpoint, expected.viewpoint, atol=1e-4)


def test_a_picture_that_no_pose_covers_keeps_its_best_start(scene) -> None:
    away = Mesh(scene.mesh.vertices + torch.tensor([0.0, 0.0, 50.0]), scene.mesh.faces)
    renderer = FeatureRenderer(away, scene.renderer.size)
    estimate = solve(scene.evidence, PoseSpace(4, [0.0], [0.0]), renderer, SolverSettings(steps=2))
    assert torch.isfinite(estimate.viewpoint).all() and torch.allclose(estimate.loss, torch.ones(5), atol=1e-5)


def test_a_null_decides_between_modes_and_moves_none(scene) -> None:
    settings = SolverSettings(steps=6)
    plain = solve(scene.evidence, SPACE, scene.renderer, settings)
    same = solve(scene.evidence, SPACE, scene.renderer, settings, torch.zeros(len(SPACE.grid())))
    assert torch.equal(plain.viewpoint, same.viewpoint) and torch.equal(plain.loss, same.loss)
    grid, turn = SPACE.grid(), torch.deg2rad(torch.tensor(60.0))
    for number, truth in enumerate(scene.viewpoint):
        null = torch.where(viewpoint_error(grid, truth) < turn, -1.0, 0.25)  # what is there loses little by itself
        found = solve(scene.evidence, SPACE, scene.renderer, settings, null)
        assert viewpoint_error(found.viewpoint[number], truth) > turn
        raw = pose_loss(scene.evidence, found.viewpoint[:, None], scene.renderer)[:, 0]
        assert raw[number] - 0.25 == pytest.approx(float(found.loss[number]), abs=1e-4)


def test_unknown_solvers_are_named() -> None:
    with pytest.raises(ConfigError, match="Unknown solver 'newton'"):
        SolverSettings(name="newton")
    with pytest.raises(ConfigError, match=r"Unknown objective 'sum'.*'area', 'likelihood'"):
        SolverSettings(objective="sum")


def test_a_centre_that_is_off_is_found_sideways_and_turns_nothing(make_scene) -> None:
    """The object stands 1.5 cells beside where its camera says: held there, it is turned; freed, it is not."""
    scene, space = make_scene([(75, 5, 0), (100, 5, 0), (255, 5, 0)]), PoseSpace(36, [5.0], [0.0])
    distance, focal, principal, box, frame = scene.camera.tensors()
    camera = Camera(distance, focal, principal + torch.tensor([1.5, 0.0]), box, frame)
    evidence = Evidence(scene.evidence.table, scene.evidence.clutter, camera)
    error = {}
    for free in ([], ["sideways"]):
        estimate = solve(evidence, space, scene.renderer, SolverSettings(objective="area", steps=40, free=free))
        error[len(free)] = error_deg(estimate.viewpoint, scene)
    assert (error[1] < 3).all() and error[0].mean() > 2 * error[1].mean()
    assert torch.allclose(estimate.placement[:, 1], torch.tensor(-1.5), atol=0.5)
    assert (estimate.placement[:, [0, 2]] == 0).all()
