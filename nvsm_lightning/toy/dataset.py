"""The embedded set: ``make_toy`` writes cars in PASCAL3D+ layout, ``make_other`` yields other categories."""

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

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
    if root.exists() and any(root.iterdir()):
        manifest = root / MANIFEST
        if not manifest.is_file():
            raise DataError(
                f"{root} is not empty and was not made by the toy generator (no {MANIFEST}). Choose another folder."
            )
        if json.loads(manifest.read_text(encoding="utf-8")) == settings:
            return
    work = root.with_name(f".{root.name}.making-{os.getpid()}")
    try:
        shutil.rmtree(work, ignore_errors=True)
        _write(work, settings, realism, progress)
        old = root.with_name(f".{root.name}.old-{os.getpid()}")
        if root.exists():
            root.rename(old)
        work.rename(root)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as reason:
        raise DataError(
            f"The embedded set could not be written to {root}: {reason}. Free the disk or choose another folder."
        ) from reason
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write(root: Path, settings: dict, realism: Realism, progress: bool) -> None:
    prepare_folders(root)
    jobs = [(part, k, f"synth{part[:2]}_{k:04d}") for part in ("train", "test") for k in range(settings[part])]

    def work(job: tuple[str, int, str]) -> None:
        part, index, key = job
        write_sample(root, key, make_sample(_generator(settings["seed"], part, index), make_car, realism))

    with ThreadPoolExecutor(
        os.cpu_count() or 1
    ) as pool:  # numpy, scipy, the rasteriser and JPEG release the interpreter lock
        done = pool.map(work, jobs)
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
        family = families[k % len(families)]
        sample = make_sample(_generator(seed, "other", k), FAMILIES[family], realism, clutter_car=False)
        camera = Camera(
            torch.tensor([sample.distance]),
            torch.tensor([FOCAL]),
            torch.tensor([sample.principal]),
            torch.full((1, 4), torch.nan),
        )
        low, high = (
            tuple(float(c) for c in corner) for corner in (sample.shape.vertices.min(0), sample.shape.vertices.max(0))
        )
        return OtherSample(sample.image, family, torch.tensor(sample.viewpoint), camera, low, high)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, count, 64):  # in blocks: a slow consumer does not fill the memory
            yield from pool.map(work, range(start, min(start + 64, count)))
