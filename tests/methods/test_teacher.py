"""Fits whose pseudo labels are made by a finished fit (``trainer.em.teacher``)."""

import pytest
import torch

from nvsm_lightning.errors import WeightsError
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.training.averaging import MovingAverage
from nvsm_lightning.training.schedule import EMSchedule
from nvsm_lightning.training.trainer import EMTrainer

ROUNDS = EMSchedule(rounds=3, epochs_per_round=1)
OPEN = SelectionSettings(ring_deg=180.0, first_share=0.3, last_share=1.0, min_score=-10.0)


@pytest.fixture(scope="module")
def taught(make_method, make_data, tmp_path_factory):
    """A finished fit's folder, and the weights that it ended with."""
    folder = tmp_path_factory.mktemp("teacher")
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    method = make_method()
    trainer = EMTrainer(em=ROUNDS, max_epochs=4, enable_model_summary=False, default_root_dir=folder, **quiet)
    trainer.fit(method, make_data())
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    return folder, {name: value.clone() for name, value in method.model.state_dict().items()}


@pytest.mark.parametrize("averaged", [False, True])
def test_its_network_labels_the_pool_and_another_learns_from_the_labels(
    make_method, make_data, make_trainer, taught, averaged
) -> None:
    """One E-step, that of the last round with its share; the network that learns begins with its own weights."""
    folder, weights = taught
    method, data = make_method(selection=OPEN), make_data()
    start = {name: value.clone() for name, value in method.model.backbone.named_parameters()}
    matched, learned, match, step = [], [], method.match, method.training_step

    def matching(batch):
        own = method.model.state_dict()
        matched.append(all(torch.equal(weights[name], own[name]) for name in weights))
        return match(batch)

    def learning(batch, batch_idx):
        now = dict(method.model.backbone.named_parameters())
        learned.append((method.current_epoch, data.round, all(torch.equal(start[name], now[name]) for name in start)))
        return step(batch, batch_idx)

    method.match, method.training_step = matching, learning
    em = EMSchedule(rounds=3, epochs_per_round=1, warmup_epochs=1, teacher=str(folder))
    callbacks = [MovingAverage(0.5)] if averaged else []
    make_trainer(em, 2, callbacks=callbacks).fit(method, data)
    assert matched and all(matched)
    assert len(data.pseudo_labels[0]) == len(data.pool)  # the last round's share
    assert learned[0] == (0, 2, True) and {entry[:2] for entry in learned} == {(0, 2), (1, 2)}
    assert not any(entry[2] for entry in learned[1:])


def test_a_resumed_fit_does_without_it(make_method, make_data, make_trainer, taught, checkpointed, tmp_path) -> None:
    """Once its labels are there they come with the checkpoint, and the numbers are those of a fit in one piece."""
    folder, _ = taught
    em = EMSchedule(rounds=3, epochs_per_round=1, teacher=str(folder))
    whole, first, resumed = make_method(selection=OPEN), make_method(selection=OPEN), make_method(selection=OPEN)
    make_trainer(em, 3).fit(whole, make_data())
    trainer = make_trainer(em, 3, **checkpointed(tmp_path))
    trainer.fit_loop.max_epochs = 1  # as if it had been stopped there
    trainer.fit(first, make_data())
    gone = EMSchedule(rounds=3, epochs_per_round=1, teacher=str(folder / "removed"))
    last = str(tmp_path / "last.ckpt")
    make_trainer(gone, 3, **checkpointed(tmp_path)).fit(resumed, make_data(), ckpt_path=last)
    ours, theirs = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_teacher_that_cannot_be_read_ends_the_fit(make_method, make_data, make_trainer, tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"--trainer\.em\.teacher: .*nowhere cannot be read as a checkpoint"):
        make_trainer(EMSchedule(1, 1, teacher=str(tmp_path / "nowhere"))).fit(make_method(), make_data())


def test_other_labelled_pictures_are_told(make_method, make_data, make_trainer, taught, tmp_path) -> None:
    listed = tmp_path / "others.txt"
    listed.write_text("01.png\n04.png\n08.png\n11.png\n")
    data = make_data(label_list=str(listed))
    with pytest.warns(UserWarning, match=r"--trainer\.em\.teacher: .* was trained with other labelled pictures"):
        make_trainer(EMSchedule(1, 1, teacher=str(taught[0]))).fit(make_method(selection=OPEN), data)
