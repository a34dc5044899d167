import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from nvsm_lightning.training.checkpoint_io import WholeFileIO
from nvsm_lightning.training.trainer import EMTrainer


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch) -> None:
    path, replace = tmp_path / "run" / "last.ckpt", os.replace
    store = WholeFileIO()
    store.save_checkpoint({"epoch": 1}, path)

    def killed(part: Path, target: Path) -> None:
        assert Path(part).parent == path.parent  # on the same disk: renaming is one step
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path) == {"epoch": 1}
    monkeypatch.setattr(os, "replace", replace)
    store.save_checkpoint({"epoch": 3}, path)
    assert torch.load(path) == {"epoch": 3} and list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    WholeFileIO().save_checkpoint({"epoch": 1}, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        WholeFileIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


def test_the_trainer_uses_it_unless_told_otherwise() -> None:
    quiet = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    assert isinstance(EMTrainer(**quiet).strategy.checkpoint_io, WholeFileIO)
    assert not isinstance(Trainer(**quiet).strategy.checkpoint_io, WholeFileIO)
    other = type("Other", (WholeFileIO,), {})()
    assert EMTrainer(plugins=[other], **quiet).strategy.checkpoint_io is other
