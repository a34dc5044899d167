"""Feature maps of a large pool on disk, read through memory maps: a pool of any size in little memory.

A *shard* holds the maps of some hundred pictures as bf16. Its file name is a digest of everything that its content
depends on: weights, crop settings, precision, and which files its pictures are. So what is stale has another name and
is never read; a changed picture rebuilds its shard alone.
"""

import contextlib
import hashlib
import os
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cameras import Camera

SUFFIX = ".maps"


@dataclass(frozen=True)
class Shard:
    """Some pictures of the pool; those that could not be read are left out.

    Attributes:
        maps: feature maps, bf16; lies in the file, pages are read when used.
        pooled: the same, averaged over blocks of cells, for the pre-selection.
        position: which of the shard's pictures each row is.
        camera: in map pixels.
    """

    maps: Float[Tensor, "picture dim h w"]
    pooled: Float[Tensor, "picture dim h2 w2"]
    position: Int[Tensor, " picture"]
    camera: Camera


def weights_digest(network: nn.Module, *settings: object) -> str:
    """Key of the features of a network: a digest of its state (parameters, buffers, dtypes) and of ``settings``."""
    digest = hashlib.sha256("\n".join(map(repr, settings)).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_identity(path: Path, *settings: object) -> str:
    """What tells one version of a picture file from another: path, size, time of change, and ``settings``."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"{path.absolute()} missing {settings!r}"  # a picture that comes back has another identity
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {settings!r}"


class FeatureCache:
    """Shards below a folder, of all networks that have used it, at most ``gigabytes`` together.

    Args:
        folder: is made.
        gigabytes: beyond it, the shards that were not used for longest are deleted.
    """

    def __init__(self, folder: Path, gigabytes: float) -> None:
        self.folder, self.limit = folder, int(gigabytes * 1e9)
        self.in_use: set[Path] = set()  # of this process: never deleted
        self.built = 0  # shards that had to be made
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"The feature cache {folder} cannot be made ({error}); give another folder.") from error
        for left in folder.glob("*.tmp*"):  # of a process that was killed while writing; a living one's is younger
            status = _status(left)
            if status and status.st_mtime < time.time() - 3600:
                left.unlink(missing_ok=True)

    def shard(self, key: str, identities: Sequence[str], make: Callable[[], Shard]) -> Shard:
        """The shard of these pictures, made and stored if it is not there or its file is broken.

        Raises:
            DataError: the disk is full, or the pool does not fit into the limit.
        """
        name = hashlib.sha256("\n".join((key, *identities)).encode()).hexdigest()[:40]
        path = self.folder / f"{name}{SUFFIX}"
        found = self._read(path)
        if found is None:
            self._write(path, make())
            self.in_use.add(path)
            self.built += 1
            found = self._read(path)
            if found is None:
                raise DataError(f"{path} cannot be read back after writing it; the disk of --cache is not sound.")
        return found

    def _read(self, path: Path) -> Shard | None:
        if not path.exists():
            return None
        try:
            if path not in self.in_use:  # checksums, once a process
                with zipfile.ZipFile(path) as archive:
                    broken = archive.testzip()
                if broken is not None:
                    raise RuntimeError(f"wrong checksum of {broken}")
            content = torch.load(path, mmap=True, weights_only=True)
            camera = Camera(*content.pop("camera"))
            shard = Shard(camera=camera, **content)
        except (RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            warnings.warn(f"Feature cache: {path.name} is broken ({error}) and is made anew.", stacklevel=3)
            path.unlink(missing_ok=True)
            return None
        if path not in self.in_use:
            with contextlib.suppress(FileNotFoundError):  # another process has deleted it; what is open stays readable
                os.utime(path)  # used now
            self.in_use.add(path)
        return shard

    def _write(self, path: Path, shard: Shard) -> None:
        content = {name: value for name, value in vars(shard).items() if name != "camera"}
        size = sum(tensor.nbytes for tensor in content.values()) + 4096
        self._make_room(size)
        draft = path.with_suffix(f".tmp{os.getpid()}")
        try:
            torch.save({**content, "camera": shard.camera.tensors()}, draft)
            os.replace(draft, path)  # a shard is whole or is not there
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            draft.unlink(missing_ok=True)
            free = shutil.disk_usage(self.folder).free / 1e9
            raise DataError(
                f"A shard of {size / 1e9:.2f} GB could not be written to the feature cache {self.folder} ({error}); "
                f"{free:.2f} GB are free there. Free some space or give another --cache."
            ) from error

    def _make_room(self, size: int) -> None:
        """Delete what was not used for longest until ``size`` bytes fit into the limit and on the disk."""
        found = [(_status(file), file) for file in self.folder.glob(f"*{SUFFIX}")]
        others = [(status, file) for status, file in found if status]
        total = size + sum(status.st_size for status, _ in others)
        for status, file in sorted(others, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self.limit:
                break
            if file not in self.in_use:
                file.unlink(missing_ok=True)
                total -= status.st_size
        if total > self.limit:
            raise DataError(
                f"The feature cache {self.folder} is limited to {self.limit / 1e9:g} GB and this pool needs more "
                f"({total / 1e9:.2f} GB so far). Raise --cache_gb, or give a smaller --data.pool_limit."
            )
        free = shutil.disk_usage(self.folder).free
        if free < 2 * size:
            raise DataError(
                f"The disk of the feature cache {self.folder} is full: {free / 1e9:.2f} GB are free and a shard takes "
                f"{size / 1e9:.2f} GB. Free some space or give another --cache."
            )


def _status(path: Path) -> os.stat_result | None:
    """None: another process has deleted or renamed it."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
