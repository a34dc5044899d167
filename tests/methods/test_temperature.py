"""The temperature of a method's pose distribution: fitted by validation, kept in the checkpoint, used by test."""

import math

import pytest
import torch

from nvsm_lightning.methods import NeMo, StarMap
from nvsm_lightning.methods.calibration import KEY, Calibration, ScoredPictures
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.pose.solver import PoseEstimate, ScoredPoses
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.pose.uncertainty import TEMPERATURES, Measured

CIRCLE = Measured(torch.tensor([True, False, False]))


def estimate(truth: torch.Tensor) -> PoseEstimate:
    """A bowl of losses around the true azimuths, estimated a little beside them."""
    grid = PoseSpace(36, [0.0], [0.0]).grid()
    best = truth.nan_to_num() + torch.tensor([0.04, 0.0, 0.0])
    loss = 1 - torch.cos(grid[None, :, 0] - best[:, :1])
    scored = ScoredPoses(grid, loss, best[:, None], torch.zeros(len(truth), 1))
    return PoseEstimate(best, torch.zeros(len(truth)), best, scored)


def test_repeated_and_unknown_pictures_do_not_count():
    truth = torch.tensor([[0.5, 0.0, 0.0], [2.0, 0.0, 0.0], [math.nan] * 3])
    once, twice = ScoredPictures(), ScoredPictures()
    for state in (once, twice):
        state.update(estimate(truth), truth, torch.arange(3), CIRCLE)
    twice.update(estimate(truth[:1]), truth[:1], torch.zeros(1, dtype=torch.long), CIRCLE)
    found = Calibration(**once.compute())
    assert found == Calibration(**twice.compute())
    assert found.n_images == 2
    assert TEMPERATURES[0] < found.temperature < 0.1
    assert found.floored_share == 0
    nothing = ScoredPictures()
    nothing.update(estimate(truth[2:]), truth[2:], torch.zeros(1, dtype=torch.long), CIRCLE)
    assert Calibration(**nothing.compute()) == Calibration()


def test_a_checkpoint_of_earlier_versions_counts_as_not_calibrated():
    content: dict = {}
    Calibration(0.02, 30, 10.0, 20.0, 0.1).save(content)
    assert Calibration.load(content) == Calibration(0.02, 30, 10.0, 20.0, 0.1)
    assert Calibration.load({}) == Calibration()


@pytest.fixture(scope="module")
def fitted(make_data, make_method, tmp_path_factory):
    """A method after one epoch with validation, its checkpoint and its data."""
    from nvsm_lightning.training.trainer import EMTrainer

    folder = tmp_path_factory.mktemp("run")
    trainer = EMTrainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    method, data = make_method(NeMo), make_data()
    trainer.fit(method, datamodule=data)
    trainer.save_checkpoint(folder / "last.ckpt")
    return method, data, folder / "last.ckpt"


def test_validation_fits_the_temperature_and_the_checkpoint_keeps_it(fitted, make_method):
    method, _, path = fitted
    assert method.calibration.n_images == 2
    assert TEMPERATURES[0] <= method.calibration.temperature <= TEMPERATURES[1]
    content = torch.load(path, weights_only=True)
    assert Calibration(**content[KEY]) == method.calibration
    other = make_method(NeMo)
    assert other.calibration == Calibration()
    other.on_load_checkpoint(content)
    assert other.calibration == method.calibration


@pytest.mark.parametrize(
    "changes", [{}, {"mirror_average": True}, {"space": PoseSpace(12, [10.0], [0.0], ["azimuth"])}]
)
def test_predictions_describe_the_distribution_in_the_space_of_the_free_angles(fitted, make_method, changes):
    fitted_method, data, _ = fitted
    method = make_method(NeMo, **changes).eval()
    method.load_state_dict(fitted_method.state_dict())
    method.calibration = Calibration(0.02, 2)
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        outputs = method.predict_step(batch, 0)
        viewpoint, loss = method.estimate(batch)
    assert torch.equal(outputs["viewpoint"], viewpoint) and torch.equal(outputs["loss"], loss)
    posterior = outputs["posterior"]
    assert posterior["mode"].shape == (3, 3, 3)
    away = (posterior["mode"][:, 0] - viewpoint) % (2 * math.pi)
    assert torch.minimum(away, 2 * math.pi - away).max() < 1e-5
    assert posterior["log_density"].isfinite().all()
    assert ((posterior["level"] >= 0) & (posterior["level"] <= 1)).all()
    assert method.posterior_info()["space"] == ("circle" if "space" in changes else "SO(3)")
    assert method.posterior_info()["temperature"] == 0.02


def test_a_method_that_scores_no_poses_has_no_distribution(fitted):
    _, data, _ = fitted
    method = StarMap(backbone=fitted[0].model.backbone.spec, mesh=MeshSpec(vertices=80)).eval()
    with torch.no_grad():
        outputs = method.predict_step(next(iter(data.test_dataloader())), 0)
    assert outputs["posterior"] == {}
    assert method.posterior_info() == {}
