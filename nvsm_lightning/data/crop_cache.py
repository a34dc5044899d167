"""Canonical crops kept on disk: the next run, or the next picture that memory has no room for, need not decode."""

import contextlib
import hashlib
import os
import tempfile
import zlib
from dataclasses import astuple
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from nvsm_lightning.data.crops import CropSpec
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera

LAYOUT = 2  # part of every name: another layout, or another way of cutting crops, finds nothing old
NUMBERS = (1, 1, 2, 4, 4)  # of a camera's tensors
CRC = 4  # bytes

Crop = tuple[UInt8[Tensor, "3 height width"], Camera]


class CropCache:
    """A folder of crops, one ``.npy`` file of bytes each: the pixels, the camera (float32), and a checksum.

    A crop is found by the picture's path, size and time of change, by what its label says of the camera, and by the
    settings of the crop; whatever changes gives another name. Files are written beside and moved into place, so that
    several processes may share a folder. A file that is broken counts as absent and is written anew.

    Args:
        folder: where; it is made. May be deleted at any time.
        megabytes: what all crops in it may take up; further ones are not kept.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, megabytes: float = 50_000) -> None:
        self.folder, self.size, self._written = folder.expanduser(), megabytes * 1e6, 0
        self._writes = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--data.crop_cache {folder} cannot be made ({error}); name another folder.") from error

    def path(self, record: Record, spec: CropSpec) -> Path | None:
        """The file that the crop of a picture is kept in; None if there is no such picture."""
        try:
            stored = record.image.stat()
        except OSError:
            return None
        label = (record.distance, record.focal_px, record.principal, record.box, record.turned, record.warp)
        file = (str(record.image.resolve()), stored.st_size, stored.st_mtime_ns)
        words = repr((LAYOUT, PIL.__version__, file, label, astuple(spec)))
        name = hashlib.sha256(words.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name[2:]}.npy"

    def read(self, path: Path, spec: CropSpec) -> Crop | None:
        """The crop kept in a file; None if there is none or it is broken."""
        pixels, numbers = 3 * spec.height * spec.width, 4 * sum(NUMBERS)
        try:
            content = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if content.dtype != np.uint8 or content.shape != (pixels + numbers + CRC,):
            return None
        if content[-CRC:].tobytes() != _checksum(content[:-CRC]):
            return None
        picture = torch.from_numpy(content[:pixels].copy()).view(3, spec.height, spec.width)
        camera = torch.from_numpy(content[pixels:-CRC].copy()).view(torch.float32).split(NUMBERS)
        return picture, Camera(*_shaped(camera))

    def write(self, path: Path, crop: Crop) -> None:
        """Keep a crop, if there is room. A full disk is said once and ends the writing, nothing else."""
        if not self._writes:
            return
        picture, camera = crop
        numbers = torch.cat([part.flatten() for part in camera.tensors()]).float()
        content = np.concatenate((picture.contiguous().numpy().ravel(), numbers.numpy().view(np.uint8)))
        content = np.concatenate((content, np.frombuffer(_checksum(content), np.uint8)))
        if self._found + self._written + content.nbytes > self.size:
            self._stop(f"it is full ({self.size / 1e6:.0f} MB)")
            return
        try:
            path.parent.mkdir(exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.save(file, content)
                os.replace(beside, path)
            except BaseException:
                Path(beside).unlink(missing_ok=True)
                raise
        except OSError as error:
            self._stop(str(error))
        self._written += content.nbytes

    def count(self) -> int:
        """How many crops lie there."""
        return sum(1 for _ in self.folder.glob("*/*.npy"))

    @cached_property
    def _found(self) -> int:
        """Bytes that lay there at the first write."""
        total = 0
        for file in self.folder.glob("*/*.npy"):
            with contextlib.suppress(FileNotFoundError):  # another process has deleted it
                total += file.stat().st_size
        return total

    def _stop(self, reason: str) -> None:
        self._writes = False
        rank_zero_warn(f"No further crops are kept in {self.folder}: {reason}. They are cut anew whenever needed.")


def _checksum(content: np.ndarray) -> bytes:
    return zlib.crc32(content.tobytes()).to_bytes(CRC, "little")


def _shaped(parts: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors of a camera of length 1: its numbers are scalars, its points and edges are rows."""
    return [part if count == 1 else part[None] for part, count in zip(parts, NUMBERS, strict=True)]
