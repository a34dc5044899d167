"""Single-anchor matching: both ways of synthesis, what may be matched, the numbers of the tables."""

import csv
import io
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from nvsm_lightning.bench.contenders import Contender
from nvsm_lightning.bench.matching import CHANCE, FLOOR, Matches, Matching, MatchingSpec, score_shifts
from nvsm_lightning.bench.matching_tables import markdown, match_table, summarise
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.meshes import category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.matching.matcher import Anchors
from nvsm_lightning.matching.synthesis import synthesise, vertex_features
from nvsm_lightning.methods.neural_mesh import NeuralMesh
from nvsm_lightning.render.renderer import FeatureRenderer

SIZE = (16, 36)
AZIMUTHS = [10.0, 40.0, 70.0, 100.0, 190.0, 250.0]


def radians(*degrees):
    return torch.tensor(degrees) * (math.pi / 180)


@pytest.fixture(scope="module")
def scene():
    """Feature maps of six views of a cuboid whose features vary over its surface."""
    mesh = category_cuboid("car", 400)
    renderer = FeatureRenderer(mesh, SIZE)
    generator = torch.Generator().manual_seed(0)
    waves = mesh.vertices @ torch.randn(3, 30, generator=generator) * 8 + 6.28 * torch.rand(30, generator=generator)
    texture = normalize(waves.sin(), dim=1)
    viewpoint = radians(*((azimuth, 10.0, 0.0) for azimuth in AZIMUTHS))
    camera = canonical_camera(*SIZE, pixels_per_unit=36.0).expanded(len(AZIMUTHS))
    drawn, mask = renderer.render(texture, project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera))
    ground = normalize(torch.randn(drawn.shape, generator=generator), dim=1)
    feature_map = normalize(torch.where(mask[:, None], drawn, ground), dim=1)
    anchor = Anchors(*vertex_features(feature_map[:1], viewpoint[:1], camera[:1], renderer), viewpoint[:1])
    return SimpleNamespace(mesh=mesh, renderer=renderer, camera=camera, map=feature_map, view=viewpoint, anchor=anchor)


def boxed(camera):
    """The same pictures of which only boxes are known, each another one."""
    box = torch.stack([torch.tensor([4.0 + k, 2.0, 32.0 - k, 13.0 + k / 4]) for k in range(len(camera))])
    return Camera(camera.distance, camera.focal, camera.principal, box)


@pytest.mark.parametrize("score", ["mean", "area"])
@pytest.mark.parametrize("box", [False, True])
def test_vertex_and_map_synthesis_give_the_same_number(scene, score, box):
    camera = boxed(scene.camera) if box else scene.camera
    poses = radians((10.0, 10.0, 0.0), (55.0, 20.0, 5.0), (180.0, 0.0, -10.0))
    by_vertex, by_map = (
        score_shifts(scene.map, camera, scene.anchor, poses, scene.renderer, way, score) for way in ("vertex", "map")
    )
    torch.testing.assert_close(by_vertex, by_map, atol=2e-6, rtol=0)
    assert by_vertex.std() > 0.01


def test_the_scores_are_those_of_the_paper_written_out(scene):
    poses = radians((40.0, 10.0, 0.0))
    drawn = synthesise(scene.anchor.vertex, poses, scene.camera[2:3], scene.renderer)[0]
    seen = synthesise(scene.anchor.visible[..., None].float(), poses, scene.camera[2:3], scene.renderer)[0, 0]
    total = sum(
        float(drawn[:, row, column] @ scene.map[2, :, row, column])
        for row in range(SIZE[0])
        for column in range(SIZE[1])
    )
    mean, area = (
        score_shifts(scene.map[2:3], scene.camera[2:3], scene.anchor, poses, scene.renderer, "vertex", score).item()
        for score in ("mean", "area")
    )
    assert mean == pytest.approx(total / (SIZE[0] * SIZE[1]), abs=1e-6)
    assert area == pytest.approx(total / float(seen.sum()), abs=1e-5)


