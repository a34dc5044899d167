"""What a finished fit has learned, read from its checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from nvsm_lightning.errors import WeightsError
from nvsm_lightning.methods.calibration import Calibration
from nvsm_lightning.methods.nemo import NeMo


def checkpoint_of(run: str) -> Path:
    """The checkpoint that is meant by a run folder or a file."""
    path = Path(run).expanduser()
    return path / "checkpoints" / "last.ckpt" if path.is_dir() else path


def read_model(
    path: Path, method: NeMo, option: str, labelled: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], Calibration]:
    """The weights and the bank in a checkpoint, as ``method`` has them, and the temperature of its poses. Warns where
    it was trained with other pictures than ``labelled``. ``option`` is what has named it.

    Raises:
        WeightsError: it cannot be read, or is of another network or mesh.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights = model_weights(content["state_dict"])
    except Exception as error:
        raise WeightsError(f"{option}: {path} cannot be read as a checkpoint ({type(error).__name__}).") from error
    mine = model_weights(method.state_dict())
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in mine.items()}:
        raise WeightsError(
            f"{option}: {path} is of another network or mesh than this fit; give one of the same settings."
        )
    states = [value["labelled"] for value in content.values() if isinstance(value, dict) and "labelled" in value]
    if labelled is not None and states and states[0] != list(labelled):
        rank_zero_warn(f"{option}: {path} was trained with other labelled pictures than this fit.")
    return weights, Calibration.load(content)


def model_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a method's state that are its model's: network and bank."""
    return {key: value for key, value in state.items() if key.startswith("model.")}
