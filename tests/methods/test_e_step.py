"""What NVSM gives the tested parts of an E-step, and what it does with what they give."""

import math

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.matching.matcher import MatchSettings, choose
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.training.schedule import EMSchedule


def test_poses_and_margins_are_those_of_the_rounds_calibration_and_of_rivals_thirty_degrees_away(
    make_method, make_data, make_trainer
) -> None:
    """Calibrated in the first round alone."""
    match = MatchSettings(steps=0, calibration="zscore", calibration_rounds=1)
    method, seen = make_method(match=match), []
    finish = method.finish_matching

    def watched(number, rows, data) -> None:
        finish(number, rows, data)
        losses, modes, grid = rows[:, :12], rows[:, 12:18].unflatten(1, (2, 3)), method.model.space.grid()
        expected, other = (choose(losses, modes, grid, match, math.radians(30), each) for each in (number, 1 - number))
        assert torch.equal(method.matches["margin"], expected.margin) and expected.margin.max() > 0
        assert torch.equal(method.matches["viewpoint"], expected.viewpoint)
        assert not torch.allclose(other.margin, expected.margin)
        seen.append(number)

    method.finish_matching = watched
    make_trainer(EMSchedule(2, 1), 2).fit(method, make_data())
    assert seen == [0, 1]


@pytest.mark.parametrize("options", [
    {"score": "area"}, {"score": "likelihood"}, {"score": "area", "source": "anchors"},
    {"score": "area", "engine": "products"}, {"score": "area", "source": "anchors_mean", "engine": "products"},
])  # fmt: skip
def test_as_much_of_the_clutter_is_subtracted_as_is_asked_for(make_method, make_data, options) -> None:
    """Half of it: as if the clutter's similarity were half as high."""
    data = make_data()
    data.setup("fit")
    rows = {}
    for share, scale in ((0.0, 1.0), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0)):
        torch.manual_seed(0)
        method = make_method(match=MatchSettings(steps=3, clutter=share, **options)).eval()
        with torch.no_grad():
            method.model.bank.push_clutter(torch.ones(8, method.model.bank.vertex.shape[1]))
            mean = method.model.bank.clutter_mean
            scaled = property(lambda bank, mean=mean, scale=scale: scale * mean)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(method.model.bank), "clutter_mean", scaled)
                method.start_matching(0, data)
                rows[share, scale] = torch.cat([method.match(batch) for batch in data.pool_dataloader()])
    assert torch.equal(rows[0.5, 1.0], rows[1.0, 0.5])
    finite = rows[1.0, 1.0].isfinite()
    assert not torch.allclose(rows[0.0, 1.0][finite], rows[1.0, 1.0][finite])
    assert not torch.allclose(rows[0.5, 1.0][finite], rows[1.0, 1.0][finite])


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_no_more_clutter_is_subtracted_than_there_is(share) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        MatchSettings(clutter=share)


def test_of_several_meshes_the_one_that_explains_a_picture_best_tells_its_pose(make_method, make_data, meshes) -> None:
    method, data = make_method(mesh=MeshSpec(file=str(meshes)), match=MatchSettings(steps=0)), make_data()
    method.eval()
    data.setup("fit")
    with torch.no_grad():
        method.start_training(data)
        method.start_matching(0, data)
        batch = next(iter(data.pool_dataloader()))
        views = [(method.model.features(batch["image"]), batch["camera"])]
        rows = torch.stack([method._match(views, number) for number in method.model.trained()])
        found = method.match(batch)
    best = rows[..., :12].amin(-1)
    assert len(best) == 2 and not torch.equal(best[0], best[1])
    assert torch.equal(found[:, :12].amin(1), best.amin(0))
    assert all((rows[:, item] == found[item]).all(1).any() for item in range(len(found)))  # whole rows of one mesh


def test_pictures_that_mean_something_else_in_a_mirror_are_not_mirrored(make_method, make_data) -> None:
    method = make_method(match=MatchSettings(mirror=True)).eval()
    for mirror in (True, False):
        data = make_data(mirror=mirror)
        data.setup("fit")
        with torch.no_grad():
            method.start_matching(0, data)
        assert method.mirrored is mirror
