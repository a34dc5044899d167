"""The contract of the EM loop, on the smallest method and data that can keep it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.training.loop import Matcher
from nvsm_lightning.training.schedule import EMSchedule
from nvsm_lightning.training.trainer import EMTrainer

LABELLED, POOL = 4, 9


class Rows(Dataset):
    """Rows of (x, target, index)."""

    def __init__(self, x: Tensor, target: Tensor) -> None:
        self.x, self.target = x, target

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return {"x": self.x[item], "target": self.target[item], "index": torch.tensor(item)}


class TinyData(LightningDataModule):
    """Four labelled rows and a pool of nine; counts how often loaders are built."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(LABELLED + POOL, 6, generator=generator)
        self.labels = torch.randn(LABELLED, generator=generator)
        self.pool = list(range(POOL))
        self.pseudo, self.round = torch.empty(0), -1
        self.accepted: list[tuple[int, list[float]]] = []
        self.built = 0

    def train_dataloader(self) -> DataLoader:
        self.built += 1
        rows = Rows(self.x[: LABELLED + len(self.pseudo)], torch.cat((self.labels, self.pseudo)))
        sampler = DistributedSampler(rows, self.trainer.world_size, self.trainer.global_rank, seed=1, drop_last=True)
        return DataLoader(rows, batch_size=2, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Rows(self.x[:2], self.labels[:2]))

    def pool_dataloader(self, rank: int, world: int, round: int, count: int, own: bool) -> DataLoader:
        rows = Rows(self.x[LABELLED:], torch.zeros(POOL))
        return DataLoader(Subset(rows, range(rank, POOL, world)), batch_size=2)

    def accept(self, round: int, values: Tensor) -> None:
        self.round, self.pseudo = round, values.cpu()
        self.accepted.append((round, values.tolist()))

    def state_dict(self) -> dict[str, Any]:
        return {"round": self.round, "pseudo": self.pseudo}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round, self.pseudo = state["round"], state["pseudo"]


