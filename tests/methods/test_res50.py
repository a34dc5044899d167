import math
from types import SimpleNamespace

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import TrunkSpec
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error
from nvsm_lightning.methods import Res50General, Res50Specific

SMALL = TrunkSpec(name="small", chunk=2)


def make(kind=Res50General, **changes):
    torch.manual_seed(0)
    return kind(**({"backbone": SMALL, "mirror_average": False} | changes)).eval()


def batch_of(viewpoint_deg: list[tuple[float, float, float]], **more) -> dict:
    generator = torch.Generator().manual_seed(0)
    count = len(viewpoint_deg)
    viewpoint = torch.deg2rad(torch.tensor(viewpoint_deg))
    image = torch.rand(count, 3, 48, 96, generator=generator)
    return {"image": image, "viewpoint": viewpoint, "weight": torch.ones(count), **more}


POSES = [(30.0, 10.0, 5.0), (200.0, -5.0, 0.0), (350.0, 3.0, -12.0)]


def quiet(method):
    method.log = lambda *args, **kwargs: None
    return method


def loss_of(method, batch) -> float:
    return quiet(method).training_step(batch, 0).item()


@pytest.mark.parametrize("azimuth_only", [False, True])
def test_validation_counts_the_angles_that_the_data_label(azimuth_only) -> None:
    """As the test does: elevations that a reader assumes are no truth."""
    method, batch = quiet(make()), batch_of(POSES, index=torch.arange(3))
    method._trainer = SimpleNamespace(datamodule=SimpleNamespace(azimuth_only=azimuth_only))
    method.estimate = lambda batch: (batch["viewpoint"] + torch.tensor([0.0, 0.3, 0.0]), torch.zeros(3))
    method.validation_step(batch, 0)
    error = method.val_errors.errors()[1]
    assert error.max() < 1e-5 if azimuth_only else error.min() > 0.2


@pytest.mark.parametrize("kind", [Res50General, Res50Specific])
def test_a_few_steps_learn_the_bins_of_a_few_pictures(kind) -> None:
    method, batch = quiet(make(kind, learning_rate=1e-3, head_learning_rate=1e-2)), batch_of(POSES)
    [optimizer], _ = method.train().configure_optimizers()
    for _ in range(30):
        optimizer.zero_grad()
        loss = method.training_step(batch, 0)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        viewpoint, loss = method.eval().estimate(batch)
    half = method.bins.width / 2
    assert ((viewpoint - method.bins.decode(method.bins.encode(batch["viewpoint"]))).abs() < 1e-4).all()
    assert (viewpoint_error(viewpoint, batch["viewpoint"]) < 3 * half).all() and (loss < 1).all()


def test_the_loss_is_the_sum_of_three_cross_entropies_and_skips_unknown_angles() -> None:
    method = quiet(make())
    method.head.weight.data.zero_()
    method.head.bias.data.zero_()
    assert loss_of(method, batch_of(POSES)) == pytest.approx(3 * math.log(41))
    unknown = batch_of([(30.0, math.nan, math.nan)] * 3)
    assert loss_of(method, unknown) == pytest.approx(math.log(41))


def test_a_picture_counts_by_its_weight() -> None:
    method, batch = quiet(make()), batch_of(POSES)
    alone = [loss_of(method, {key: value[k : k + 1] for key, value in batch.items()}) for k in range(2)]
    batch["weight"] = torch.tensor([3.0, 1.0, 0.0])
    assert loss_of(method, batch) == pytest.approx((3 * alone[0] + alone[1]) / 4, rel=1e-4)


def test_legacy_changes_what_bins_mean_and_nothing_else() -> None:
    batch = batch_of(POSES)
    with torch.no_grad():
        (fixed, loss), (legacy, same) = (make(legacy=legacy).estimate(batch) for legacy in (False, True))
    assert torch.equal(loss, same) and torch.equal(fixed[:, 0], legacy[:, 0])
    assert torch.rad2deg(fixed - legacy)[:, 1:].flatten().tolist() == pytest.approx([180 / 41] * 6, abs=1e-3)


def test_mirror_averaging_makes_a_picture_and_its_mirror_image_agree() -> None:
    batch = batch_of(POSES)
    mirrored = {**batch, "image": batch["image"].flip(-1)}
    plain, averaged = make(), make(mirror_average=True)
    with torch.no_grad():
        viewpoint, loss = averaged.estimate(batch)
        other, other_loss = averaged.estimate(mirrored)
        assert (viewpoint_error(mirror_viewpoint(other), viewpoint) < 1e-3).all()
        torch.testing.assert_close(loss, other_loss, atol=1e-4, rtol=1e-4)
        one, two = plain.estimate(batch)[0], plain.estimate(mirrored)[0]
    assert (viewpoint_error(mirror_viewpoint(two), one) > 1e-2).any()


def test_specific_reads_each_picture_by_the_bins_of_its_category() -> None:
    method = make(Res50Specific, categories=["bus", "car"])
    method.head.weight.data.zero_()
    scores = method.head.bias.data.view(2, 3, 41)
    scores[0, :, 5], scores[1, :, 9] = 1.0, 1.0
    with torch.no_grad():
        by_name, _ = method.estimate(batch_of(POSES, category=["car", "bus", "car"]))
        by_data, _ = method.estimate(batch_of(POSES))
    bins = method.bins.encode(by_name)
    assert bins[:, 0].tolist() == [9, 5, 9] and method.bins.encode(by_data)[:, 0].tolist() == [9, 9, 9]
    batch = quiet(method).training_step(batch_of(POSES, category=["bus"] * 3), 0)
    batch.backward()
    gradient = method.head.bias.grad.view(2, -1).abs().sum(1)
    assert gradient[0] > 0 and gradient[1] == 0


def test_specific_of_one_category_computes_what_general_does() -> None:
    batch = batch_of(POSES)
    with torch.no_grad():
        for ours, theirs in zip(make().estimate(batch), make(Res50Specific).estimate(batch), strict=True):
            assert torch.equal(ours, theirs)


def test_categories_without_bins_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model.categories \['bus'\] lacks the category of the data, 'car'"):
        make(Res50Specific, categories=["bus"])
    with pytest.raises(ConfigError, match="'boat' is not in list"):
        make(Res50Specific).estimate(batch_of(POSES, category=["car", "boat", "car"]))


@pytest.mark.parametrize("kind", [Res50General, Res50Specific])
def test_a_checkpoint_brings_the_method_back(kind, make_data, make_trainer, tmp_path) -> None:
    method, data, trainer = make(kind, bins=21), make_data(), make_trainer(epochs=1)
    trainer.fit(method, data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert {"val/acc_pi_6", "train/loss"} <= set(trainer.callback_metrics)
    torch.manual_seed(5)
    again = kind.load_from_checkpoint(tmp_path / "x.ckpt").eval()
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        for ours, theirs in zip(method.eval().estimate(batch), again.estimate(batch), strict=True):
            assert torch.equal(ours, theirs)
