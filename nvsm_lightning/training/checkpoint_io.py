"""Checkpoints that are either the old or the whole new file, also when the process is killed while writing."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO


class WholeFileIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames. Lightning writes into the system's folder for temporary files and moves
    from there, which is a copy, and half a file when interrupted, where that folder lies on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save to a local file so; anywhere else as Lightning does."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        part = path.with_name(f".{path.name}.part")  # always the same name: what a killed process left is written over
        try:
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:  # a full disk: leave the space to others
            part.unlink(missing_ok=True)
            raise
