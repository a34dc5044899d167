"""Feature maps of the pool through the feature cache: pictures are decoded and read by the network once."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from jaxtyping import Int
from lightning.pytorch.utilities import rank_zero_warn
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from nvsm_lightning import __version__
from nvsm_lightning.data.datasets import CropMemory, Crops, PoseDataset, collate, hidden
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.errors import DataError
from nvsm_lightning.features.backbone import STRIDE, Backbone
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.matching.feature_cache import FeatureCache, Shard, file_identity, weights_digest
from nvsm_lightning.matching.shortlist import CELLS, pooled

SHARD = 256  # pictures: 63 MB of maps of 20 x 48 cells and 128 channels


class PoolFeatures:
    """The pool of a data set as shards.

    Args:
        data: has been set up.
        backbone: makes the maps.
        features: the backbone's call in the precision of training, on its device.
        name: of the features, part of the key.
        precision: number format the network computes in, part of the key.
        cache: where the shards lie.
    """

    def __init__(
        self,
        data: PoseData,
        backbone: Backbone,
        features: Callable[[Tensor], Tensor],
        name: str,
        precision: str,
        cache: FeatureCache,
    ) -> None:
        self.data, self.features, self.cache = data, features, cache
        self.key = weights_digest(backbone, name, backbone.spec, data.crop, precision, CELLS, __version__)
        records = data.pool
        self.identities = [file_identity(record.image, record, data.crop) for record in records]

    def shards(self, shown: str = "") -> Iterator[tuple[Int[Tensor, " picture"], Shard]]:
        """(positions in the pool, shard) in the order of the pool; with a progress bar of the name ``shown``.

        Raises:
            DataError: no picture of the pool can be read; see :class:`.feature_cache.FeatureCache` for others.
        """
        readable = 0
        for start in track(range(0, len(self.identities), SHARD), shown, disable=not shown):
            chosen = slice(start, start + SHARD)
            shard = self.cache.shard(self.key, self.identities[chosen], partial(self._make, chosen))
            readable += len(shard.position)
            yield start + shard.position, shard
        if not readable:
            raise DataError(f"None of the {len(self.identities)} pictures of the pool of {self.data.root} can be read.")

    def _make(self, chosen: slice) -> Shard:
        crops = Crops(self.data.pool[chosen], self.data.crop, CropMemory(float("inf")))
        damaged = crops.damaged(range(len(crops)))
        if damaged:
            rank_zero_warn(f"{len(damaged)} pool pictures are damaged and skipped: {next(iter(damaged.values()))}")
        usable = torch.tensor([position for position in range(len(crops)) if position not in damaged], dtype=torch.long)
        pictures = PoseDataset(crops, usable, hidden(len(usable)))
        maps, cameras = [], []
        for batch in DataLoader(pictures, batch_size=self.data.batch_size, collate_fn=collate):
            maps.append(self.features(batch["image"]).cpu())
            cameras.append(batch["camera"])
        if not maps:
            empty, no = torch.empty(0, 1, 1, 1, dtype=torch.bfloat16), torch.empty(0, 4)
            return Shard(empty, empty, usable, Camera(no[:, 0], no[:, 0], no[:, :2], no))
        stacked = torch.cat(maps)
        camera = Camera.stack(cameras).scaled(1 / STRIDE)
        return Shard(stacked.bfloat16(), pooled(stacked).bfloat16(), usable, camera)
