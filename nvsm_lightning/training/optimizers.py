"""The optimiser that all methods here share, so that a learning rate means the same for each."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from nvsm_lightning.errors import ConfigError

FALL = 0.2  # of the rates, at each milestone


def counted_from_start(milestones: list[int], trainer: Any) -> list[int]:
    """Milestones with the negative ones, which count back from the last epoch of ``trainer``, counted from the first.

    Raises:
        ConfigError: the fit has no last epoch, or fewer epochs than a milestone counts back.
    """
    if all(each >= 0 for each in milestones):
        return milestones
    if getattr(trainer, "fast_dev_run", False):  # one epoch, to see that everything runs
        return []
    epochs = getattr(trainer, "max_epochs", None) or -1
    if epochs + min(milestones) < 0:
        raise ConfigError(
            f"model.milestones {milestones} count back from the last epoch, and trainer.max_epochs is {epochs}. "
            "Train longer, or set --model.milestones [] for rates that do not fall."
        )
    return [each if each >= 0 else epochs + each for each in milestones]


def two_rates(
    trunk: Iterable[nn.Parameter],
    head: Iterable[nn.Parameter],
    trunk_rate: float,
    head_rate: float,
    weight_decay: float,
    milestones: list[int],
) -> Any:
    """Adam with one rate for the pretrained trunk and one for the head, both times 0.2 after the milestones (epochs).

    Frozen parameters are left out. In the form of Lightning's ``configure_optimizers``.
    """
    return _adam([(trunk, trunk_rate), (head, head_rate)], weight_decay, milestones)


def stage_rates(
    trunk: nn.Module,
    head: Iterable[nn.Parameter],
    trunk_rate: float,
    head_rate: float,
    weight_decay: float,
    milestones: list[int],
    layer_decay: float,
) -> Any:
    """:func:`two_rates`, but every stage of the trunk (``conv1`` with its norm, ``layer1``, ...) has ``layer_decay``
    times the rate of the stage above it; the topmost one has ``trunk_rate``.
    """
    if layer_decay == 1:
        return two_rates(trunk.parameters(), head, trunk_rate, head_rate, weight_decay, milestones)
    stages: dict[str, list[nn.Parameter]] = {}
    for name, parameter in trunk.named_parameters():
        stage = name.split(".")[0].replace("bn1", "conv1")  # torchvision's name of the norm of the first stage
        stages.setdefault(stage, []).append(parameter)
    top = len(stages) - 1
    groups = [(stage, trunk_rate * layer_decay ** (top - below)) for below, stage in enumerate(stages.values())]
    return _adam([*groups, (head, head_rate)], weight_decay, milestones)


def _adam(parts: list[tuple[Iterable[nn.Parameter], float]], weight_decay: float, milestones: list[int]) -> Any:
    groups = [
        {"params": [parameter for parameter in part if parameter.requires_grad], "lr": rate} for part, rate in parts
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], weight_decay=weight_decay)
    return [optimizer], [Milestones(optimizer, milestones, FALL)]


class Milestones(torch.optim.lr_scheduler.MultiStepLR):
    """Rates that fall at this fit's milestones, also when it goes on from the checkpoint of a shorter one, whose
    milestones counted back from another last epoch."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The state of a checkpoint, but for its milestones; the rates are those of the epoch that comes next."""
        mine = self.milestones
        super().load_state_dict(state_dict)
        if mine == self.milestones:  # also to the last bit as if the fit had not been interrupted
            return
        self.milestones = mine
        passed = sum(epoch <= self.last_epoch for epoch in mine.elements())
        for group, rate in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = rate * FALL**passed
