import math

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, rotation_from_viewpoint, viewpoint_error
from nvsm_lightning.matching.matcher import (
    Anchors,
    Choice,
    MatchSettings,
    anchor_losses,
    calibrated_losses,
    choose,
    mirrored_poses,
    refined_modes,
)
from nvsm_lightning.matching.synthesis import synthesise, vertex_features
from nvsm_lightning.pose.likelihood import OBJECTIVES, Evidence, area_loss, gather_evidence
from nvsm_lightning.pose.solver import grid_losses
from nvsm_lightning.pose.space import PoseSpace

SPACE = PoseSpace(24, [0.0, 10.0], [0.0])
RIVAL = math.radians(30)


def evidence_of(pictures):
    return gather_evidence(pictures.feature_map, pictures.texture, pictures.clutter, pictures.camera)


def anchors_of(pictures, chosen: list[int]) -> Anchors:
    vertex, visible = vertex_features(pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    return Anchors(vertex[chosen], visible[chosen], pictures.viewpoint[chosen])


def bank_losses(pictures, evidence=None, score: str = "area"):
    evidence = evidence_of(pictures) if evidence is None else evidence
    return grid_losses(evidence, SPACE.grid(), pictures.renderer, score)


def losses_of(pictures, anchors: Anchors, ring_deg: float = 180.0, mean: bool = False):
    return anchor_losses(
        pictures.feature_map, pictures.clutter, pictures.camera, anchors, SPACE.grid(), math.radians(ring_deg),
        pictures.renderer, mean,
    )  # fmt: skip


def match(evidence, losses, renderer, score: str, steps: int, **settings) -> Choice:
    modes = refined_modes(evidence, losses, SPACE, renderer, score, steps)
    return choose(losses, modes, SPACE.grid(), MatchSettings(**settings), RIVAL)


def test_unknown_sources_are_named() -> None:
    with pytest.raises(ConfigError, match="Unknown source 'both'"):
        MatchSettings(source="both")
    with pytest.raises(ConfigError, match="Unknown calibration 'mean'"):
        MatchSettings(calibration="mean")
    with pytest.raises(ConfigError, match=r"Unknown score 'sum'.*'area', 'likelihood'"):
        MatchSettings(score="sum")


def test_boxes_are_scored_by_likelihood_and_cameras_by_area(pictures) -> None:
    boxes = Camera(*pictures.camera.tensors()[:3], torch.tensor([[2.0, 3.0, 30.0, 12.0]]).expand(8, 4))
    assert MatchSettings().objective(pictures.camera) == "area" and MatchSettings().objective(boxes) == "likelihood"
    for score in ("area", "likelihood"):
        assert {MatchSettings(score=score).objective(camera) for camera in (boxes, pictures.camera)} == {score}


def test_anchor_losses_equal_the_slow_twin(pictures) -> None:
    anchors, grid = anchors_of(pictures, [0, 3]), SPACE.grid()
    losses = losses_of(pictures, anchors, ring_deg=60)
    assert losses.shape == (8, 48)
    ground = torch.einsum("bchw,c->bhw", pictures.feature_map, pictures.clutter)
    for pose in range(0, 48, 5):
        best = torch.full((8,), torch.inf)
        for vertex, visible, viewpoint in zip(anchors.vertex, anchors.visible, anchors.viewpoint, strict=True):
            if viewpoint_error(grid[pose], viewpoint) > math.radians(60):
                continue
            at = grid[pose].expand(8, 3)
            drawn = synthesise(vertex, at, pictures.camera, pictures.renderer)
            seen = synthesise(visible.float()[:, None], at, pictures.camera, pictures.renderer)[:, 0]
            difference = (drawn * pictures.feature_map).sum(1) - seen * ground
            best = torch.minimum(best, 1 - difference.sum((1, 2)) / seen.sum((1, 2)))
        assert torch.allclose(losses[:, pose], best, atol=1e-5), pose


def test_an_anchor_that_sees_everything_scores_by_area(pictures) -> None:
    everything = torch.ones(1, len(pictures.texture), dtype=torch.bool)
    anchors = Anchors(pictures.texture[None], everything, pictures.viewpoint[:1])
    expected = area_loss(evidence_of(pictures), SPACE.grid().expand(8, -1, -1), pictures.renderer)
    assert torch.allclose(losses_of(pictures, anchors), expected, atol=1e-5)


def test_zeros_of_hidden_vertices_neither_help_nor_hurt(pictures) -> None:
    """Where what is seen fits every cell equally, the score does not tell how much of the mesh the anchor has seen."""
    flat = torch.zeros_like(pictures.feature_map)
    flat[:, 0], flat[:, 1] = 0.8, 0.6
    clutter = torch.eye(flat.shape[1])[1]
    for chosen in ([0], [2], [5]):
        anchors = anchors_of(pictures, chosen)
        vertex = torch.zeros_like(anchors.vertex)
        vertex[..., 0] = anchors.visible.float()
        known = Anchors(vertex, anchors.visible, anchors.viewpoint)
        losses = anchor_losses(flat, clutter, pictures.camera, known, SPACE.grid(), math.radians(60), pictures.renderer)
        reached = losses.isfinite()
        assert reached.any() and torch.allclose(losses[reached], torch.tensor(1 - (0.8 - 0.6)), atol=1e-5)


def test_poses_that_no_anchor_reaches_are_infinite_and_the_best_anchor_counts(pictures) -> None:
    grid, ring = SPACE.grid(), 50.0
    one, other = (losses_of(pictures, anchors_of(pictures, [k]), ring) for k in (0, 4))
    both = losses_of(pictures, anchors_of(pictures, [0, 4]), ring)
    reached = viewpoint_error(grid, pictures.viewpoint[0]) <= math.radians(ring)
    assert torch.equal(one.isfinite(), reached.expand(8, -1)) and 0 < reached.sum() < 40
    assert torch.equal(both, torch.minimum(one, other)) and both.isinf().any()


@pytest.mark.parametrize("score", ["area", "likelihood"])
@pytest.mark.parametrize("source", ["bank", "anchors"])
def test_matching_finds_the_poses_of_pictures(pictures, make_pictures, source, score) -> None:
    unlabelled = make_pictures(pictures.viewpoint + torch.deg2rad(torch.tensor([17.0, 3.0, 0.0])))
    evidence = evidence_of(unlabelled)
    if source == "bank":
        losses = bank_losses(unlabelled, score=score)
    else:
        losses = losses_of(unlabelled, anchors_of(pictures, list(range(8))), 45)
    found = match(evidence, losses, pictures.renderer, score, 12)
    error = torch.rad2deg(viewpoint_error(found.viewpoint, unlabelled.viewpoint))
    assert error.max() < 4, error
    azimuth = found.viewpoint[:, 0]
    assert (found.margin > 0).all() and ((azimuth >= 0) & (azimuth < 2 * math.pi)).all()


def test_score_and_margin_come_from_the_grid(pictures) -> None:
    losses, grid = bank_losses(pictures), SPACE.grid()
    found = match(evidence_of(pictures), losses, pictures.renderer, "area", 0)
    for item in range(8):
        best = int(losses[item].argmin())
        rivals = [
            float(loss)
            for loss, pose in zip(losses[item], grid, strict=True)
            if viewpoint_error(pose, grid[best]) > RIVAL
        ]
        assert torch.equal(found.viewpoint[item], grid[best]) and int(found.best[item]) == best
        assert float(found.score[item]) == pytest.approx(1 - float(losses[item, best]), abs=1e-6)
        assert float(found.margin[item]) == pytest.approx(min(rivals) - float(losses[item, best]), abs=1e-6)
    refined = match(evidence_of(pictures), losses, pictures.renderer, "area", 6)
    assert torch.equal(refined.score, found.score) and torch.equal(refined.margin, found.margin)
    assert not torch.equal(refined.viewpoint, found.viewpoint)


@pytest.mark.parametrize("score", ["area", "likelihood"])
def test_refined_matches_are_no_worse_than_their_start(pictures, score) -> None:
    evidence, losses = evidence_of(pictures), bank_losses(pictures, score=score)
    found = match(evidence, losses, pictures.renderer, score, 12)
    refined = OBJECTIVES[score](evidence, found.viewpoint[:, None], pictures.renderer)[:, 0]
    assert (refined <= losses.amin(1) + 1e-6).all()


@pytest.mark.parametrize("tabled", [False, True])
def test_a_picture_alone_is_refined_to_the_same_bits(pictures, tabled) -> None:
    """Processes have batches of other sizes, and rounding that differs would grow from round to round."""
    losses, whole = bank_losses(pictures), evidence_of(pictures)

    def part(of: slice) -> Evidence:
        rest = (None, None) if tabled else (whole.cells[of], whole.features)
        return Evidence(whole.table[of] if tabled else None, whole.clutter[of], whole.camera[of], *rest)

    together = refined_modes(part(slice(None)), losses, SPACE, pictures.renderer, "area", 12)
    alone = refined_modes(part(slice(2, 3)), losses[2:3], SPACE, pictures.renderer, "area", 12)
    assert torch.equal(alone, together[2:3])


def test_pictures_without_rival_or_without_any_pose_have_no_margin(pictures) -> None:
    evidence, grid = evidence_of(pictures), SPACE.grid()
    losses = torch.full((8, len(grid)), torch.inf)
    losses[:4, 5] = 0.3
    found = match(evidence, losses, pictures.renderer, "area", 0)
    assert torch.equal(found.viewpoint[:4], grid[5].expand(4, 3)) and (found.margin == 0).all()
    assert found.score[:4].isfinite().all() and not found.score[4:].isfinite().any()  # selection drops the others


def test_skipped_pictures_stay_unknown_and_change_nothing(pictures) -> None:
    losses = bank_losses(pictures)
    modes = refined_modes(evidence_of(pictures), losses, SPACE, pictures.renderer, "area", 0)
    settings = MatchSettings(calibration="zscore")
    whole = choose(losses, modes, SPACE.grid(), settings, RIVAL)
    gap = torch.full((1, len(SPACE.grid())), torch.nan)
    some = choose(torch.cat((gap, losses)), torch.cat((gap[:, :6].view(1, 2, 3), modes)), SPACE.grid(), settings, RIVAL)
    assert some.viewpoint[0].isnan().all() and some.score[0].isnan() and some.margin[0].isnan()
    assert torch.equal(some.viewpoint[1:], whole.viewpoint) and torch.equal(some.margin[1:], whole.margin)


def test_the_mode_of_the_calibrated_choice_is_taken(pictures) -> None:
    """Calibration turns the first picture round: its pose is then the refined twin, not the refined best pose."""
    losses = bank_losses(pictures)
    modes = refined_modes(evidence_of(pictures), losses, SPACE, pictures.renderer, "area", 0)
    grid = SPACE.grid()
    twin = int(viewpoint_error(grid, modes[0, 1]).argmin())
    turned = losses.clone()
    turned[0, twin] = losses[0].min() - 0.1
    found = choose(turned, modes, grid, MatchSettings(), RIVAL)
    assert torch.equal(found.viewpoint[0], modes[0, 1]) and torch.equal(found.viewpoint[1:], modes[1:, 0])


def test_only_the_first_rounds_are_calibrated(pictures) -> None:
    losses = bank_losses(pictures)
    modes = refined_modes(evidence_of(pictures), losses, SPACE, pictures.renderer, "area", 0)
    plain = choose(losses, modes, SPACE.grid(), MatchSettings(), RIVAL)
    settings = MatchSettings(calibration="zscore", calibration_rounds=2)
    same = [torch.equal(choose(losses, modes, SPACE.grid(), settings, RIVAL, r).margin, plain.margin) for r in range(4)]
    assert same == [False, False, True, True]


def test_the_mean_over_anchors_lies_between_the_best_and_the_worst(pictures) -> None:
    one, other = (losses_of(pictures, anchors_of(pictures, [k]), 50) for k in (0, 1))
    mean = losses_of(pictures, anchors_of(pictures, [0, 1]), 50, mean=True)
    both = one.isfinite() & other.isfinite()
    assert both.any() and torch.allclose(mean[both], (one + other)[both] / 2, atol=1e-6)
    assert torch.equal(mean.isfinite(), one.isfinite() | other.isfinite())


def test_mirrored_poses_are_the_poses_of_mirrored_pictures() -> None:
    grid, twin = SPACE.grid(), mirrored_poses(SPACE.grid())
    assert torch.equal(twin[twin], torch.arange(len(grid)))
    assert viewpoint_error(mirror_viewpoint(grid), grid[twin]).max() < 1e-3


def test_a_front_back_symmetric_object_has_no_margin(pictures) -> None:
    """The margin tells front from back: it vanishes for an object whose two ends look the same."""
    flipped = pictures.mesh.vertices * torch.tensor([-1.0, -1.0, 1.0])
    twin = torch.cdist(flipped, pictures.mesh.vertices).argmin(1)
    symmetric = torch.nn.functional.normalize(pictures.texture + pictures.texture[twin], dim=1)
    uvz = project(pictures.mesh.vertices, rotation_from_viewpoint(pictures.viewpoint), pictures.camera)
    drawn, mask = pictures.renderer.render(symmetric, uvz)
    ground = pictures.clutter[None, :, None, None].expand_as(drawn)
    feature_map = torch.nn.functional.normalize(torch.where(mask[:, None], drawn, ground), dim=1)
    evidence = gather_evidence(feature_map, symmetric, pictures.clutter, pictures.camera)
    losses = bank_losses(pictures, evidence)
    found = match(evidence, losses, pictures.renderer, "area", 0)
    plain = match(evidence_of(pictures), bank_losses(pictures), pictures.renderer, "area", 0)
    assert found.margin.mean() < 0.35 * plain.margin.mean(), (found.margin, plain.margin)


def test_later_rounds_have_a_calibration_of_their_own() -> None:
    settings = MatchSettings(calibration="robust", calibration_rounds=2, later_calibration="balanced")
    assert [settings.calibration_in(round) for round in range(4)] == ["robust", "robust", "balanced", "balanced"]
    assert MatchSettings(calibration="robust").calibration_in(1) == "none"
    with pytest.raises(ConfigError, match="calibration"):
        MatchSettings(later_calibration="something")


def modes_of(pictures, losses):
    return refined_modes(evidence_of(pictures), losses, SPACE, pictures.renderer, "area", 0)


def test_the_margin_is_of_calibrated_losses_and_the_score_is_not(pictures) -> None:
    losses, grid = bank_losses(pictures), SPACE.grid()
    settings = MatchSettings(calibration="zscore")
    found = choose(losses, modes_of(pictures, losses), grid, settings, RIVAL)
    apart = viewpoint_error(grid[:, None], grid[None])
    calibrated = calibrated_losses(losses, apart, settings, 0)
    assert not torch.allclose(calibrated, losses, atol=0.1)
    for item in range(8):
        best = int(calibrated[item].argmin())
        rivals = calibrated[item][apart[best] > RIVAL]
        assert float(found.margin[item]) == pytest.approx(float(rivals.min() - calibrated[item, best]), abs=1e-5)
        assert float(found.score[item]) == pytest.approx(1 - float(losses[item, best]), abs=1e-6)


def test_a_pose_far_from_both_refined_ones_is_that_of_the_grid(pictures) -> None:
    """Calibration may choose a third pose."""
    losses, grid = bank_losses(pictures), SPACE.grid()
    modes = modes_of(pictures, losses)
    third = int(viewpoint_error(grid[:, None], modes[0][None]).amin(1).argmax())
    losses[0, third] = losses[0].min() - 0.1
    found = choose(losses, modes, grid, MatchSettings(), RIVAL)
    assert torch.equal(found.viewpoint[0], grid[third]) and int(found.best[0]) == third


def test_one_picture_without_a_box_has_all_scored_by_area(pictures) -> None:
    box = pictures.camera.box.clone()
    box[0] = torch.tensor([2.0, 3.0, 30.0, 12.0])
    assert MatchSettings().objective(Camera(*pictures.camera.tensors()[:3], box)) == "area"
