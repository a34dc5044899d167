"""The embedded set: ``make_toy`` writes cars in PASCAL3D+ layout, ``make_other`` yields other categories."""

import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.toy.cars import make_car
from nvsm_lightning.toy.drawing import FOCAL
from nvsm_lightning.toy.layout import README, SOURCE, prepare_folders, write_off, write_sample
from nvsm_lightning.toy.objects import FAMILIES
from nvsm_lightning.toy.scene import DEFAULT, Realism, make_sample
from nvsm_lightning.toy.shapes import triple

GENERATOR_VERSION = 3  # raise with every change that alters a picture
MANIFEST = "toy.json"
OTHER = Realism(azimuth_uniform=1.0, elevation_high=0.5, distance=(9.0, 16.0))
_PART = {"train": 1, "test": 2, "other": 3}


def _generator(seed: int, part: str, index: int) -> np.random.Generator:
    """The randomness of one picture, its object's shape included: parts never share a stream."""
    return np.random.default_rng((seed, _PART[part], index))


def _settings(seed: int, train: int, test: int, realism: Realism) -> dict:
    return {
        "generator_version": GENERATOR_VERSION, "seed": seed, "train": train, "test": test,
        "realism": json.loads(json.dumps(asdict(realism))),
    }  # fmt: skip


def make_toy(
    root: Path,
    *,
    seed: int = 0,
    train: int = 420,
    test: int = 180,
    realism: Realism = DEFAULT,
    size: tuple[int, int] | None = None,
    progress: bool = True,
) -> None:
    """Make the embedded set of synthetic cars in the on-disk layout of PASCAL3D+ (train list and val list).

    Everything is made in a folder beside ``root`` and renamed at the end, so ``root`` is either whole or absent. Does
    nothing when ``root`` already holds the set with the same settings; replaces a set made with other settings or by
    another generator version.

    Args:
        root: folder to make.
        seed: same seed, same pictures (on one machine and library versions). train, test: number of pictures.
        realism: strengths of the nuisances. size: (height, width) in place of the realism's.
        progress: show a progress bar.

    Raises:
        DataError: ``root`` exists and is not a set made by this function, or the disk refuses.
    """
    root = Path(root)
    if size is not None:
        realism = Realism(**{**asdict(realism), "height": size[0], "width": size[1]})
    settings = _settings(seed, train, test, realism)
    if root.exists() and any(root.iterdir()) and not (root / MANIFEST).is_file():
        raise DataError(f"{root} is not empty and not an embedded set (no {MANIFEST}). Choose another folder.")
    if _made_with(root) == settings:
        return
    work, old = (root.with_name(f".{root.name}.{what}-{os.getpid()}") for what in ("making", "old"))
    try:
        _clear_debris(root)
        _write(work, settings, realism, progress)
        if _made_with(root) == settings:  # another process was faster
            return
        if root.exists():
            root.rename(old)
        work.rename(root)
    except OSError as reason:
        raise DataError(f"{root} could not be written: {reason}. Free the disk or choose another folder.") from reason
    finally:
        for leftover in (work, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _made_with(root: Path) -> dict | None:
    """Settings of the set in ``root``; None where there is none or its manifest is damaged."""
    try:
        return json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _clear_debris(root: Path) -> None:
    """Remove folders beside ``root`` that killed processes left more than a day ago."""
    for folder in root.parent.glob(f".{root.name}.making-*"):
        if time.time() - folder.stat().st_mtime > 86400:
            shutil.rmtree(folder, ignore_errors=True)


def _parallel(work: Callable[[Any], Any], jobs: Iterable) -> Generator:
    """Results in order, from threads: numpy, scipy, the rasteriser and JPEG release the interpreter lock.

    When the caller stops early (an exception, Ctrl-C), what has not begun is not begun.
    """
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _write(root: Path, settings: dict, realism: Realism, progress: bool) -> None:
    prepare_folders(root)
    jobs = [(part, k, f"synth{part[:2]}_{k:04d}") for part in ("train", "test") for k in range(settings[part])]

    def work(job: tuple[str, int, str]) -> None:
        """Render and write one picture."""
        part, index, key = job
        write_sample(root, key, make_sample(_generator(settings["seed"], part, index), make_car, realism))

    with closing(_parallel(work, jobs)) as done:
        for _ in track(done, "Making the embedded set", total=len(jobs), disable=not progress):
            pass
    for part, name in (("train", "train"), ("test", "val")):
        lines = [f"{key}\n" for made_for, _, key in jobs if made_for == part]
        (root / "Image_sets" / f"{SOURCE}_{name}.txt").write_text("".join(lines), encoding="utf-8")
    write_off(root / "CAD" / "car" / "01.off", make_car(np.random.default_rng(0), "sedan"))
    (root / "README.txt").write_text(
        README.format(version=GENERATOR_VERSION, **{k: settings[k] for k in ("seed", "train", "test")}),
        encoding="utf-8",
    )
    (root / MANIFEST).write_text(json.dumps(settings, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class OtherSample:
    """A picture of another category.

    Attributes:
        image: RGB. family: a key of :data:`.objects.FAMILIES`. viewpoint: radians.
        camera: a batch of one, in pixels of ``image``.
        low: corner of the object's cuboid, CAD units. high: the opposite corner.
    """

    image: UInt8[np.ndarray, "height width 3"]
    family: str
    viewpoint: Float[torch.Tensor, " 3"]
    camera: Camera
    low: tuple[float, float, float]
    high: tuple[float, float, float]


def make_other(
    count: int,
    *,
    seed: int = 0,
    families: tuple[str, ...] = tuple(FAMILIES),
    realism: Realism = OTHER,
) -> Iterator[OtherSample]:
    """Pictures of other categories, none with a car, in order: picture k is of ``families[k % len(families)]``.

    The cuboid is that of the very instance; objects are centred, their box diagonal is 1, and a family shares its frame
    (front to -y, z up).

    Raises:
        DataError: an unknown family.
    """
    unknown = set(families) - set(FAMILIES)
    if unknown or not families:
        raise DataError(f"No families {sorted(unknown)}. Known: {', '.join(FAMILIES)}.")

    def work(k: int) -> OtherSample:
        """Render one picture of another category."""
        family = families[k % len(families)]
        sample = make_sample(_generator(seed, "other", k), FAMILIES[family], realism, clutter_car=False)
        camera = Camera(
            torch.tensor([sample.distance]),
            torch.tensor([FOCAL]),
            torch.tensor([sample.principal]),
            torch.full((1, 4), torch.nan),
        )
        low, high = (triple(corner) for corner in (sample.shape.vertices.min(0), sample.shape.vertices.max(0)))
        return OtherSample(sample.image, family, torch.tensor(sample.viewpoint), camera, low, high)

    for start in range(0, count, 64):  # in blocks: a slow consumer does not fill the memory
        yield from _parallel(work, range(start, min(start + 64, count)))
