"""The moving average in the EM loop, on the smallest method and data; with NVSM itself in tests/methods."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_loop import Tiny, TinyData, weights

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.bank import FeatureBank
from nvsm_lightning.training.averaging import MovingAverage, average
from nvsm_lightning.training.schedule import EMSchedule
from nvsm_lightning.training.trainer import EMTrainer

DECAY = 0.7


class Watched(Tiny):
    """Has a bank as well; keeps what it weighs at every step and whenever it matches or validates."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = FeatureBank(5, 3, clutter_size=4)
        self.steps: list[torch.Tensor] = []
        self.matched: dict[int, torch.Tensor] = {}
        self.after: list[torch.Tensor] = []
        self.refilled = 0

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step in self.matched:
            self.after.append(weights(self.net))
        return super().training_step(batch, batch_idx)

    def on_train_batch_start(self, batch, batch_idx) -> None:
        generator = torch.Generator().manual_seed(self.global_step)
        draw = torch.randn(2, 5, 3, generator=generator)
        self.bank.update(draw, torch.ones(2, 5, dtype=torch.bool), draw[0, :3])

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        self.steps.append(weights(self.net))

    def start_matching(self, round: int, data: TinyData) -> None:
        super().start_matching(round, data)
        self.matched[self.global_step] = weights(self.net)

    def on_validation_epoch_start(self) -> None:
        self.validated = weights(self.net)

    def refill_bank(self, data: TinyData) -> None:
        assert not torch.is_grad_enabled()
        self.refilled += 1


def trainer_of(folder: Path, em: EMSchedule, epochs: int = 6) -> EMTrainer:
    saver = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    return EMTrainer(
        em=em, max_epochs=epochs, accelerator="cpu", devices=1, logger=False, callbacks=[MovingAverage(DECAY), saver],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip


def averages(steps: list[torch.Tensor]) -> list[torch.Tensor]:
    """The moving average after every step; of the whole number in ``weights`` (batches seen) the latest."""
    found = [steps[0]]
    for step in steps[1:]:
        mean = DECAY * found[-1] + (1 - DECAY) * step
        found.append(torch.where(step == step.round(), step, mean))
    return found


def test_e_steps_validation_and_the_end_have_the_average_and_training_goes_on_as_it_was(tmp_path: Path) -> None:
    method = Watched()
    trainer_of(tmp_path, EMSchedule(3, 2, keep_rounds=True)).fit(method, TinyData())
    means = averages(method.steps)
    first, *later = method.matched
    assert first == 0 and len(later) == 2 and method.refilled == 2
    for round, step in enumerate(later, 1):
        assert torch.allclose(method.matched[step], means[step - 1], atol=1e-5)
        assert not torch.allclose(means[step - 1], method.steps[step - 1], atol=1e-3)
        assert torch.equal(method.after[round], method.steps[step - 1])  # what is trained comes back after the E-step
        kept = torch.load(tmp_path / "checkpoints" / f"round_{round:02d}.ckpt", weights_only=False)["state_dict"]
        net = [value.float().flatten() for name, value in kept.items() if name.startswith("net")]
        assert torch.equal(torch.cat(net), method.matched[step])
    assert torch.allclose(weights(method.net), means[-1], atol=1e-5)
    assert torch.allclose(method.validated, means[-1], atol=1e-5)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in method.state_dict().items())


def test_the_average_starts_afresh_with_the_network(tmp_path: Path) -> None:
    method = Watched()
    trainer_of(tmp_path, EMSchedule(2, 2, restarts=[1]), 4).fit(method, TinyData())
    first_layer = method.after[1][:56]  # what is trained from the second E-step on
    assert torch.equal(first_layer, torch.full((56,), 0.1))
    since = averages([step for step in method.steps[max(method.matched) :]])
    assert torch.allclose(weights(method.net), since[-1], atol=1e-5)
    assert not torch.allclose(weights(method.net), averages(method.steps)[-1], atol=1e-3)


def test_the_averaged_bank_has_unit_vertices_and_the_right_counters(tmp_path: Path) -> None:
    method = Watched()
    trainer_of(tmp_path, EMSchedule(2, 2), 4).fit(method, TinyData())
    assert torch.allclose(method.bank.vertex.norm(dim=1), torch.ones(5), atol=1e-6)
    assert int(method.bank.clutter_filled) == 4 and int(method.bank.clutter_next) == 3 * len(method.steps) % 4


@pytest.mark.parametrize("em", [EMSchedule(3, 2), EMSchedule(2, 2, 1)], ids=str)
def test_resuming_is_exact(tmp_path: Path, em) -> None:
    whole, data = Watched(), TinyData()
    trainer_of(tmp_path / "whole", em).fit(whole, data)
    for epoch in range(1, 6):
        killed = Watched()
        killed.crash_at = (epoch, 1)
        with pytest.raises(SystemExit):
            trainer_of(tmp_path / f"{epoch}", em).fit(killed, TinyData())
        assert killed.log_of_events[-1] == "crash"
        resumed, again = Watched(), TinyData()
        with torch.no_grad():
            for parameter in resumed.parameters():
                parameter.add_(1)  # what is not restored would be seen
        trainer_of(tmp_path / f"{epoch}", em).fit(resumed, again, ckpt_path=str(tmp_path / f"{epoch}" / "last.ckpt"))
        assert torch.equal(weights(resumed), weights(whole)) and torch.equal(again.pseudo, data.pseudo)
        assert torch.equal(resumed.steps[-1], whole.steps[-1])


def test_a_finished_fit_resumed_ends_with_the_average(tmp_path: Path) -> None:
    """Its final test may have been interrupted; nothing is left to train."""
    method, again = Watched(), Watched()
    trainer_of(tmp_path, EMSchedule(3, 2)).fit(method, TinyData())
    trainer_of(tmp_path, EMSchedule(3, 2)).fit(again, TinyData(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert not again.steps and torch.equal(weights(again.net), weights(method.net))
    assert not torch.equal(weights(again.net), method.steps[-1])


def test_whole_numbers_and_truth_values_are_taken_over_and_what_rests_stays() -> None:
    count, mean = torch.tensor(1), torch.tensor([0.1, 0.2, 0.3])
    assert average(0.95, torch.tensor(10), torch.tensor(11), count).equal(torch.tensor(11))
    assert average(0.95, torch.tensor(True), torch.tensor(False), count).equal(torch.tensor(False))
    assert average(0.95, mean, mean.clone(), count).equal(mean)
    assert average(0.75, torch.tensor(1.0), torch.tensor(2.0), count).equal(torch.tensor(1.25))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_senseless_decay_is_refused(decay) -> None:
    with pytest.raises(ConfigError, match=r"decay must lie in 0\.\.1"):
        MovingAverage(decay)
