import pytest
import torch
from lightning.pytorch import LightningModule

from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.methods import NVSM, NeMo
from nvsm_lightning.methods.base import PoseMethod


def test_the_base_asks_for_an_estimate() -> None:
    with pytest.raises(NotImplementedError, match=r"PoseMethod must override estimate\(\)"):
        PoseMethod().estimate({})


def test_trunk_and_head_have_learning_rates_of_their_own_that_fall_at_the_milestones(make_method) -> None:
    method = make_method(NeMo, learning_rate=1e-4, head_learning_rate=1e-2, milestones=[1])
    [optimizer], [schedule] = method.configure_optimizers()
    trunk, head = optimizer.param_groups
    assert (trunk["lr"], head["lr"], trunk["weight_decay"]) == (1e-4, 1e-2, 1e-4)
    assert len(head["params"]) == 1 and len(trunk["params"]) == len(list(method.model.backbone.trunk.parameters()))
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2e-5)


def test_frozen_parameters_are_not_given_to_the_optimiser(make_method) -> None:
    stages = ["conv1", "layer1", "layer2", "layer3"]
    method = make_method(NeMo, backbone=BackboneSpec(name="small", dim=16, frozen=stages))
    [optimizer], _ = method.configure_optimizers()
    assert len(optimizer.param_groups) == 1 and optimizer.param_groups[0]["lr"] == 3e-4


def test_before_training_features_are_centred_and_the_bank_is_filled(make_method, make_data) -> None:
    method, data = make_method(NeMo).eval(), make_data()
    data.setup("fit")
    before = method.model.bank.vertex.clone()
    with torch.no_grad():
        method.start_training(data)
    assert method.model.backbone.center.norm() > 0.1
    moved = (method.model.bank.vertex != before).any(1)
    assert 0.4 < moved.float().mean() < 1 and int(method.model.bank.clutter_filled) > 0
    images = torch.cat([batch["image"] for batch in data.anchor_dataloader()])
    assert len(images) == 8  # four labelled pictures and their mirror images
    with torch.no_grad():
        mean = method.model.backbone.raw(images).mean((0, 2, 3))
    assert torch.allclose(method.model.backbone.center[:, 0, 0], mean, atol=1e-5)


def test_a_fit_validates_and_a_test_tells_poses(make_method, make_data, make_trainer) -> None:
    method, data, trainer = make_method(NeMo), make_data(), make_trainer()
    trainer.fit(method, data)
    assert {"val/acc_pi_6", "val/med_err_deg", "train/loss"} <= set(trainer.callback_metrics)
    outputs = []
    method.on_test_batch_end = lambda output, batch, batch_idx, dataloader_idx=0: outputs.append(output)
    trainer.test(method, data, verbose=False)
    [output] = outputs
    assert set(output) == {"index", "viewpoint", "truth", "loss", "seconds", "posterior"}
    assert output["index"].tolist() == [0, 1, 2] and output["viewpoint"].shape == (3, 3)
    assert output["truth"].isfinite().all() and output["loss"].isfinite().all() and (output["seconds"] > 0).all()


def test_predictions_need_no_label(make_method, make_data, make_trainer, folder) -> None:
    trainer = make_trainer()
    [output] = trainer.predict(make_method(NeMo), make_data(folder=str(folder), batch_size=19))
    assert len(output["viewpoint"]) == 19 and output["truth"].isnan().all() and output["viewpoint"].isfinite().all()


@pytest.mark.parametrize("kind", [NeMo, NVSM])
def test_a_checkpoint_brings_the_method_back(make_method, make_data, make_trainer, tmp_path, kind) -> None:
    method, data, trainer = make_method(kind), make_data(), make_trainer(epochs=1)
    trainer.fit(method, data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    torch.manual_seed(5)
    again = kind.load_from_checkpoint(tmp_path / "x.ckpt")
    assert type(again) is kind and again.hparams["learning_rate"] == 3e-4
    state, other = method.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
    batch = next(iter(data.test_dataloader()))
    for ours, theirs in zip(method.eval().estimate(batch), again.eval().estimate(batch), strict=True):
        assert torch.equal(ours, theirs)


def test_mirror_averaging_never_raises_the_loss(make_method, make_data) -> None:
    data = make_data()
    data.setup("fit")
    plain, averaged = make_method(NeMo).eval(), make_method(NeMo, mirror_average=True).eval()
    for method in (plain, averaged):
        with torch.no_grad():
            method.start_training(data)
    batch = next(iter(data.test_dataloader()))
    (found, loss), (both, best) = plain.estimate(batch), averaged.estimate(batch)
    assert (best <= loss).all() and not torch.equal(both, found)
    with torch.no_grad():
        first = averaged.model.estimate(batch["image"], batch["camera"])
        assert torch.equal(both, averaged.model.mirror_estimate(batch["image"], batch["camera"], first).viewpoint)


def test_batches_that_are_no_dictionaries_are_moved_as_usual(make_method) -> None:
    method: LightningModule = make_method(NeMo)
    assert torch.equal(method.transfer_batch_to_device(torch.ones(2), torch.device("cpu"), 0), torch.ones(2))
