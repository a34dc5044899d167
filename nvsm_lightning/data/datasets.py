"""Torch data sets over records: decoded crops kept in memory, and the batch dictionary."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from lightning.pytorch.utilities import rank_zero_warn
from torch import Generator, Tensor
from torch.utils.data import Dataset, Subset

from nvsm_lightning.data.augment import Augmentation, augment
from nvsm_lightning.data.crop_cache import Crop, CropCache
from nvsm_lightning.data.crops import CropSpec, canonical_crop
from nvsm_lightning.data.paste import paste
from nvsm_lightning.data.record import Record
from nvsm_lightning.data.sampling import Draw
from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cameras import Camera, mirror_camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint


class Batch(TypedDict):
    """What every loader yields.

    ``image`` is RGB in 0..1, not normalised; ``viewpoint`` is in radians, NaN where it is unknown or hidden; ``index``
    is the position in the part's list of records (training: labelled pictures first, then the pool); ``mirrored`` tells
    mirror images; ``subtype`` is the ``cad_index`` of the annotation, 0 where it is unknown or hidden.
    """

    image: Float[Tensor, "batch 3 height width"]
    camera: Camera
    viewpoint: Float[Tensor, "batch 3"]
    weight: Float[Tensor, " batch"]
    index: Int64[Tensor, " batch"]
    mirrored: Bool[Tensor, " batch"]
    subtype: Int64[Tensor, " batch"]


class CropMemory:
    """What decoded crops may take up, shared by the parts of a data set.

    Args:
        megabytes: of each process (a crop of 160 x 384 takes 0.18).
        cache: crops on disk, for what memory does not hold yet.
    """

    def __init__(self, megabytes: float | int, cache: CropCache | None = None) -> None:
        self.left = self.size = megabytes * 1e6
        self.cache = cache

    def clear(self) -> None:
        """All of it is left again: the crops are gone."""
        self.left = self.size

    def holds(self, pictures: int, spec: CropSpec) -> bool:
        """Whether so many crops would find room."""
        return pictures * 3 * spec.height * spec.width <= self.size

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes are left; if so, they are taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


class Crops:
    """The crops of a list of records, decoded when first asked for and then kept as bytes while there is memory.

    Args:
        records: the pictures.
        spec: shape and scale.
        memory: for decoded crops; those that find no room are decoded anew each time.
    """

    def __init__(self, records: Sequence[Record], spec: CropSpec, memory: CropMemory | None = None) -> None:
        self.records, self.spec = records, spec
        self.memory = memory or CropMemory(math.inf)
        self._kept: dict[int, Crop] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Crop:
        if index in self._kept:
            return self._kept[index]
        crop = self._cut(self.records[index])
        if self.memory.take(crop[0].nbytes):
            self._kept[index] = crop
        return crop

    def _cut(self, record: Record) -> Crop:
        """The crop from the disk cache, else from the picture."""
        cache = self.memory.cache
        path = cache.path(record, self.spec) if cache is not None else None
        if cache is None or path is None:
            return canonical_crop(record.image, record, self.spec)
        crop = cache.read(path, self.spec)
        if crop is None:
            crop = canonical_crop(record.image, record, self.spec)
            cache.write(path, crop)
        return crop

    def damaged(self, indices: Sequence[int], rank: int = 0, world: int = 1) -> dict[int, str]:
        """Decode the pictures now; returns {index: reason} of those that cannot be. ``world`` processes share the work
        and all get the result."""
        reasons = {}
        for index in indices[rank::world]:
            try:
                self[index]
            except DataError as error:
                reasons[index] = str(error)
        if world > 1:
            found: list[dict[int, str]] = [{}] * world
            torch.distributed.all_gather_object(found, reasons)
            reasons = dict(sorted(item for part in found for item in part.items()))
        return reasons

    def require(self, positions: Sequence[int]) -> None:
        """Decode pictures whose poses are needed now. Raises DataError if one cannot be."""
        if damaged := self.damaged(positions):
            raise DataError(
                f"{len(damaged)} pictures with a pose are damaged; the first: {next(iter(damaged.values()))}"
            )

    def usable(
        self, positions: Sequence[int], what: str, rank: int = 0, world: int = 1
    ) -> tuple[list[int], list[tuple[str, str]]]:
        """The positions that can be decoded, and (key, reason) of the others, which are counted and warned of.

        Raises:
            DataError: none is left.
        """
        damaged = self.damaged(positions, rank, world)
        if damaged:
            listed = "\n  ".join(list(damaged.values())[:10])
            rank_zero_warn(f"{len(damaged)} of {len(positions)} {what} are damaged and skipped:\n  {listed}")
        if len(damaged) == len(positions):
            raise DataError(
                f"None of the {len(positions)} {what} can be read; the first: {next(iter(damaged.values()))}"
            )
        skipped = [(self.records[position].key, reason) for position, reason in damaged.items()]
        return [position for position in positions if position not in damaged], skipped


class PoseDataset(Dataset[Batch]):
    """Pictures with viewpoints, in a fixed order or, when indexed by a ``Draw``, augmented.

    Args:
        crops: where pictures come from.
        source: position in ``crops`` of each entry.
        viewpoint: of each entry, radians; NaN = hidden.
        weight: of each entry.
        index: reported position of each entry.
        mirrored: entries to be shown as mirror images; ``viewpoint`` is that of the picture as stored.
        subtype: ``cad_index`` of each entry; 0 = unknown or hidden.
        augmentation: what to do with a ``Draw``.
        symmetric: whether augmentation may mirror.
        extent: sides of the object's cuboid in CAD units, which say how large a pasted piece is and where it goes.
    """

    def __init__(
        self,
        crops: Crops,
        source: Int64[Tensor, " entry"],
        viewpoint: Float[Tensor, "entry 3"],
        weight: Float[Tensor, " entry"] | None = None,
        index: Int64[Tensor, " entry"] | None = None,
        mirrored: Bool[Tensor, " entry"] | None = None,
        subtype: Int64[Tensor, " entry"] | None = None,
        augmentation: Augmentation | None = None,
        symmetric: bool = False,
        extent: tuple[float, float, float] = (0.5, 0.5, 0.5),
    ) -> None:
        count = len(source)
        self.crops, self.source, self.viewpoint = crops, source, viewpoint.float()
        self.weight = torch.ones(count) if weight is None else weight.float()
        self.index = source if index is None else index
        self.subtype = torch.zeros(count, dtype=torch.int64) if subtype is None else subtype
        self.mirrored = torch.zeros(count, dtype=torch.bool) if mirrored is None else mirrored
        self.augmentation, self.symmetric, self.extent = augmentation, symmetric, extent

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: int | Draw) -> Batch:
        entry, seed = item if isinstance(item, tuple) else (item, None)
        crop, camera = self.crops[int(self.source[entry])]
        viewpoint, mirrored = self.viewpoint[entry], bool(self.mirrored[entry])
        if mirrored:
            crop, camera, viewpoint = crop.flip(-1), mirror_camera(camera, crop.shape[-1]), mirror_viewpoint(viewpoint)
        if seed is None or self.augmentation is None:
            image = crop.float() / 255
        else:
            generator = Generator().manual_seed(seed)
            settings = (self.augmentation, generator, self.symmetric, partial(self._paste, entry))
            image, camera, viewpoint = augment(crop, camera, viewpoint, *settings)
        return Batch(
            image=image,
            camera=camera,
            viewpoint=viewpoint,
            weight=self.weight[entry],
            index=self.index[entry],
            mirrored=torch.tensor(mirrored),
            subtype=self.subtype[entry],
        )

    def _paste(
        self,
        entry: int,
        crop: UInt8[Tensor, "3 height width"],
        camera: Camera,
        viewpoint: Float[Tensor, "3"],
        generator: Generator,
    ) -> UInt8[Tensor, "3 height width"]:
        """The crop with a piece of any other entry's picture on it (of its own, if there is no other)."""
        further = int(torch.randint(max(1, len(self) - 1), (), generator=generator))
        donor = self.crops[int(self.source[(entry + 1 + further) % len(self)])]
        return paste(crop, camera, viewpoint, *donor, self.extent, generator)


