"""``PoseData``: the parts of a data set, its loaders, and the pseudo labels of the running fit."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from nvsm_lightning.data import parts, sampling
from nvsm_lightning.data.anchors import check_way, choose_anchors, describe_pictures, require_poses
from nvsm_lightning.data.augment import Augmentation
from nvsm_lightning.data.crop_cache import CropCache
from nvsm_lightning.data.crops import CropSpec
from nvsm_lightning.data.datasets import Batch, CropMemory, Crops, PoseDataset, collate, hidden, share_of, with_mirrors
from nvsm_lightning.data.extra_pool import check_sources, pool_from
from nvsm_lightning.data.labels import no_pseudo_labels, write_label_list
from nvsm_lightning.data.record import Record, subtypes, viewpoints
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.meshes import CATEGORY_EXTENT
from nvsm_lightning.geometry.viewpoints import only_azimuths


class PoseData(LightningDataModule):
    """Few labelled pictures, an unlabelled pool, validation and test part (all settings: ``--data.help NAME``).

    A data set overrides ``read``. ``labelled``, ``pool``, ``val`` and ``test`` are lists of ``Record`` after ``setup``.
    What the pool's labels are is hidden from every loader; ``pool_truth`` gives them for reports. Pseudo labels
    accepted during a fit live in this module's state.

    Args:
        root: folder of the data set.
        test_root: another folder, of the same layout or made by ``nvsm prepare occluded``, whose whole content is then
            the test part.
        test_on: part that the final table is measured on: "test", or "val" for choices among settings, with which the
            test pictures are left out altogether.
        folder: folder of pictures without labels for ``predict``.
        category: object category.
        labels: number of labelled pictures, drawn from the train part.
        label_list: file of keys, one a line, whose first ``labels`` are the labelled pictures (as written by an earlier
            run); the same as ``anchors`` manual:FILE.
        anchors: which pictures are labelled: "spread" (over azimuth and groups), "views" (over whole viewpoints),
            "random", "kmeans" (by features of the untrained network, without any label) or "manual:FILE".
        label_seed: seed of the label draw; by default that of --seed_everything.
        crop: shape and scale of the crops.
        mirror: the category is left-right symmetric: mirror images of labelled pictures are labels for free.
        batch_size: pictures a batch and process.
        epoch_images: pictures of a training epoch over all processes.
        labelled_share: share of labelled pictures in training while there are pseudo labels.
        extra_share: of the pseudo-labelled draws, the share of ``extra_pool``; by default by the number of pictures.
        balance: draw pseudo-labelled pictures equally from 12 bins of azimuth.
        augment: random changes of training pictures.
        pool_limit: use only so many pictures of the own pool, drawn by the label seed.
        extra_pool: other data sets of the category, whose train parts join the pool without their labels.
        num_workers: processes that prepare batches; 0 = none.
        keep_crops: megabytes of each process for decoded crops (true = 1000: 5,400 pictures of 160 x 384); what finds
            no room is decoded anew each time it is shown, so that memory does not grow with the pool. 0 or false: none.
        crop_cache: folder in which decoded crops are kept for further runs (50 GB at most); may be shared and deleted.
    """

    name = "pose"
    azimuth_only = False  # whether the other angles of the true poses are a reader's assumptions

    def __init__(
        self,
        root: str = "",
        test_root: str | None = None,
        test_on: str = "test",
        folder: str | None = None,
        category: str = "car",
        labels: int = 7,
        label_list: str | None = None,
        anchors: str = "spread",
        label_seed: int | None = None,
        crop: CropSpec = CropSpec(),  # noqa: B008 - frozen
        mirror: bool = True,
        batch_size: int = 16,
        epoch_images: int = 256,
        labelled_share: float = 0.25,
        extra_share: float | None = None,
        balance: bool = True,
        augment: Augmentation = Augmentation(),  # noqa: B008 - frozen
        pool_limit: int | None = None,
        extra_pool: list["PoseData"] | None = None,
        num_workers: int = 0,
        keep_crops: bool | int = 1000,
        crop_cache: str | None = None,
    ) -> None:
        super().__init__()
        given = {"labels": labels, "batch_size": batch_size, "labelled_share": labelled_share}
        if min(labels, batch_size) < 1 or not 0 <= labelled_share <= 1:
            raise ConfigError(f"--data: labels and batch_size must be at least 1, labelled_share in 0..1; got {given}.")
        if test_on not in ("test", "val"):
            raise ConfigError(f"--data.test_on must be test or val; got {test_on!r}.")
        self.root, self.test_root, self.test_on, self.folder = root, test_root, test_on, folder
        self.category, self.labels, self.label_seed = category, labels, label_seed
        self.anchors = check_way(anchors, label_list)
        self.crop, self.mirror, self.augment = crop, mirror, augment
        self.batch_size, self.epoch_images, self.num_workers = batch_size, epoch_images, num_workers
        self.labelled_share, self.extra_share, self.balance = labelled_share, extra_share, balance
        self.pool_limit, self.extra_pool = pool_limit, check_sources(extra_pool, category, extra_share)
        self.crop_cache = None if crop_cache is None else CropCache(Path(crop_cache))
        self._memory = CropMemory(1000 if keep_crops is True else int(keep_crops), self.crop_cache)
        self.labelled, self.pool = list[Record](), list[Record]()
        self.val, self.test = list[Record](), list[Record]()
        self.skipped: list[tuple[str, str]] = []
        self._everything: list[Record] = []
        self.round = -1
        self.predicted: list[Record] = []
        self._pseudo = no_pseudo_labels()
        self._taught: Float[Tensor, "label 3"] | None = None
        self._crops: dict[str, Crops] = {}
        self._usable: list[int] | None = None
        self._roomy = True

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """Every picture of the data set under ``root``; with ``test_only`` all labelled ones, as the test part."""
        raise NotImplementedError(f"{type(self).__name__} must override read()")

    def read_test(self, root: Path) -> list[Record]:
        """The test part from another folder: of this layout, or made by ``nvsm prepare occluded`` from any set."""
        from nvsm_lightning.data.pose_csv import OCCLUSION_FILE, read_occluded  # which knows this module

        if not (root / OCCLUSION_FILE).is_file():
            return self.read(root, test_only=True)
        records, azimuth_only = read_occluded(root, self.category)
        self.azimuth_only = self.azimuth_only or azimuth_only
        return records

    def setup(self, stage: str | None = None) -> None:
        """Read the data set and draw the labels, once; ``predict`` with a folder needs no data set."""
        if self.labelled or (stage == "predict" and self.folder is not None):
            return
        self._everything = self.read(parts.existing(self.root, "--data.root"))
        finished = stage in ("validate", "test", "predict")
        resumed = getattr(self.trainer, "resumed_from", None) is not None
        kmeans, listed = self.anchors == "kmeans", self.anchors.startswith("manual:")
        if (kmeans and resumed) or (finished and (kmeans or listed)):  # the checkpoint will say which were labelled
            return self._divide([], stage)
        known = sum(record.part in ("train", "") and record.viewpoint is not None for record in self._everything)
        count = min(self.labels, known) if finished else self.labels  # a finished model needs none
        chosen = choose_anchors(self.anchors, self._everything, count, self.seed, self._described, self.mirror)
        require_poses(chosen, Path(getattr(self.trainer, "default_root_dir", ".")), self._place()[0] == 0)
        self._divide(chosen, stage)

    def _divide(self, chosen: list[Record], stage: str | None) -> None:
        """Make the parts of the data set, given the labelled pictures; check them."""
        self._crops, self._usable = {}, None
        self._memory.clear()
        self.labelled = [replace(record, part="train") for record in chosen]
        keys = {record.key for record in self.labelled}
        rest = parts.assign_parts([record for record in self._everything if record.key not in keys])
        self.pool = parts.limit_pool([record for record in rest if record.part == "train"], self.pool_limit, self.seed)
        if stage in ("fit", None):
            self.pool += pool_from(self.extra_pool, self.labelled, self.seed)
        self.val = [record for record in rest if record.part == "val"]
        self.test = [record for record in rest if record.part == "test"]
        if self.test_on == "val":
            self.test = self.val
        elif self.test_root is not None:
            self.test = self.read_test(parts.existing(self.test_root, "--data.test_root"))
        parts.check_disjoint([*self.labelled, *self.pool], self.test)
        parts.check_cameras([*self.labelled, *self.pool, *self.val, *self.test])
        if not self.val and stage in ("fit", "validate", None):
            rank_zero_warn(f"{self.root}: there is no validation part; validation is skipped.")
        everything = len(self.labelled) + len(self.pool) + len(self.val) + len(self.test)
        self._roomy = stage not in ("fit", None) or self._memory.holds(everything, self.crop)
        self._decode_labelled_parts(stage)

    @property
    def seed(self) -> int:
        """Seed of the label draw and the training stream: ``label_seed``, else that of seed_everything, else 0."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.label_seed is None else self.label_seed

    def write_label_list(self, path: Path) -> None:
        """Write the keys of the labelled pictures, to be given back as ``--data.label_list``."""
        write_label_list(path, self.labelled)

    def require_pool(self) -> None:
        """DataError if the pool is empty."""
        parts.check_pool(self.pool, self.root)

    @property
    def label_viewpoints(self) -> Float[Tensor, "label 3"]:
        """Viewpoints in radians of the pictures that the model was trained with, which need not be of this data set;
        NaN where a checkpoint does not tell them."""
        return viewpoints(self.labelled) if self._taught is None else self._taught

    def pool_truth(self) -> Float[Tensor, "pool 3"]:
        """True viewpoints of the pool in radians, NaN where unknown; for reports, nothing may be chosen by them."""
        return only_azimuths(viewpoints(self.pool)) if self.azimuth_only else viewpoints(self.pool)

    def accept(
        self, round: int, index: Int64[Tensor, " n"], viewpoint: Float[Tensor, "n 3"], weight: Float[Tensor, " n"]
    ) -> None:
        """Take the pseudo labels of a round: positions in the pool, viewpoints in radians, training weights > 0."""
        if not len(index) == len(viewpoint) == len(weight):
            raise ValueError(f"pseudo labels of unequal length: {len(index)}, {len(viewpoint)}, {len(weight)}")
        self.round = round
        order = index.cpu().argsort()
        self._pseudo = (index.cpu()[order].long(), viewpoint.cpu()[order].float(), weight.cpu()[order].float())

    @property
    def pseudo_labels(self) -> tuple[Int64[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """(position in the pool, viewpoint in radians, weight) of the accepted pictures, by position."""
        return self._pseudo

    def state_dict(self) -> dict:
        """Round, pseudo labels, and what they belong to: category, labelled keys, a checksum of the pool."""
        index, viewpoint, weight = self._pseudo
        return {
            "category": self.category,
            "labelled": [record.key for record in self.labelled],
            "labelled_viewpoint": viewpoints(self.labelled),
            "pool": parts.checksum(self.pool),
            "round": self.round,
            "index": index,
            "viewpoint": viewpoint,
            "weight": weight,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take over the state of a checkpoint.

        Raises:
            DataError: it is of another category, or (when a fit is resumed) of other labelled pictures or another pool.
        """
        if state["category"] != self.category:
            raise DataError(
                f"The checkpoint is of category {state['category']!r}, this run of {self.category!r}; "
                "give a checkpoint of the same category, or change --data.category."
            )
        stage = None if self.trainer is None else self.trainer.state.fn
        finished = stage not in (None, TrainerFn.FITTING)
        if self._everything and (mine := [record.key for record in self.labelled]) != state["labelled"]:
            known = {record.key: record for record in self._everything if record.viewpoint is not None}
            taught = [known[key] for key in state["labelled"] if key in known]
            # by a network that may have begun with other weights, or rounded differently
            chosen_once = self.anchors == "kmeans" and len(mine) == len(state["labelled"])
            if not mine or chosen_once or (finished and taught):  # no test of what was taught
                self._divide(taught, stage and stage.value)
        if finished:
            self._taught = state.get("labelled_viewpoint", torch.full((len(state["labelled"]), 3), torch.nan))
            if not parts.is_same(state, self.labelled, self.pool):
                return  # test or predict on other data: the pseudo labels have no meaning there and are not needed
        parts.check_same(state, self.labelled, self.pool)
        self.round = state["round"]
        self._pseudo = (state["index"], state["viewpoint"], state["weight"])

    def train_dataloader(self) -> DataLoader[Batch]:
        """An epoch of augmented draws from labelled and pseudo-labelled pictures (see ``DrawSampler``)."""
        rank, world = self._place()
        bins = sampling.AZIMUTH_BINS if self.balance else None
        extra = torch.tensor([bool(self.pool[place].source) for place in self._pseudo[0]], dtype=torch.bool)
        sampler = sampling.DrawSampler(
            labelled=len(self.labelled),
            probability=sampling.mixed_probability(self._pseudo[1], extra, self.extra_share, bins),
            labelled_share=self.labelled_share,
            draws=self.epoch_images,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=rank,
            world=world,
            labelled_probability=sampling.labelled_probability(viewpoints(self.labelled), bins),
        )
        return self._loader(self._training_set(), sampler=sampler, drop_last=True)

    def labelled_and_pseudo_dataloader(
        self, mirrored: bool | None = None, limit: int | None = None
    ) -> DataLoader[Batch]:
        """Every training picture once, in order, without augmentation, then (default: as ``mirror``) their mirror
        images; with a ``limit`` those of :func:`sampling.limited`."""
        chosen = self._training_set(limit)
        return self._loader(with_mirrors(chosen, self.mirror if mirrored is None else mirrored))

    def anchor_dataloader(self, limit: int | None = None) -> DataLoader[Batch]:
        """The labelled pictures (with a ``limit``, so many, spread over azimuth) in order, then (if ``mirror``) their
        mirror images; without augmentation."""
        source = torch.arange(len(self.labelled))
        if limit is not None and len(source) > limit:
            source = sampling.spread_over_azimuth(viewpoints(self.labelled), limit, sampling.AZIMUTH_BINS)
        known, kinds = viewpoints(self.labelled)[source], subtypes(self.labelled)[source]
        anchors = PoseDataset(self._part_crops("train"), source, known, subtype=kinds)
        return self._loader(with_mirrors(anchors, self.mirror))

    def pool_dataloader(
        self, rank: int = 0, world: int = 1, round: int = 0, count: int = 0, own: bool = False
    ) -> DataLoader[Batch]:
        """The pool (``own``: without ``extra_pool``) in order with hidden viewpoints, every ``world``-th picture from
        ``rank``; damaged pictures are left out. With a ``count``, so many of them, others in every round.

        The first call decodes the whole pool, lists damaged pictures in ``skipped`` and warns once.

        Raises:
            DataError: the pool (the own one) is empty, or no picture of it can be read.
        """
        self.require_pool()
        usable = [place for place in self._usable_pool() if not (own and self.pool[place].source)]
        if not usable:
            raise DataError(f"{self.root}: the pool is --data.extra_pool alone; set --trainer.em.extra_pool_from 0.")
        positions = parts.part_of_pool(usable, count, round, self.seed)[rank::world]
        index = torch.arange(len(self.pool))
        pool = PoseDataset(self._part_crops("train"), len(self.labelled) + index, hidden(len(index)), index=index)
        return self._loader(Subset(pool, positions))

    def val_dataloader(self) -> DataLoader[Batch] | list:
        """The validation part in order (this process's share of it); no loader if there is none."""
        return self._part("val", self.val) if self.val else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test part in order (this process's share of it). Raises DataError if there is none."""
        if not self.test:
            missing = "validation" if self.test_on == "val" else "test"
            where = self.test_root or self.root
            raise DataError(f"{where} has no {missing} part; give one with --data.test_root or a split column.")
        return self._part("test", self.test)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The pictures of ``folder`` (readable ones; the rest is listed in ``skipped``), or the test part without a
        folder."""
        if self.folder is None:
            self.predicted = self.test
            return self.test_dataloader()
        folder = parts.existing(self.folder, "--data.folder")
        self.predicted = parts.folder_records(folder, self.category, "--data.folder")
        crops = Crops(self.predicted, self.crop, self._memory)
        usable = self._skip(crops, range(len(self.predicted)), "pictures of the folder")
        dataset = PoseDataset(crops, torch.arange(len(crops)), hidden(len(crops)))
        return self._loader(share_of(dataset, usable, *self._place()))

    def _part_crops(self, part: str) -> Crops:
        """The crops of ``val``, ``test`` or ``train`` (labelled pictures, then the pool)."""
        part = self.test_on if part == "test" else part
        if part not in self._crops:
            records = {"train": [*self.labelled, *self.pool], "val": self.val, "test": self.test}[part]
            kept = part == "train" or self._roomy  # else memory is for what a fit shows most often
            self._crops[part] = Crops(records, self.crop, self._memory if kept else CropMemory(0, self.crop_cache))
        return self._crops[part]

    def _training_set(self, limit: int | None = None) -> PoseDataset:
        """Labelled pictures first, then the pseudo-labelled ones, with a ``limit`` those of :func:`sampling.limited`;
        ``index`` counts the pool after the labelled pictures."""
        known = viewpoints(self.labelled)
        index, viewpoint, weight = self._pseudo
        labelled, chosen = sampling.limited(known, viewpoint, limit, sampling.AZIMUTH_BINS)
        return PoseDataset(
            self._part_crops("train"),
            torch.cat((labelled, len(known) + index[chosen])),
            torch.cat((known[labelled], viewpoint[chosen])),
            weight=torch.cat((torch.ones(len(labelled)), weight[chosen])),
            # that of the pool is hidden
            subtype=torch.cat((subtypes(self.labelled)[labelled], torch.zeros_like(index[chosen]))),
            augmentation=self.augment,
            symmetric=self.mirror,
            extent=CATEGORY_EXTENT.get(self.category, (0.5, 0.5, 0.5)),
        )

    def _decode_labelled_parts(self, stage: str | None) -> None:
        """Decode what the stage will show, so that a damaged labelled picture ends the run now and not after hours."""
        wanted = {"fit": ("train", "val", "test"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
        for part in wanted.get(stage or "fit", ()):
            crops = self._part_crops(part)
            crops.require(range(len(self.labelled) if part == "train" else len(crops)))

    def _part(self, part: str, records: list[Record]) -> DataLoader[Batch]:
        source, known = torch.arange(len(records)), subtypes(records)  # known to methods that are told, and say so
        dataset = PoseDataset(self._part_crops(part), source, viewpoints(records), subtype=known)
        return self._loader(share_of(dataset, range(len(dataset)), *self._place()))

    def _place(self) -> tuple[int, int]:
        """Number of this process and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _described(self, records: list[Record]) -> tuple[list[Record], Float[Tensor, "picture dim"]]:
        crops = Crops(records, self.crop, CropMemory(0, self.crop_cache))
        return describe_pictures(self.trainer, crops, self._place(), self._loader)

    def _usable_pool(self) -> list[int]:
        if self._usable is None:
            offset = len(self.labelled)
            usable = self._skip(self._part_crops("train"), range(offset, offset + len(self.pool)), "pool pictures")
            self._usable = [position - offset for position in usable]
        return self._usable

    def _skip(self, crops: Crops, positions: Sequence[int], what: str) -> list[int]:
        usable, skipped = crops.usable(positions, what, *self._place())
        self.skipped += skipped
        return usable

    def _loader(self, dataset: PoseDataset | Subset, **kwargs) -> DataLoader[Batch]:
        # All by keyword: Lightning builds the loader anew for several processes and finds its arguments by name.
        return DataLoader(
            dataset, batch_size=self.batch_size, collate_fn=collate, num_workers=self.num_workers, **kwargs
        )
