"""``match.final_calibration``: what each pose loses by itself, taken off the estimates of a finished fit."""

import math

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.matching.calibration import pose_null
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.averaging import MovingAverage
from nvsm_lightning.training.schedule import EMSchedule

EM = EMSchedule(rounds=2, epochs_per_round=1)


@pytest.mark.parametrize("validated", [True, False])
def test_what_poses_lose_by_themselves_is_measured_at_the_end_and_kept(
    make_method, make_data, make_trainer, checkpointed, tmp_path, validated
) -> None:
    """Ahead of the last validation if there is one; over the pool; forgotten when the fit goes on."""
    method, seen = make_method(match=MatchSettings(final_calibration="balanced")), []
    step = method.validation_step
    method.validation_step = lambda *batch: (seen.append(method.model.null is not None), step(*batch))[1]
    limit, last = {} if validated else {"limit_val_batches": 0}, str(tmp_path / "last.ckpt")
    trainer = make_trainer(EM, 3, num_sanity_val_steps=1, **limit, **checkpointed(tmp_path))
    trainer.fit(method, make_data())
    null = method.model.null
    assert null.shape == (1, 12) and null.abs().sum() > 0 and null.mean().abs() < 1e-6
    assert (sorted(seen) == seen and set(seen) == {False, True}) if validated else not seen
    loaded, data = make_method(), make_data()
    make_trainer().test(loaded, data, ckpt_path=last, verbose=False)
    assert torch.equal(loaded.model.null, null)
    image, camera = (next(iter(data.test_dataloader()))[name] for name in ("image", "camera"))
    calibrated = loaded.model.estimate(image, camera).scored.grid_loss
    torch.testing.assert_close(calibrated, loaded.model.start_losses(image, camera)[:, 0] - null[0])
    other = make_method(space=PoseSpace(24, [10.0], [0.0]))
    with pytest.raises(ConfigError, match=r"losses of 12 poses.*starts from 24"):
        make_trainer().test(other, make_data(), ckpt_path=last, verbose=False)
    other = make_method(solver=SolverSettings(steps=3, objective="area"))
    with pytest.raises(ConfigError, match=r"by the score likelihood.*has area"):
        make_trainer().test(other, make_data(), ckpt_path=last, verbose=False)
    further = make_method()
    make_trainer(EM, 4).fit(further, make_data(), ckpt_path=last)
    assert further.model.null is None  # its own settings take nothing off


@pytest.mark.parametrize("kind", ["interval", "epoch"])
def test_what_poses_lose_is_measured_at_the_end_of_the_last_epoch(make_method, make_data, make_trainer, kind) -> None:
    method, steps = make_method(match=MatchSettings(final_calibration="balanced")), []
    measure = method.measure_null
    method.measure_null = lambda: (steps.append(method.global_step), measure())
    trainer = make_trainer(EM, 3, **({"val_check_interval": 0.5} if kind == "interval" else {}))
    trainer.fit(method, make_data())
    assert steps[-1] == trainer.global_step and len(steps) == (3 if kind == "interval" else 1)


@pytest.mark.parametrize("validated", [True, False])
def test_what_poses_lose_is_measured_with_the_weights_that_are_tested(
    make_method, make_data, make_trainer, validated
) -> None:
    """Also where these are a moving average, which the last epoch does not hold in place."""
    method = make_method(match=MatchSettings(final_calibration="balanced"))
    limit = {} if validated else {"limit_val_batches": 0}
    trainer = make_trainer(EM, 3, callbacks=[MovingAverage(0.8)], **limit)
    trainer.fit(method, make_data())
    measured = method.model.null
    trainer.fit_loop.evaluating(method.measure_null)  # the fit has put the average in place for good
    assert measured.abs().amax() > 0
    torch.testing.assert_close(measured, method.model.null, atol=1e-6, rtol=1e-4)


def test_a_fit_that_ends_early_says_that_nothing_is_taken_off(make_method, make_data, make_trainer) -> None:
    method = make_method(match=MatchSettings(final_calibration="balanced"))
    with pytest.warns(UserWarning, match="estimates are without match.final_calibration"):
        make_trainer(EM, 3, max_steps=1).fit(method, make_data())
    assert method.model.null is None


@pytest.mark.parametrize("count", [1, 2])
def test_what_poses_lose_is_the_null_of_the_pools_losses(
    make_method, make_data, make_trainer, monkeypatch, meshes, count
) -> None:
    """Under each mesh. Pictures within ``match.calibration_deg`` are of one view. (A null needs eight pictures of ten
    that the pool has: two are enough here.)
    """
    monkeypatch.setattr("nvsm_lightning.matching.calibration.LEAST", 2)
    match = MatchSettings(final_calibration="robust", calibration_deg=45.0)
    mesh = MeshSpec(vertices=80) if count == 1 else MeshSpec(file=str(meshes))
    method, data = make_method(match=match, mesh=mesh), make_data()
    make_trainer(EM, 3).fit(method, data)
    method.eval()
    with torch.no_grad():
        losses = torch.cat(
            [method.model.start_losses(b["image"], b["camera"]) for b in data.pool_dataloader()]
        )  # [pool, mesh, pose], without the null, which estimates have
    grid = method.model.starts()
    apart = viewpoint_error(grid[:, None], grid[None])
    assert len(method.model.null) == count
    for null, each in zip(method.model.null, losses.unbind(1), strict=True):
        expected = pose_null(each, apart, "robust", math.radians(45))
        torch.testing.assert_close(null, expected, atol=1e-5, rtol=0)
        assert (expected - pose_null(each, apart, "robust", math.radians(100))).abs().max() > 1e-3


def test_a_fit_without_rounds_ends_with_the_bank_that_it_has(make_method, make_data, make_trainer) -> None:
    method = make_method(match=MatchSettings(final_bank="labels", final_calibration="balanced"))
    make_trainer(EMSchedule(), 1).fit(method, make_data())
    assert method.model.null is None and method.training_bank is None
