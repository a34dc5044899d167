from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from layouts import pose_rows, truncate, write_picture
from lightning.pytorch import LightningModule, Trainer

from nvsm_lightning.data import CropSpec, PoseCSV, parts, sampling
from nvsm_lightning.data.augment import Augmentation
from nvsm_lightning.data.datasets import CropMemory
from nvsm_lightning.data.record import viewpoints
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.meshes import CATEGORY_EXTENT
from nvsm_lightning.geometry.viewpoints import azimuth_bin, mirror_viewpoint

SPEC = CropSpec(32, 64, 50.0)
UNCHANGED = Augmentation(*[0.0] * 9)


@pytest.fixture
def folder(write_csv):
    """24 train, 4 val, 5 test pictures with labels, 6 without."""
    rows = pose_rows(24, "train") + pose_rows(4, "val", 24) + pose_rows(5, "test", 28)
    return write_csv(rows + pose_rows(6, None, 33, labelled=False))


def make(folder, stage="fit", **kwargs) -> PoseCSV:
    data = PoseCSV(str(folder), **{"label_seed": 0, "crop": SPEC, "batch_size": 4, "epoch_images": 16, **kwargs})
    data.setup(stage)
    return data


def accept(data: PoseCSV, index=(2, 9, 5)) -> None:
    index = torch.tensor(index)
    data.accept(
        1, index, torch.stack((index.float() / 4, index * 0.0, index * 0.0), -1), torch.full((len(index),), 0.5)
    )


def indices(loader) -> list[int]:
    return [index for batch in loader for index in batch["index"].tolist()]


def test_parts_and_hidden_truth(folder) -> None:
    data = make(folder)
    assert [len(part) for part in (data.labelled, data.pool, data.val, data.test)] == [7, 23, 4, 5]
    assert not {r.key for r in data.labelled} & {r.key for r in data.pool}
    for batch in data.pool_dataloader():
        assert batch["viewpoint"].isnan().all()
    assert data.pool_truth().isnan().all(-1).sum() == 6  # the rows without label
    before = data.labelled
    data.setup("test")
    assert data.labelled is before


def test_the_mesh_of_a_picture_reaches_its_batches_and_that_of_the_pool_stays_hidden(write_csv) -> None:
    rows = pose_rows(12, "train") + pose_rows(3, "test", 12)
    data = make(write_csv([row | {"cad_index": 1 + number % 3} for number, row in enumerate(rows)]), labels=4)

    def subtypes(loader) -> list[int]:
        return [number for batch in loader for number in batch["subtype"].tolist()]

    kinds = [record.subtype for record in data.labelled]
    assert len(set(kinds)) > 1 and set(kinds) <= {1, 2, 3}
    assert subtypes(data.anchor_dataloader()) == kinds * 2
    assert subtypes(data.pool_dataloader()) == [0] * 8
    accept(data, (0, 3))
    assert subtypes(data.labelled_and_pseudo_dataloader(False)) == [*kinds, 0, 0]
    assert subtypes(data.test_dataloader()) == [1, 2, 3]


def test_loaders_orders_and_shards(folder) -> None:
    data = make(folder)
    assert indices(data.val_dataloader()) == list(range(4)) and indices(data.test_dataloader()) == list(range(5))
    assert indices(data.pool_dataloader()) == list(range(23))
    assert indices(data.pool_dataloader(1, 3)) == list(range(1, 23, 3))
    anchors = list(data.anchor_dataloader())
    assert indices(anchors) == list(range(7)) * 2 and torch.cat([b["mirrored"] for b in anchors]).sum() == 7
    assert indices(make(folder, mirror=False).anchor_dataloader()) == list(range(7))
    few = make(folder, mirror=False).anchor_dataloader(limit=3)
    chosen, poses = indices(few), torch.cat([batch["viewpoint"] for batch in few])
    assert len(chosen) == 3 and chosen == sorted(chosen)
    assert torch.equal(poses, torch.cat([batch["viewpoint"] for batch in anchors])[chosen])
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 64) and len(batch["camera"]) == 4


def test_training_uses_labelled_then_pseudo(folder) -> None:
    data = make(folder, epoch_images=40)
    assert set(indices(data.train_dataloader())) == set(range(7))
    accept(data)
    loader = data.train_dataloader()
    seen = {}
    for batch in loader:
        for position, weight in zip(batch["index"].tolist(), batch["weight"].tolist(), strict=True):
            seen.setdefault(position, weight)
    assert set(seen) == {*range(7), 7 + 2, 7 + 5, 7 + 9}
    assert all(weight == (1.0 if position < 7 else 0.5) for position, weight in seen.items())
    plain = list(data.labelled_and_pseudo_dataloader(mirrored=False))
    assert indices(plain) == [*range(7), 9, 12, 16]
    shown = torch.cat([batch["viewpoint"] for batch in plain])
    torch.testing.assert_close(shown[7:, 0], torch.tensor([2.0, 5.0, 9.0]) / 4)
    assert len(indices(data.labelled_and_pseudo_dataloader())) == 20
    with pytest.raises(ConfigError, match="epoch_images"):
        make(folder, epoch_images=3).train_dataloader()