def collate(items: list[Batch]) -> Batch:
    """One batch from its pictures."""
    return Batch(
        image=torch.stack([item["image"] for item in items]),
        camera=Camera.stack([item["camera"] for item in items]),
        viewpoint=torch.stack([item["viewpoint"] for item in items]),
        weight=torch.stack([item["weight"] for item in items]),
        index=torch.stack([item["index"] for item in items]),
        mirrored=torch.stack([item["mirrored"] for item in items]),
        subtype=torch.stack([item["subtype"] for item in items]),
    )


def hidden(count: int) -> Float[Tensor, "count 3"]:
    """Viewpoints that are not to be seen: NaN."""
    return torch.full((count, 3), math.nan)


def share_of(dataset: PoseDataset, positions: Sequence[int], rank: int, world: int) -> PoseDataset | Subset:
    """What one of ``world`` processes evaluates: every ``world``-th of the positions; all of them where there are too
    few for each to have one."""
    mine = positions[rank::world] if len(positions) >= world else positions
    return dataset if len(mine) == len(dataset) else Subset(dataset, mine)


def with_mirrors(dataset: PoseDataset, mirrored: bool) -> PoseDataset:
    """The entries followed by their mirror images."""
    if not mirrored:
        return dataset
    count = len(dataset)
    return PoseDataset(
        dataset.crops,
        dataset.source.repeat(2),
        dataset.viewpoint.repeat(2, 1),
        weight=dataset.weight.repeat(2),
        index=dataset.index.repeat(2),
        mirrored=torch.arange(2 * count) >= count,
        subtype=dataset.subtype.repeat(2),
    )
