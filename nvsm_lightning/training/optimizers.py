"""The optimiser that all methods here share, so that a learning rate means the same for each."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


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
    groups = [
        {"params": [parameter for parameter in part if parameter.requires_grad], "lr": rate}
        for part, rate in ((trunk, trunk_rate), (head, head_rate))
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], weight_decay=weight_decay)
    return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.2)]