def shown(loader) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """(index, picture, viewpoint) of everything in a loader."""
    columns = [(batch["index"].tolist(), batch["image"], batch["viewpoint"]) for batch in loader]
    return [item for each in columns for item in zip(*each, strict=True)]


@pytest.mark.parametrize("mirror", [False, True])
def test_only_pictures_of_a_symmetric_category_are_mirrored_in_training(folder, mirror) -> None:
    data = make(folder, mirror=mirror, augment=replace(UNCHANGED, mirror=1.0))
    plain = {index: picture for index, picture, _ in shown(data.labelled_and_pseudo_dataloader(mirrored=False))}
    known = viewpoints(data.labelled)
    drawn = shown(data.train_dataloader())
    assert len(drawn) == 16
    for index, picture, viewpoint in drawn:
        assert torch.allclose(picture, plain[index].flip(-1) if mirror else plain[index], atol=1e-5)
        assert viewpoint.equal(mirror_viewpoint(known[index]) if mirror else known[index])
    assert len(indices(data.labelled_and_pseudo_dataloader())) == (14 if mirror else 7)
    assert data.train_dataloader().dataset.extent == CATEGORY_EXTENT["car"]  # of what may be pasted on


def test_training_pictures_alone_are_changed_and_as_asked(folder) -> None:
    data = make(folder, mirror=False, augment=replace(UNCHANGED, grayscale=1.0))
    assert all(picture.std(0).max() < 0.01 for _, picture, _ in shown(data.train_dataloader()))
    loaders = (data.labelled_and_pseudo_dataloader(), data.anchor_dataloader(), data.val_dataloader())
    assert all(picture.std(0).max() > 0.1 for loader in loaders for _, picture, _ in shown(loader))


@pytest.mark.parametrize(("share", "labelled"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_labelled_pictures_have_their_share_of_an_epoch(folder, share, labelled) -> None:
    data = make(folder, labelled_share=share)
    accept(data)
    assert sum(index < 7 for index in indices(data.train_dataloader())) == labelled


@pytest.mark.parametrize(("balance", "expected"), [(True, [1 / 6, 1 / 6, 1 / 3, 1 / 3]), (False, [1 / 4] * 4)])
def test_pseudo_labelled_pictures_are_drawn_equally_from_all_views_if_asked(folder, balance, expected) -> None:
    data = make(folder, balance=balance)
    accept(data, (1, 2, 3, 9))  # at 14, 29, 43 and 129 degrees: the first two are in one bin
    assert data.train_dataloader().sampler.probability.tolist() == pytest.approx(expected)


def test_training_is_repeatable(folder) -> None:
    batches = []
    for _ in range(2):
        data = make(folder)
        accept(data)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)
        batches.append(next(iter(loader))["image"])
    assert batches[0].equal(batches[1])


def test_worker_processes_give_the_same_batches(folder) -> None:
    alone, helped = make(folder), make(folder, num_workers=1)
    for first, second in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert first["image"].equal(second["image"]) and first["camera"].principal.equal(second["camera"].principal)


def test_state_round_trip(folder, tmp_path) -> None:
    data = make(folder)
    accept(data)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = make(folder)
    other.load_state_dict(state)
    assert other.round == 1
    for mine, theirs in zip(other.pseudo_labels, data.pseudo_labels, strict=True):
        assert mine.equal(theirs)
    with pytest.raises(DataError, match="category 'car', this run of 'bus'"):
        make(folder, category="bus").load_state_dict(state)
    with pytest.raises(DataError, match="other labelled pictures"):
        make(folder, label_seed=5).load_state_dict(state)
    with pytest.raises(DataError, match="another pool"):
        make(folder, pool_limit=3).load_state_dict(state)
    with pytest.raises((ValueError, TypeError)):  # TypeError: where shapes are checked at run time
        data.accept(0, torch.arange(2), torch.zeros(1, 3), torch.ones(2))


def test_processes_share_the_pictures_that_are_evaluated(folder) -> None:
    def part(rank: int, world: int, name: str) -> list[int]:
        data = make(folder)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, state=SimpleNamespace(fn=None))
        return indices(getattr(data, f"{name}_dataloader")())

    for name in ("val", "test"):
        everything = part(0, 1, name)
        assert everything == list(range(len(everything))) and len(everything) >= 3
        assert [part(rank, 2, name) for rank in range(2)] == [everything[0::2], everything[1::2]]
        assert part(1, 30, name) == everything  # none is left without a picture: it would not take part in the result