class NoMatch(LightningModule):
    """A method without E-step, with batch norm and dropout, so that the mode of the E-step is seen in its result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
        self.trained: dict[int, dict[int, float]] = {}
        self.log_of_events: list[str] = []
        self.crash_at: tuple[int, int] | None = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.crash_at == (self.current_epoch, batch_idx):
            self.log_of_events.append("crash")
            raise KeyboardInterrupt
        seen = zip(batch["index"].tolist(), batch["target"].tolist(), strict=True)
        self.trained.setdefault(self.current_epoch, {}).update(seen)
        torch.manual_seed(self.global_step)  # dropout from the step alone: a resumed fit repeats it
        return ((self.net(batch["x"])[:, 0] - batch["target"]) ** 2).mean()

    def on_train_epoch_start(self) -> None:
        self.log_of_events.append(f"epoch {self.current_epoch}")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val/x", batch["x"].mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.05)


class Tiny(NoMatch):
    """The pseudo label of a row is what the net says of it."""

    match_columns = 1

    def start_training(self, data: TinyData) -> None:
        self.log_of_events.append("start")

    def start_matching(self, round: int, data: TinyData) -> None:
        self.log_of_events.append(f"match {round}")

    def match(self, batch: dict[str, Any]) -> Tensor:
        assert not self.training and not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        return self.net(batch["x"])

    def finish_matching(self, round: int, rows: Tensor, data: TinyData) -> None:
        data.accept(round, rows[:, 0])

    def take_weights(self, teacher: str, data: TinyData) -> None:
        raise AssertionError("no teacher was named")

    def start_afresh(self, data: TinyData) -> None:
        assert not self.training and not torch.is_grad_enabled()
        self.log_of_events.append(f"afresh with the labels of {data.round}")
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.1)


def trainer_of(folder: Path, em: EMSchedule, epochs: int = 6, save: str = "validation", **kwargs) -> EMTrainer:
    checkpoints = ModelCheckpoint(
        folder, save_last=True, save_top_k=-1, save_on_train_epoch_end=save == "epoch", filename="{epoch}"
    )
    return EMTrainer(
        em=em, max_epochs=epochs, accelerator="cpu", logger=False, callbacks=[checkpoints], enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, num_sanity_val_steps=1,
        limit_val_batches=0 if save == "epoch" else 1.0, **({"devices": 1} | kwargs),
    )  # fmt: skip


def weights(method: LightningModule) -> Tensor:
    return torch.cat([value.float().flatten() for value in method.state_dict().values()])


def test_a_rounds_labels_are_the_labels_trained_on(tmp_path: Path) -> None:
    method, data = Tiny(), TinyData()
    trainer_of(tmp_path, EMSchedule(3, 2)).fit(method, data)
    assert [round for round, _ in data.accepted] == [0, 1, 2]
    for epoch in range(6):
        current = data.accepted[epoch // 2][1]
        pool = {index - LABELLED: value for index, value in method.trained[epoch].items() if index >= LABELLED}
        assert len(pool) >= POOL - 2  # drop_last
        assert all(value == current[index] for index, value in pool.items()), epoch
    assert data.accepted[0][1] != data.accepted[1][1] != data.accepted[2][1]


def test_events_come_in_the_order_of_the_schedule_and_loaders_are_built_once_per_round(tmp_path: Path) -> None:
    method, data = Tiny(), TinyData()
    trainer_of(tmp_path, EMSchedule(2, 2, 1)).fit(method, data)
    assert method.log_of_events == [
        "start", "epoch 0", "match 0", "epoch 1", "epoch 2", "match 1", "epoch 3", "epoch 4", "epoch 5",
    ]  # fmt: skip
    assert max(method.trained[0]) < LABELLED <= max(method.trained[1])
    assert data.built == 3  # for the warm-up and for each round
    assert method.training  # the mode from before the E-step


def test_the_network_starts_afresh_once_the_labels_are_accepted(tmp_path: Path) -> None:
    method = Tiny()
    trainer_of(tmp_path, EMSchedule(2, 2, 1, restarts=[-1]), 5).fit(method, TinyData())
    assert method.log_of_events == [
        "start", "epoch 0", "match 0", "epoch 1", "epoch 2", "match 1", "afresh with the labels of 1", "epoch 3",
        "epoch 4",
    ]  # fmt: skip


def test_callbacks_hear_of_each_e_step_once_its_labels_are_accepted(tmp_path: Path) -> None:
    heard = []

    class Listener(Callback):
        def on_e_step_end(self, trainer, method, number) -> None:
            heard.append((number, trainer.datamodule.round, method.training, torch.is_grad_enabled()))

    trainer = trainer_of(tmp_path, EMSchedule(2, 2, 1))
    trainer.callbacks.append(Listener())
    trainer.fit(Tiny(), TinyData())
    assert heard == [(0, 0, False, False), (1, 1, False, False)]


def test_without_rounds_nothing_is_matched_and_the_loader_is_built_once(tmp_path: Path) -> None:
    method, data = Tiny(), TinyData()
    trainer_of(tmp_path, EMSchedule(), epochs=3).fit(method, data)
    assert data.accepted == [] and data.built == 1 and method.log_of_events[0] == "start"
    NoMatch_alone = NoMatch()
    trainer_of(tmp_path / "plain", EMSchedule(), epochs=3).fit(NoMatch_alone, TinyData())
    assert torch.equal(weights(NoMatch_alone), weights(method))


def test_the_last_epoch_is_validated_whatever_the_interval(tmp_path: Path) -> None:
    class Seen(Callback):
        epochs: list[int] = []

        def on_validation_end(self, trainer, pl_module) -> None:
            if not trainer.sanity_checking:
                self.epochs.append(trainer.current_epoch)

    trainer = trainer_of(tmp_path, EMSchedule(), epochs=5, check_val_every_n_epoch=2)
    trainer.callbacks.append(Seen())
    trainer.fit(NoMatch(), TinyData())
    assert Seen.epochs == [1, 3, 4]


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_method_without_e_step_is_told_so_before_it_trains(tmp_path: Path, warmup) -> None:
    method = NoMatch()
    assert isinstance(Tiny(), Matcher) and not isinstance(method, Matcher)
    with pytest.raises(ConfigError, match=r"NoMatch has no E-step, but trainer\.em\.rounds is 2"):
        trainer_of(tmp_path, EMSchedule(2, 2, warmup)).fit(method, TinyData())
    assert method.trained == {}


def interrupted(folder: Path, em: EMSchedule, crash_at: tuple[int, int], save: str) -> tuple[Tiny, TinyData]:
    """A fit killed in the middle of an epoch and resumed from last.ckpt by fresh objects."""
    killed = Tiny()
    killed.crash_at = crash_at
    with pytest.raises(SystemExit):
        trainer_of(folder, em, save=save).fit(killed, TinyData())
    assert killed.log_of_events[-1] == "crash"
    method, data = Tiny(), TinyData()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(1)  # what is not restored would be seen
    trainer_of(folder, em, save=save).fit(method, data, ckpt_path=str(folder / "last.ckpt"))
    return method, data


@pytest.mark.parametrize("save", ["validation", "epoch"])
@pytest.mark.parametrize("em", [EMSchedule(3, 2), EMSchedule(2, 2, 1), EMSchedule(6, 1)], ids=str)
def test_resuming_from_the_last_checkpoint_is_exact(tmp_path: Path, em, save) -> None:
    whole, data = Tiny(), TinyData()
    trainer_of(tmp_path / "whole", em, save=save).fit(whole, data)
    for epoch in range(1, 6):
        method, resumed = interrupted(tmp_path / f"{epoch}", em, (epoch, 1), save)
        assert torch.equal(weights(method), weights(whole)), epoch
        assert torch.equal(resumed.pseudo, data.pseudo) and resumed.round == data.round
        # Only the E-steps that were still to come were made: those before epochs from the killed one on.
        assert [round for round, _ in resumed.accepted] == [
            em.round_at(later) for later in range(epoch, 6) if em.round_at(later) is not None
        ]
        assert "start" not in method.log_of_events


def test_a_finished_fit_resumed_with_more_epochs_goes_on(tmp_path: Path) -> None:
    em, whole = EMSchedule(3, 2), Tiny()
    trainer_of(tmp_path / "whole", em).fit(whole, TinyData())
    trainer_of(tmp_path / "part", em, epochs=5).fit(Tiny(), TinyData())
    method = Tiny()
    trainer_of(tmp_path / "part", em).fit(method, TinyData(), ckpt_path=str(tmp_path / "part" / "last.ckpt"))
    assert torch.equal(weights(method), weights(whole))


@pytest.mark.parametrize("epoch", [0, 2])
def test_resuming_inside_an_epoch_keeps_the_labels_it_was_trained_with(tmp_path: Path, epoch) -> None:
    steps = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=0, save_last=True)

    def trainer() -> EMTrainer:
        return EMTrainer(
            em=EMSchedule(2, 2), max_epochs=4, accelerator="cpu", devices=1, logger=False, callbacks=[steps],
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip

    killed, data = Tiny(), TinyData()
    killed.crash_at = (epoch, 3)
    with pytest.raises(SystemExit):
        trainer().fit(killed, data)
    assert killed.log_of_events[-1] == "crash"
    method, resumed = Tiny(), TinyData()
    method.crash_at = (epoch, 5)
    with pytest.raises(SystemExit):
        trainer().fit(method, resumed, ckpt_path=str(tmp_path / "last.ckpt"))
    assert torch.equal(resumed.pseudo, data.pseudo) and resumed.round == epoch // 2
    assert resumed.accepted == [] and method.log_of_events == ["crash"]


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path: Path) -> None:
    method, data, trainer = Tiny(), TinyData(), trainer_of(tmp_path, EMSchedule(3, 2), epochs=5)
    trainer.fit(method, data)
    trainer.fit_loop.max_epochs = 6
    trainer.fit(method, data)
    assert [round for round, _ in data.accepted] == [0, 1, 2] and sorted(method.trained) == list(range(6))


def test_a_fit_without_datamodule_is_told_to_give_one(tmp_path: Path) -> None:
    data = TinyData()
    with pytest.raises(ConfigError, match="Tiny needs a datamodule"):
        trainer_of(tmp_path, EMSchedule(2, 2)).fit(Tiny(), DataLoader(Rows(data.x, torch.zeros(13)), batch_size=2))


def test_matching_has_the_precision_of_the_fit(tmp_path: Path) -> None:
    seen = []

    class Seeing(Tiny):
        def match(self, batch: dict[str, Any]) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().match(batch)

    for precision in ("bf16-mixed", "32-true"):
        trainer_of(tmp_path, EMSchedule(1, 1), 1, precision=precision).fit(Seeing(), TinyData())
    assert seen == [True] * 5 + [False] * 5


def test_what_the_first_callback_has_set_up_for_an_e_step_is_there_for_all(tmp_path: Path) -> None:
    heard = []

    class Named(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_e_step_start(self, *_: Any) -> None:
            heard.append(f"start {self.name}")

        def on_e_step_end(self, *_: Any) -> None:
            heard.append(f"end {self.name}")

    trainer = trainer_of(tmp_path, EMSchedule(1, 1), 1)
    trainer.callbacks += [Named("a"), Named("b")]
    trainer.fit(Tiny(), TinyData())
    assert heard == ["start a", "start b", "end b", "end a"]


def test_an_error_in_the_e_step_ends_the_fit(tmp_path: Path) -> None:
    class Broken(Tiny):
        def match(self, batch: dict[str, Any]) -> Tensor:
            raise ValueError("no match")

    with pytest.raises(ValueError, match="no match"):
        trainer_of(tmp_path, EMSchedule(1, 1)).fit(Broken(), TinyData())


class Recorder(Tiny):
    """Writes the table that each process got, and its weights at the end."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def finish_matching(self, round: int, rows: Tensor, data: TinyData) -> None:
        torch.save(rows, f"{self.folder}/rows_{self.trainer.world_size}_{self.global_rank}_{round}.pt")
        super().finish_matching(round, rows, data)

    def on_fit_end(self) -> None:
        torch.save(weights(self), f"{self.folder}/weights_{self.trainer.world_size}_{self.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_get_the_table_of_one(tmp_path: Path) -> None:
    for world, strategy in ((1, "auto"), (2, "ddp_spawn")):
        trainer_of(tmp_path, EMSchedule(2, 1), epochs=2, devices=world, strategy=strategy).fit(
            Recorder(str(tmp_path)), TinyData()
        )

    def load(name: str) -> Tensor:
        return torch.load(tmp_path / f"{name}.pt")

    alone = load("rows_1_0_0")
    assert alone.shape == (POOL, 1) and alone.isfinite().all()
    for round in range(2):
        assert torch.equal(load(f"rows_2_0_{round}"), load(f"rows_2_1_{round}"))
    # Before the first epoch the weights are those of one process, so the merged table is its table.
    assert torch.allclose(load("rows_2_0_0"), alone, atol=1e-6)
    assert not torch.allclose(load("rows_2_0_1"), alone, atol=1e-3)


def test_rows_of_skipped_pictures_are_nan(tmp_path: Path) -> None:
    class Skipping(TinyData):
        def pool_dataloader(self, rank: int, world: int, round: int, count: int, own: bool) -> DataLoader:
            rows = Rows(self.x[LABELLED:], torch.zeros(POOL))
            return DataLoader(Subset(rows, [0, 2, 8]), batch_size=2)

    method = Tiny()
    taken: list[Tensor] = []
    method.finish_matching = lambda round, rows, data: taken.append(rows)
    trainer_of(tmp_path, EMSchedule(1, 1), epochs=1).fit(method, Skipping())
    assert taken[0].isfinite()[:, 0].nonzero()[:, 0].tolist() == [0, 2, 8]
