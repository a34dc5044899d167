"""PASCAL3D+ release 1.1 in its true on-disk layout, under the protocol of NeMo and NVSM or others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nvsm_lightning.data.annotation import Item, find_picture, object_record, read_items, view_of
from nvsm_lightning.data.published import PublishedData, read_ids
from nvsm_lightning.data.record import Part, Record
from nvsm_lightning.errors import ConfigError, DataError

VOC_LISTS = "PASCAL/VOCdevkit/VOC2012/ImageSets/Main"  # inside of the release
FILTERS = ("nemo", "none", "voc")
SOURCES = {"imagenet": ("imagenet",), "pascal": ("pascal",), "both": ("imagenet", "pascal")}
RELEASE = "--data.root must be the folder of PASCAL3D+ release 1.1."


class Pascal3D(PublishedData):
    """PASCAL3D+ (``Images/ Annotations/ Image_sets/``), by default the ImageNet pictures as NeMo and NVSM use them.

    Objects without a usable camera (distance or focal length not positive, or no fine viewpoint) are left out and
    counted. The train list is labels, pool and validation, the val list is the test part. Few-shot protocol of NVSM: 7,
    20 or 50 labelled pictures, the rest without labels.

    Args:
        root: folder of the release (``PASCAL3D+_release1.1``).
        source: which pictures: ``imagenet``, ``pascal`` (the VOC half, lists of VOC 2012) or ``both``.
        filter: which objects: ``nemo`` = the first of each picture, whatever its flags; ``none`` = all of the category;
            ``voc`` = all that are neither truncated nor occluded nor difficult.
        coarse: also take objects of which only coarse angles (steps of 45 degrees) and a box are known.
        subtypes: only these subtypes (``Image_sets/<category>_imagenet_subtype.txt``); empty = all.
        kwargs: the arguments common to all published data sets, see ``PublishedData`` and ``PoseData``.
    """

    name = "pascal3d"

    def __init__(
        self,
        root: str,
        source: Literal["imagenet", "pascal", "both"] = "imagenet",
        filter: Literal["nemo", "none", "voc"] = "nemo",
        coarse: bool = False,
        subtypes: Sequence[str] = (),
        **kwargs,
    ) -> None:
        super().__init__(root, **kwargs)
        if filter not in FILTERS or source not in SOURCES:
            raise ConfigError(
                f"--data.filter must be one of {', '.join(FILTERS)} and --data.source of {', '.join(SOURCES)}; "
                f"got {filter!r} and {source!r}."
            )
        self.source, self.filter, self.coarse, self.subtypes = source, filter, coarse, tuple(subtypes)

    def read_all(self, root: Path, test_only: bool) -> list[Record]:
        """The pictures of the train and val lists; with ``test_only`` all are test."""
        parts: dict[str, Part] = {}
        for category in self.categories(root):
            self._check_subtypes(root, category)
            for source in SOURCES[self.source]:
                subset = f"{category}_{source}"
                train, test = (self._ids(root, category, source, part) for part in ("train", "val"))
                divided = self.parts_of(train, test, f"{root}, {subset}")
                parts |= {f"{subset}/{key}": "test" if test_only else part for key, part in divided.items()}
        return self.gather(parts, lambda key, part: self._records(root, key, part))

    def categories(self, root: Path) -> list[str]:
        """The category asked for, or with ``all`` every one that has an ImageNet list."""
        found = sorted(
            file.name.removesuffix("_imagenet_train.txt") for file in root.glob("Image_sets/*_imagenet_train.txt")
        )
        if not found:
            raise DataError(f"{root / 'Image_sets'} holds no list <category>_imagenet_train.txt; {RELEASE}")
        if self.category not in ("all", *found):
            raise DataError(f"{root} has no category {self.category!r}; it has {', '.join(found)} (--data.category).")
        return found if self.category == "all" else [self.category]

    def _ids(self, root: Path, category: str, source: str, part: str) -> list[str]:
        """The ids of a list. The VOC half has VOC's, of all its pictures: meant are those that are here."""
        own, subset = root / "Image_sets" / f"{category}_{source}_{part}.txt", f"{category}_{source}"
        if source == "imagenet" or own.is_file():
            return read_ids(own, RELEASE)
        here = {file.stem for folder in ("Images", "Annotations") for file in (root / folder / subset).glob("*")}
        return [key for key in read_ids(root / VOC_LISTS / f"{part}.txt", RELEASE) if key in here]

    def _check_subtypes(self, root: Path, category: str) -> None:
        if not self.subtypes:
            return
        known = read_ids(root / "Image_sets" / f"{category}_imagenet_subtype.txt", RELEASE)
        strange = sorted(set(self.subtypes) - set(known))
        if strange:
            raise DataError(f"{category} has no subtype {strange[0]!r}; the list of the release: {', '.join(known)}.")

    def _records(self, root: Path, key: str, part: Part) -> list[Record]:
        """The usable objects of one picture, ``key`` being ``<category>_<source>/<id>``."""
        subset, _, name = key.partition("/")
        category = subset.rpartition("_")[0]
        file = root / "Annotations" / subset / f"{name}.mat"
        chosen = list(enumerate(read_items(file, 1 if self.filter == "nemo" else None)))
        if not chosen:
            self.left_out["without an object"].append(name)
        records = []
        for place, item in chosen:
            reason = self._unwanted(item, category)
            view = reason or view_of(item, self.coarse)
            if isinstance(view, str):
                self.left_out[view].append(f"{name} object {place + 1}")
                continue
            image = find_picture(root / "Images" / subset / name, file)
            records.append(object_record(root, image, place, item, view, part, category))
        return records

    def _unwanted(self, item: Item, category: str) -> str:
        """Why the protocol does not use an object; empty if it does."""
        if self.filter != "nemo" and item.category != category:
            return "of another category"
        if self.subtypes and item.subtype not in self.subtypes:
            return "of another subtype"
        if self.filter == "voc" and (item.truncated or item.occluded or item.difficult):
            return "truncated, occluded or difficult"
        return ""
