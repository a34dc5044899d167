"""A small fit in a process of its own, which may be told to kill itself: for tests/test_kills.py.

Importing it imports all that a fit needs; the fork server of that test does so once.
"""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from nvsm_lightning.data import CropSpec, ToyCars
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.methods import NVSM
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.neural_mesh import BankSettings
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.averaging import MovingAverage
from nvsm_lightning.training.schedule import EMSchedule
from nvsm_lightning.training.trainer import EMTrainer

# What a fit does one after another: one of these calls is an event at which it may die.
EVENTS = (
    "start_matching", "match", "finish_matching", "training_step", "on_before_optimizer_step", "on_train_epoch_end",
    "measure_null",
)  # fmt: skip
EM = EMSchedule(rounds=2, epochs_per_round=2, warmup_epochs=1, restarts=[0])
EPOCHS = 5


def events_of(method: NVSM, log: Path | None, kill_at: int | None) -> None:
    """Count the events of a fit; write their names to ``log``; at number ``kill_at`` end the process, as by kill -9."""
    count = 0

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{name}\n")
            return function(*args, **kwargs)

        return call

    for name in EVENTS:
        setattr(method, name, watched(name, getattr(method, name)))


def fit(folder: str, backbone: str, root: str, kill_at: int | None = None) -> None:
    """Fit, or resume where ``folder`` holds a checkpoint; the end result goes to ``folder``/result.pt."""
    torch.set_num_threads(1)
    run = Path(folder)
    seed_everything(0, verbose=False)
    method = NVSM(
        backbone=BackboneSpec(name=backbone, dim=16), mesh=MeshSpec(vertices=80), bank=BankSettings(clutter_size=64),
        space=PoseSpace(12, [10.0], [0.0]), solver=SolverSettings(steps=2), engine="torch",
        selection=SelectionSettings(ring_deg=180.0, first_share=0.6, last_share=0.9), milestones=[-2],
        match=MatchSettings(calibration="robust", later_calibration="balanced", final_calibration="balanced"),
    )  # fmt: skip
    data = ToyCars(
        root=root, labels=4, crop=CropSpec(32, 64, 50.0), batch_size=4, epoch_images=12, pool_limit=10, label_seed=0
    )
    averages = [MovingAverage(0.8)] if backbone == "small" else []
    trainer = EMTrainer(
        em=EM, max_epochs=EPOCHS, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, default_root_dir=run,
        use_distributed_sampler=False,
        callbacks=[
            *averages,  # as nvsm_lightning/cli/base.yaml:
            ModelCheckpoint(
                run, filename="last", save_top_k=1, every_n_epochs=1, save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        ],
    )  # fmt: skip
    log = run / "events.txt" if kill_at is None else None
    run.mkdir(parents=True, exist_ok=True)
    events_of(method, log, kill_at)
    checkpoint = run / "last.ckpt"
    trainer.fit(method, data, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    optimizer = trainer.optimizers[0].state_dict()["state"]
    state = {f"{key} {name}": value for key, values in optimizer.items() for name, value in values.items()}
    labels = dict(zip(("index", "viewpoint", "weight"), data.pseudo_labels, strict=True))
    rates = {f"rate {n}": torch.tensor(group["lr"]) for n, group in enumerate(trainer.optimizers[0].param_groups)}
    torch.save({**method.state_dict(), **state, **labels, **rates, "null": method.model.null}, run / "result.pt")