def test_processes_share_the_draws_of_training_which_follow_the_seed(folder) -> None:
    def drawn(rank: int, world: int, seed: int = 3) -> list[tuple[int, int]]:
        data = make(folder, label_seed=seed)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        return list(data.train_dataloader().sampler)

    alone = drawn(0, 1)
    assert len(alone) == 16 and [drawn(rank, 2) for rank in range(2)] == [alone[0::2], alone[1::2]]
    assert drawn(0, 1, seed=0) != alone


def test_the_seed_draws_what_a_limit_leaves_and_what_a_round_looks_at(folder) -> None:
    data, limited = make(folder, label_seed=3), make(folder, label_seed=3, pool_limit=5)
    assert limited.pool == parts.limit_pool(data.pool, 5, 3) != parts.limit_pool(data.pool, 5, 0)
    rounds = [indices(data.pool_dataloader(round=round, count=6)) for round in range(3)]
    assert rounds == [parts.part_of_pool(range(23), 6, round, 3) for round in range(3)]
    assert rounds[0] != parts.part_of_pool(range(23), 6, 0, 0) and torch.tensor(rounds).unique().numel() == 18


@pytest.mark.parametrize(("room", "kept"), [(39, (30, 4, 5)), (38, (30, 0, 0))])
def test_where_memory_is_short_it_is_for_labelled_pictures_and_pool(folder, room, kept) -> None:
    """39 crops of 6,144 bytes; validation and test pictures, decoded first and shown last, leave the pool its share."""
    data = make(folder)
    data._memory = CropMemory(room * 6144 / 1e6)
    data._divide(data.labelled, "fit")
    indices(data.pool_dataloader())
    indices(data.val_dataloader())
    crops = [data._crops[part] for part in ("train", "val", "test")]
    assert tuple(len(each._kept) for each in crops) == kept


def test_label_lists_can_be_given_back(folder, tmp_path) -> None:
    data = make(folder, labels=9)
    data.write_label_list(tmp_path / "tables" / "labels.txt")
    again = make(folder, labels=7, label_seed=99, label_list=str(tmp_path / "tables" / "labels.txt"))
    assert [r.key for r in again.labelled] == [r.key for r in data.labelled][:7]
    with pytest.raises(DataError, match="25 labels were asked for, but the train part has only 24"):
        make(folder, labels=25)


def test_label_seed_follows_seed_everything(folder, monkeypatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert [r.key for r in make(folder, label_seed=None).labelled] == [
        r.key for r in make(folder, label_seed=5).labelled
    ]
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert make(folder, label_seed=None).seed == 0


def test_damaged_pool_pictures_are_skipped_counted_and_listed(folder) -> None:
    data = make(folder)
    for position in (3, 8):
        truncate(data.pool[position].image)
    data = make(folder, keep_crops=False)
    with pytest.warns(UserWarning, match=r"2 of 23 pool pictures are damaged and skipped:\n.*truncated"):
        assert indices(data.pool_dataloader()) == [k for k in range(23) if k not in (3, 8)]
    assert indices(data.pool_dataloader(1, 2)) == [k for k in range(23) if k not in (3, 8)][1::2]
    assert [key for key, _ in data.skipped] == [data.pool[3].key, data.pool[8].key]
    for record in data.pool:
        record.image.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="23 of 23"),
        pytest.raises(DataError, match="None of the 23 pool pictures can be read"),
    ):
        make(folder).pool_dataloader()


@pytest.mark.parametrize("part", ["labelled", "val", "test"])
def test_damaged_labelled_pictures_end_the_run_at_once(folder, part) -> None:
    image = getattr(make(folder), part)[1].image
    truncate(image)
    with pytest.raises(DataError, match=rf"1 pictures with a pose are damaged; .*{image.name}"):
        make(folder)


def test_empty_pool_and_missing_folders(write_csv, tmp_path) -> None:
    folder = write_csv(pose_rows(7, "train") + pose_rows(2, "test", 7))
    with pytest.warns(UserWarning, match="no validation part"):
        data = make(folder)
    assert data.val_dataloader() == [] and indices(data.test_dataloader()) == [0, 1]
    assert len(indices(data.train_dataloader())) == 16  # labels alone can be trained on
    with pytest.raises(DataError, match=r"pool of .* is empty"):
        data.pool_dataloader()
    with pytest.raises(DataError, match=r"none' does not exist; give .* --data.root"):
        make(tmp_path / "none")
    with pytest.warns(UserWarning), pytest.raises(DataError, match="has no test part"):
        make(write_csv(pose_rows(8, "train"), name="other")).test_dataloader()


