"""What a checkpoint says about the model it needs, checked before anything is built."""

from pathlib import Path
from typing import Any

import torch

from nvsm_lightning.errors import ConfigError, WeightsError

LIGHTNING_NAMES = ("best", "last", "hpc")  # found by Lightning itself


def read_hyper_parameters(path: str) -> dict[str, Any]:
    """The settings of the model stored in a checkpoint: ``{"class_path": ..., "init_args": {...}}``.

    Raises:
        WeightsError: if there is no such file, it is incomplete, or it is not a checkpoint of this program.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"No checkpoint at {file}. Runs keep theirs in <run>/checkpoints/last.ckpt.")
    try:
        # mmap: only the settings are read, not the tensors
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise WeightsError(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}). It may be incomplete: "
            "use an earlier one, or start the fit anew."
        ) from error
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not settings or "_class_path" not in settings:
        raise WeightsError(
            f"{file} holds no settings of a model: it is not a checkpoint of `nvsm fit`. A file with "
            "weights alone belongs to --model.backbone.weights."
        )
    settings = {key: value for key, value in settings.items() if key != "_instantiator"}
    backbone = settings.get("backbone")
    if isinstance(backbone, dict) and backbone.get("last") == "auto":
        # It followed from the weight file, which is not needed again (:func:`without_weight_file`).
        ends = any(".layer4." in key for key in content.get("state_dict", {}))
        settings["backbone"] = {**backbone, "last": "layer4" if ends else "layer3"}
    return {"class_path": settings.pop("_class_path"), "init_args": settings}


def check_category(path: str, stored: dict[str, Any], category: str | None) -> None:
    """Raise a ConfigError if the checkpoint was trained for another category than the data's."""
    trained = stored["init_args"].get("category")
    if trained and category and trained != category:
        raise ConfigError(
            f"{path} was trained for category {trained!r}, but the data is of category {category!r}. Give data of "
            f"{trained!r} (--data.category {trained}), or a checkpoint of {category!r}."
        )


def without_weight_file(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings with random initial backbone weights: the checkpoint brings all weights itself.

    So a model can be tested on a machine that never had the weight file it started from.
    """
    backbone = settings["init_args"].get("backbone")
    if isinstance(backbone, dict) and "weights" in backbone:
        settings = {**settings, "init_args": {**settings["init_args"], "backbone": {**backbone, "weights": "none"}}}
    return settings
