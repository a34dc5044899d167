"""The bench of speed on a few small pictures: that it measures what it says, not how fast anything is."""

import json
import math

import pytest
import torch

from nvsm_lightning.bench import speed, speed_dense, speed_pictures, speed_pose, speed_raster, speed_rows, speed_timing
from nvsm_lightning.bench.speed_rows import Row
from nvsm_lightning.bench.speed_tables import number
from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.render.engines import rasterize

ROW = Row("solve, fast", "8 pictures", 2.0, "ms/picture", "solve, slow", 3.0, (1.5, 2.5), "a|b")


@pytest.fixture(scope="module")
def pictures() -> speed_pictures.Pictures:
    return speed_pictures.make_pictures(3)


def test_pictures_show_the_mesh_at_their_pose(pictures) -> None:
    assert pictures.maps.shape == (3, 128, 32, 84) and len(pictures.mesh.vertices) == 1026
    assert torch.allclose(pictures.maps.norm(dim=1), torch.ones(3, 32, 84), atol=1e-4)
    again = speed_pictures.make_pictures(3)
    assert torch.equal(again.maps, pictures.maps) and torch.equal(again.viewpoint, pictures.viewpoint)
    right = [speed_dense.dense_loss(pictures, item, pictures.viewpoint[item : item + 1]) for item in range(3)]
    turned = pictures.viewpoint + torch.tensor([1.0, 0.0, 0.0])
    wrong = [speed_dense.dense_loss(pictures, item, turned[item : item + 1]) for item in range(3)]
    assert (torch.cat(right) < torch.cat(wrong) - 0.02).all()


def test_every_way_finds_the_poses_and_the_published_loop_agrees(pictures) -> None:
    for name in (speed_pose.FAST, next(iter(speed_pose.WAYS))):
        found = speed_pose.poses(pictures, speed_pose.WAYS[name], 3)
        assert torch.rad2deg(viewpoint_error(found, pictures.viewpoint)).median() < 5
    starts = speed_dense.rendered_starts(pictures)
    dense = speed_dense.dense_solve(pictures, 1, starts, steps=20)
    space = speed_pose.WAYS[speed_pose.PAPER]
    fused = speed_pose.poses(pictures, space, 3)[1]
    assert torch.rad2deg(viewpoint_error(dense, fused)) < 10  # 20 of 300 steps: the same hill, not its top


def test_one_and_two_threads_are_timed_and_put_back(pictures, monkeypatch) -> None:
    monkeypatch.setattr(speed_pose, "PICTURES", 3)
    monkeypatch.setattr(speed_pose, "THREADED", 2)
    before = torch.get_num_threads()
    one, two = speed_pose._threads(pictures, "3 pictures", 0.0)
    assert torch.get_num_threads() == before and two.baseline == one.name
    assert two.ratio == pytest.approx(one.value / two.value) and 0 < two.value < math.inf


def test_brute_force_and_embree_see_the_faces_of_the_engines() -> None:
    pytest.importorskip("embreex")
    mesh, viewpoint, uvz = speed_raster.views(1)
    drawn = rasterize(uvz, mesh.faces, speed_raster.SIZE, "torch")[0]
    exact = speed_raster.brute_force(uvz[0], mesh.faces)
    assert (drawn == exact)[(drawn >= 0) | (exact >= 0)].double().mean() > 0.9999
    cast = torch.from_numpy(speed_raster.embree(mesh, viewpoint)()[0]).view(speed_raster.SIZE)
    assert (cast == drawn).double().mean() > 0.999


def test_rivals_are_measured_in_turns() -> None:
    calls: list[str] = []
    times = speed_timing.in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.0)
    assert calls == ["a", "b"] * (1 + speed_timing.LEAST) and times["a"].rounds == speed_timing.LEAST
    assert 0 <= times["a"].low <= times["a"].median <= times["a"].high
    slow = speed_timing.Times(0.4, 0.2, 0.8, 1.0, 3)
    row = speed_timing.per_item("new", "", slow, 4, against=Row("old", "", 300.0, "ms/picture"))
    assert (row.value, row.spread, row.ratio, row.baseline) == (100.0, (50.0, 200.0), 3.0, "old")


def test_tables_and_plot_are_written(tmp_path, monkeypatch, capsys) -> None:
    missing = Row("solve, other", "8 pictures", math.nan, "ms/picture", note="not installed")
    budgets = []
    monkeypatch.setattr(speed, "measurers", lambda: {"pose": lambda budget: budgets.append(budget) or [ROW, missing]})
    threads = torch.get_num_threads()
    try:
        assert speed.run(["--out", str(tmp_path / "out"), "--budget", "7"], lambda words: None) == 0
    finally:
        torch.set_num_threads(threads)
    assert budgets == [7.0]
    found = json.loads((tmp_path / "out/speed.json").read_text())
    assert found["rows"]["pose"][0]["ratio"] == 3.0 and found["rows"]["pose"][1]["value"] is None
    assert found["machine"]["cores"] and found["machine"]["torch"] == torch.__version__
    text = (tmp_path / "out/speed.md").read_text()
    line = "| solve, fast | 2.00 | ms/picture | 1.50 to 2.50 | 3.00 | solve, slow | 8 pictures | a/b |"
    assert line in text and "| solve, other | – |" in text and text.strip() in capsys.readouterr().out
    assert (tmp_path / "out/speed.png").stat().st_size > 2000
    assert "\n## pose\n" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (12345.6, "12,346"), (99.9987, "99.9987"), (100.0, "100"), (None, "–")]
)
def test_numbers_keep_three_digits_and_do_not_round_to_all(value, text) -> None:
    assert number(value) == text


def test_wrong_options_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"no part 'rastr'.*raster"):
        speed.run(["--out", str(tmp_path), "--parts", "rastr"], lambda words: None)
    with pytest.raises(ConfigError, match="positive"):
        speed.run(["--out", str(tmp_path), "--budget", "0"], lambda words: None)
    assert {"raster", "pose"} <= set(speed_rows.measurers())