def test_test_root_replaces_the_test_part(folder, write_csv) -> None:
    rows = pose_rows(3, "train") + pose_rows(2, None, 3, labelled=False)
    other = write_csv(rows[1:] + rows[:1], name="other")  # other pictures of the same names
    data = make(folder, test_root=str(other))
    assert [record.image.parent.name for record in data.test] == ["other"] * 3 and len(data.pool) == 23
    with pytest.raises(DataError, match="also used for training"):
        make(folder, test_root=str(folder))
    with pytest.raises(DataError, match="3 test pictures are also used for training"):
        make(folder, test_root=str(write_csv(rows, name="copies")))


def test_predict_over_a_folder_of_pictures(folder, tmp_path) -> None:
    pictures = tmp_path / "mine"
    for name in ("b.JPG", "sub dir/a.png", "c.jpeg"):
        write_picture(pictures / name)
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    data = PoseCSV("no such folder", folder=str(pictures), crop=SPEC)
    data.setup("predict")
    with pytest.warns(UserWarning, match="1 of 4 pictures of the folder are damaged"):
        batch = next(iter(data.predict_dataloader()))
    assert [data.predicted[index].key for index in batch["index"].tolist()] == ["b.JPG", "c.jpeg", "sub dir/a.png"]
    assert batch["camera"].box.isfinite().all() and data.skipped[0][0] == "broken.jpg"
    empty = tmp_path / "empty"
    empty.mkdir()
    data.folder = str(empty)
    with pytest.raises(DataError, match="holds no pictures"):
        data.predict_dataloader()
    plain = make(folder, "predict")
    assert indices(plain.predict_dataloader()) == list(range(5)) and plain.predicted == plain.test  # without a folder


@pytest.mark.parametrize("bad", [{"labels": 0}, {"batch_size": 0}, {"labelled_share": 1.5}])
def test_senseless_settings_are_refused(bad) -> None:
    with pytest.raises(ConfigError, match="--data: labels and batch_size"):
        PoseCSV("anywhere", **bad)


class Recorder(LightningModule):
    """Notes which draws each epoch sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[int, list] = {}

    def training_step(self, batch):
        self.seen.setdefault(self.current_epoch, []).append(batch["image"].mean((1, 2, 3)))
        return self.layer(batch["weight"][:, None]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def test_resuming_at_an_epochs_end_sees_the_same_pictures(folder, tmp_path) -> None:
    def fit(epochs: int, checkpoint=None) -> tuple[Trainer, Recorder, PoseCSV]:
        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        model, data = Recorder(), PoseCSV(str(folder), label_seed=0, crop=SPEC, batch_size=4, epoch_images=16)
        data.setup("fit")
        if checkpoint is None:
            accept(data)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
        return trainer, model, data

    _, whole, _ = fit(3)
    trainer, _, _ = fit(2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    _, resumed, data = fit(3, tmp_path / "two.ckpt")
    assert data.round == 1 and data.pseudo_labels[0].tolist() == [2, 5, 9]
    assert list(resumed.seen) == [2]
    assert torch.cat(resumed.seen[2]).equal(torch.cat(whole.seen[2]))
    assert not torch.cat(whole.seen[1]).equal(torch.cat(whole.seen[2]))


def test_a_limit_keeps_all_labels_and_spaces_the_others(folder) -> None:
    data = make(folder)
    accept(data)
    assert indices(data.labelled_and_pseudo_dataloader(mirrored=False, limit=9)) == [*range(7), 9, 12]


def test_many_labels_leave_room_in_the_limit_and_are_spread_too(folder, monkeypatch) -> None:
    monkeypatch.setattr(sampling, "MANY_LABELS", 7)
    data = make(folder)
    accept(data)
    chosen = indices(data.labelled_and_pseudo_dataloader(mirrored=False, limit=4))
    assert chosen[2:] == [9, 12] and len(chosen) == 4
    turns = azimuth_bin(viewpoints(data.labelled), 12)[chosen[:2]]
    assert len(turns.unique()) == 2
    assert indices(data.labelled_and_pseudo_dataloader(mirrored=False, limit=8))[-3:] == [9, 12, 16]


def test_many_labels_are_drawn_equally_from_all_views(folder, monkeypatch) -> None:
    assert make(folder).train_dataloader().sampler.labelled_probability is None
    monkeypatch.setattr(sampling, "MANY_LABELS", 7)
    data = make(folder)
    probability = data.train_dataloader().sampler.labelled_probability
    bins = azimuth_bin(viewpoints(data.labelled), 12)
    shares = torch.zeros(12).index_add(0, bins, probability)
    assert torch.allclose(shares[bins.unique()], torch.tensor(1.0 / len(bins.unique())))
    assert make(folder, balance=False).train_dataloader().sampler.labelled_probability is None