@pytest.mark.parametrize(("shift", "view"), [(0, 0), (30, 1), (60, 2)])
def test_features_at_a_shifted_pose_match_the_picture_of_that_pose(scene, shift, view):
    poses = radians((10.0 + shift, 10.0, 0.0))
    scores = score_shifts(scene.map, scene.camera, scene.anchor, poses, scene.renderer)[:, 0]
    assert scores.argmax() == view


# ---------------------------------------------------------------------- the experiment


def record(number, azimuth, group):
    angles = None if azimuth is None else (math.radians(azimuth), math.radians(10), 0.0)
    return Record(None, f"{number:02d}.png", "car", "train", angles, group=group)


class SmallData(PoseData):
    """The first view is the labelled one; the others are the pool."""

    azimuth_only = False

    def __init__(self, groups="abcde", azimuths=AZIMUTHS[1:]):
        super().__init__("here")
        self.labelled = [record(0, AZIMUTHS[0], "a")]
        self.pool = [record(1 + n, *each) for n, each in enumerate(zip(azimuths, groups, strict=True))]


def matching(data=None, **settings):
    settings = {"anchors": 1, "azimuths_deg": [0.0, 30.0, 60.0], "elevations_deg": [], "thetas_deg": [], **settings}
    return Matching(NeuralMesh.__new__(NeuralMesh), data or SmallData(), MatchingSpec(**settings), torch.device("cpu"))


SCORES = torch.tensor([[[9.0, 5, 4, 3, 2], [9, 5, 4, 3, 2], [9, 1, 2, 3, 4]]])  # of pictures at 40 70 100 190 250
THIS = Contender("this", lambda: None)


def test_the_best_pictures_and_their_errors():
    found = matching(SmallData(groups="bcdef"), top=2).best(THIS, SCORES)
    assert found.index.tolist() == [[[0, 1], [0, 1], [0, 4]]]
    assert found.score.tolist() == [[[9, 5], [9, 5], [9, 4]]]
    difference = radians([30.0, 60.0], [0.0, 30.0], [30.0, 180.0])  # along a circle of elevation 10 degrees
    angle = 2 * torch.asin(torch.sin(difference / 2))
    torch.testing.assert_close(found.error[0], angle, atol=1e-3, rtol=0)


def test_pictures_of_the_anchors_own_object_are_left_out_unless_asked_for():
    assert matching(top=1).best(THIS, SCORES).index.flatten().tolist() == [1, 1, 4]
    assert matching(top=1, same_group=True).best(THIS, SCORES).index.flatten().tolist() == [0, 0, 0]


def test_one_group_for_all_tells_nothing():
    assert matching(SmallData(groups="aaaaa"), top=1).best(THIS, SCORES).index.flatten().tolist() == [0, 0, 0]


def test_pictures_without_a_known_pose_or_a_score_are_never_taken():
    data = SmallData(groups="bcdef", azimuths=[None, *AZIMUTHS[2:]])
    scores = SCORES.clone()
    scores[..., 1] = torch.nan  # damaged
    found = matching(data, top=5).best(THIS, scores)
    assert set(found.index[~found.error.isnan()].tolist()) == {2, 3, 4}
    assert (found.error.isnan().sum(-1) == 2).all()


def test_hidden_poses_do_not_choose_what_is_matched():
    shuffled = SmallData(groups="bcdef", azimuths=AZIMUTHS[:0:-1])
    first, second = matching(SmallData(groups="bcdef")).best(THIS, SCORES), matching(shuffled).best(THIS, SCORES)
    assert first.index.equal(second.index) and not first.error.equal(second.error)


