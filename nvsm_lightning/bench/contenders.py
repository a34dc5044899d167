"""Features that are compared by a measurement: frozen taps of a backbone, random weights, trained checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from nvsm_lightning.errors import ConfigError, WeightsError
from nvsm_lightning.features.backbone import Backbone, BackboneSpec

FROZEN = ("layer2", "layer3", "layer4", "project", "random")
PREFIX = "model.backbone."  # of the backbone in the checkpoints of NeMo and NVSM


@dataclass(frozen=True)
class Contender:
    """Features under a name.

    Attributes:
        name: in tables and plots.
        build: makes the network; called when its turn has come, so that one network is in memory at a time.
        epochs: epochs of training behind it; 0 for frozen features, None for random weights.
        centred: the network brings its own centre; otherwise it is set from the labelled pictures, as a fit does.
    """

    name: str
    build: Callable[[], Backbone]
    epochs: int | None = 0
    centred: bool = False


class TapHead(nn.Module):
    """One tap of the trunk as it is: unit vectors, at the size of the finest tap (stride 8)."""

    def __init__(self, tap: int) -> None:
        super().__init__()
        self.tap = tap

    def forward(self, taps: list[Tensor]) -> Tensor:
        """The tap at the size of the finest one, as unit vectors."""
        part = nnf.normalize(taps[self.tap], dim=1)
        return nnf.interpolate(part, taps[0].shape[-2:], mode="bilinear", align_corners=False)


def frozen_contenders(spec: BackboneSpec, names: Sequence[str], seed: int = 0) -> list[Contender]:
    """Untrained features of the network that ``spec`` names.

    ``layer2``, ``layer3`` (and ``layer4`` under the head upsample) are single taps with all their channels,
    ``project`` is both finest taps under the random projection that a fit starts from, ``random`` the same network
    without any pretrained weight.

    Raises:
        ConfigError: a name that does not exist.
    """
    unknown = [name for name in names if name not in FROZEN]
    if unknown:
        raise ConfigError(f"Unknown features {unknown}. Choose some of {', '.join(FROZEN)}.")
    return [_frozen(spec, name, seed) for name in names]


def _frozen(spec: BackboneSpec, name: str, seed: int) -> Contender:
    def build() -> Backbone:
        """The untrained network."""
        torch.manual_seed(seed)  # the projection of a network does not depend on what was built before it
        if name == "random":
            return Backbone(replace(spec, weights="none", head="project"))
        if name == "project":
            return Backbone(replace(spec, head="project"))
        backbone = Backbone(spec)
        tap = int(name[-1]) - 2
        if tap >= len(backbone.trunk.channels):
            raise ConfigError(
                f"{spec.name} with head {spec.head!r} ends before {name}; leave {name} out of --features."
            )
        backbone.head = TapHead(tap)
        backbone.center = torch.zeros(backbone.trunk.channels[tap], 1, 1)
        return backbone

    label = "random weights" if name == "random" else f"frozen {name}"
    return Contender(label, build, None if name == "random" else 0)


def trained_contender(name: str, spec: BackboneSpec, state: dict[str, Tensor], epochs: int | None) -> Contender:
    """The backbone of a checkpoint: ``spec`` and ``state`` (the whole state dict) as stored in it.

    Raises:
        WeightsError: when it is built, if the state holds no such backbone.
    """
    own = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}

    def build() -> Backbone:
        """The network with the weights that a fit has trained."""
        backbone = Backbone(replace(spec, weights="none"))
        try:
            backbone.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(
                f"{name} holds no backbone of the kind its settings speak of ({str(error).splitlines()[0]}). "
                "Give a checkpoint of NeMo or NVSM."
            ) from error
        return backbone

    return Contender(name, build, epochs, centred=True)
