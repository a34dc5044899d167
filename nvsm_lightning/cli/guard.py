"""``nvsm fit --guard``: compare what EM has trained with a model of the labelled pictures alone; keep the better."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from nvsm_lightning.bench.jobs import COMPARED, Job, run_jobs
from nvsm_lightning.errors import ConfigError
from nvsm_lightning.methods.final import NULL, TRAINING_BANK
from nvsm_lightning.methods.guard import label_margin, mirror_agreement, pool_poses, standard_score
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.methods.stored import checkpoint_of, model_weights, read_model
from nvsm_lightning.report.results import write_json
from nvsm_lightning.training.checkpoint_io import WholeFileIO

PICTURES = 400  # of the pool: two shares then differ by chance by 3 points at most
MARGIN, AGREEMENT = "label_margin", "mirror_agreement"  # in guard.json
NAME = COMPARED
KEPT = "guard"  # of a checkpoint: whose weights it holds, where they are not those of its fit
LABELLED_ONLY = {
    "model": {"class_path": "NeMo"},
    "trainer": {"em": {"rounds": 0, "warmup_epochs": 0}},
    "guard": "none",
    "ckpt_path": None,  # that of this run, if it was resumed
}
OF_THIS_PROCESS = (
    "LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED",
    "WANDB_RUN_ID", "WANDB_SWEEP_ID",
)  # fmt: skip


def check(choice: str, resumed: str | None, method: Any, data: Any, trainer: Any) -> bool:
    """Whether there is something to guard. Not in a fit ``resumed`` from a checkpoint of its end that holds the guard's
    choice already.

    Raises:
        ConfigError: it is asked for, and cannot be done; or EM is to go on from weights that are not its own.
        WeightsError: the checkpoint that it names cannot be read, or is of another model.
    """
    if exchanged(resumed, trainer.max_epochs) or choice == "none":
        return False
    if not trainer.em.rounds or not isinstance(method, NeMo):
        rank_zero_warn("--guard: this fit has no E-step, so there is nothing to guard.")
        return False
    saver, last = trainer.checkpoint_callback, Path(trainer.default_root_dir, "checkpoints", "last.ckpt")
    if saver is None or saver.filename != "last" or Path(saver.dirpath or last.parent) != last.parent:
        raise ConfigError(
            f"--guard needs the checkpoint {last}, which this fit does not write: leave --checkpoint.filename and "
            "--checkpoint.dirpath as they are, and checkpoints on (--trainer.fast_dev_run turns them off)."
        )
    if not data.mirror:
        raise ConfigError("--guard asks for mirror images, and --data.mirror false says they are of another category.")
    if choice != "fit" and not Path(choice).expanduser().exists():
        raise ConfigError(f"--guard: there is no {choice}. Give none, fit, or the run or checkpoint of a NeMo fit.")
    if choice != "fit":
        read_model(checkpoint_of(choice), method, "--guard")
    elif trainer.world_size > 1:
        raise ConfigError(
            "--guard fit trains the second model in one process, for which the others would wait too long. Fit it by "
            "itself (--config configs/methods/nemo.yaml) and give its run: --guard RUN."
        )
    return True


def exchanged(resumed: str | None, max_epochs: int | None) -> bool:
    """Whether the guard has put other weights than EM's into the checkpoint at this path.

    Raises:
        ConfigError: it has, and ``max_epochs`` says that the fit is to go on.
    """
    if resumed is None or not Path(resumed).is_file():
        return False
    content = torch.load(resumed, map_location="cpu", weights_only=True, mmap=True)
    if KEPT not in content:
        return False
    done = content["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    if max_epochs is None or not 0 <= max_epochs <= done:
        raise ConfigError(
            f"{resumed} holds the model of the labelled pictures alone, which --guard has kept. EM goes on from its "
            f"own weights: --ckpt_path {Path(resumed).with_name('em.ckpt')}"
        )
    return True


def keep_better(choice: str, untrained: NeMo, method: NeMo, data: Any, trainer: Any, folder: Path) -> None:
    """Load the labelled-only weights into ``method`` if labels and pool speak for them
    (:mod:`nvsm_lightning.methods.guard`); ``untrained`` is a copy of it from before the fit.

    The outcome is written to ``guard.json``. Where EM has lost, its checkpoint is kept as ``checkpoints/em.ckpt`` and
    ``last.ckpt`` holds the weights that the fit ends with.
    """
    if choice == "fit" and trainer.is_global_zero:
        fit_labelled_only(folder, data)
    trainer.strategy.barrier("labelled-only fit")
    path = checkpoint_of(str(folder / NAME) if choice == "fit" else choice)
    em, null = {key: value.clone() for key, value in model_weights(method.state_dict()).items()}, method.model.null
    other, calibration = read_model(path, method, "--guard", [record.key for record in data.labelled])
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        untrained.to(trainer.strategy.root_device).eval().start_training(data)
    found = {"em": _asked(method, untrained, data, trainer)}
    method.load_state_dict(other, strict=False)
    method.model.null = None  # it is of the pool as EM's network scores it
    found[NAME] = _asked(method, untrained, data, trainer)
    for_em = {what: standard_score(found["em"][what], found[NAME][what]) for what in found["em"]}
    lost = sum(for_em.values()) < 0
    kept = trainer.strategy.broadcast(NAME if lost else "em")  # on GPUs the numbers may differ a little
    if kept == "em":
        method.load_state_dict(em, strict=False)
        method.model.null = null
    else:
        method.calibration = calibration
    if trainer.is_global_zero:
        means = {name: {what: float(each.double().mean()) for what, each in of.items()} for name, of in found.items()}
        content = {"kept": kept, **means, "standard_errors_for_em": for_em, "compared_with": str(path)}
        write_json(folder / "guard.json", content)
        for name, of in means.items():
            print(
                f"guard: {name.replace('_', '-')}: known poses {of[MARGIN]:.3f} above those turned around, by way of "
                f"the pool; {100 * of[AGREEMENT]:.1f} % of the pool agree with their mirror image"
            )
        told = " and ".join(f"{score:+.1f}" for score in for_em.values())
        print(f"guard: kept {kept.replace('_', '-')}; differences in standard errors, + for EM: {told}")
        if kept != "em":
            _exchange(folder / "checkpoints", method)
    trainer.strategy.barrier("guard")


def fit_labelled_only(folder: Path, data: Any) -> None:
    """The fit of this run's own configuration on the labelled pictures alone, in ``folder``/labelled_only; resumed if
    it was interrupted."""
    file = folder / f"{NAME}.yaml"
    # k-means would choose by another network's features
    words = ("--data.anchors", f"manual:{folder / 'tables' / 'labels.txt'}") if data.anchors == "kmeans" else ()
    file.write_text(yaml.safe_dump(LABELLED_ONLY), encoding="utf-8")
    before = {name: os.environ.pop(name) for name in OF_THIS_PROCESS if name in os.environ}
    try:
        job = Job(NAME, ("--config", str(folder / "config.yaml"), "--config", str(file), *words), tested=False)
        run_jobs([job], folder)
    finally:
        os.environ.update(before)


def _asked(method: NeMo, untrained: NeMo, data: Any, trainer: Any) -> dict[str, Tensor]:
    """The two answers on evenly spaced pictures of the pool, picture by picture, the same on every process."""
    method.to(trainer.strategy.root_device).eval()
    pool = data.pool_dataloader(0, max(1, len(data.pool) // PICTURES))
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        poses = pool_poses(method, pool)
        margin = label_margin(untrained, pool, poses, data.anchor_dataloader())
    return {MARGIN: margin.cpu(), AGREEMENT: mirror_agreement(poses).cpu()}


def _exchange(checkpoints: Path, method: NeMo) -> None:
    """Put the weights and the temperature of ``method`` into last.ckpt and keep what stood there as em.ckpt."""
    last = checkpoints / "last.ckpt"
    shutil.copyfile(last, checkpoints / "em.ckpt")
    content = torch.load(last, map_location="cpu", weights_only=True)
    content["state_dict"] = {key: value.cpu() for key, value in method.state_dict().items()}
    if "current_model_state" in content:  # beside an average of the weights
        content["current_model_state"] = content["state_dict"]
    method.calibration.save(content)
    for name in (NULL, TRAINING_BANK):
        content.pop(name, None)
    content[KEPT] = NAME
    WholeFileIO().save_checkpoint(content, last)  # the old one or the new one, whenever it is interrupted