def test_only_azimuths_are_compared_where_only_azimuths_are_labelled():
    data = SmallData(groups="bcdef")
    data.azimuth_only = True
    experiment = matching(data, top=1, elevations_deg=[15.0], thetas_deg=[20.0])
    assert [angle for angle, _ in experiment.shifts] == ["azimuth"] * 3
    found = experiment.best(THIS, SCORES)
    torch.testing.assert_close(found.error.flatten(), radians(30.0, 0.0, 30.0), atol=1e-5, rtol=0)


def test_elevation_and_theta_are_shifted_each_alone():
    experiment = matching(azimuths_deg=[0.0], elevations_deg=[15.0], thetas_deg=[-20.0])
    expected = radians((10.0, 10.0, 0.0), (10.0, 25.0, 0.0), (10.0, 10.0, -20.0))
    torch.testing.assert_close(experiment.poses[0], expected)


def test_reference_rows_bound_every_match():
    experiment = matching(SmallData(groups="bcdef"), top=1)
    floor, chance = experiment.references()
    assert (floor.name, chance.name) == (FLOOR, CHANCE)
    assert (floor.error <= experiment.best(THIS, SCORES).error + 1e-6).all()
    assert floor.error[0, 1, 0] < 1e-3  # a picture at 40 degrees
    torch.testing.assert_close(chance.error[..., :1], experiment.best(THIS, SCORES).error)


def test_errors_say_what_to_do():
    with pytest.raises(ConfigError, match=r"--data\.labels 3"):
        matching(anchors=3)
    with pytest.raises(DataError, match="none of its 5 pictures has one"):
        matching(SmallData(groups="bcdef", azimuths=[None] * 5))
    with pytest.raises(DataError, match="--same_group true"):
        matching(SmallData(groups="aaaab", azimuths=[*AZIMUTHS[1:5], None]))
    with pytest.raises(ConfigError, match="azimuth shift"):
        MatchingSpec(azimuths_deg=[])


# ---------------------------------------------------------------------- tables


def made_up(*errors_deg):
    """Matches of two anchors at shifts -30, 0, 30 with these errors."""
    error = radians(*errors_deg).view(2, 3, -1)
    return Matches("made up", 3, torch.zeros(error.shape, dtype=torch.long), error, error)


def test_summaries_count_errors_by_shift():
    found = made_up(10.0, 20.0, 1.0, 3.0, 40.0, 170.0, 31.0, 40.0, 5.0, 7.0, 60.0, math.nan)
    shifts = [("azimuth", -30.0), ("azimuth", 0.0), ("azimuth", 30.0)]
    left, middle, right = summarise(found, shifts)
    assert (left.shift, middle.shift, right.shift) == (-30, 0, 30)
    assert (left.median, middle.median, right.median) == pytest.approx((25.5, 4, 60), abs=1e-4)
    assert (right.matches, right.anchors, right.mean) == (3, 2, pytest.approx(90, abs=1e-4))
    assert (right.flip_180_rate, left.within_30) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert left.median_low == pytest.approx(15, abs=1e-3) and left.median_high == pytest.approx(35.5, abs=1e-3)
    zero, thirty = summarise(found, shifts, merged=True)
    assert (zero.shift, thirty.shift, thirty.matches) == (0, 30, 7)
    assert thirty.median == pytest.approx(40, abs=1e-4)
    assert "| azimuth shift | 0 | ±30 |" in markdown([zero, thirty])


def test_the_table_of_matches_has_a_line_for_each(scene):
    experiment = matching(SmallData(groups="bcdef"), top=2)
    rows = list(csv.DictReader(io.StringIO(match_table([experiment.best(THIS, SCORES)], experiment))))
    assert len(rows) == 6
    first = rows[2]
    assert (first["shift_deg"], first["anchor"], first["picture"], first["rank"]) == ("30", "00.png", "01.png", "1")
    assert float(first["azimuth_deg"]) == pytest.approx(float(first["true_azimuth_deg"])) == pytest.approx(40)
    assert float(first["error_deg"]) == pytest.approx(0, abs=0.05)
