"""ObjectNet3D in its true on-disk layout: many objects of 100 categories a picture, one list of ids for all of them."""

from pathlib import Path

from nvsm_lightning.data.annotation import find_picture, object_record, read_items, view_of
from nvsm_lightning.data.published import PublishedData, read_ids
from nvsm_lightning.data.record import Part, Record
from nvsm_lightning.errors import DataError

RELEASE = "--data.root must be the folder of ObjectNet3D with Images/, Annotations/ and Image_sets/."


class ObjectNet3D(PublishedData):
    """ObjectNet3D (``Images/ Annotations/ Image_sets/{train,val,test}.txt``): every object of one category.

    The train list is labels and pool, the val list validation, the test list the test part. Pictures whose list has no
    object of the category are passed over.

    Args:
        root: folder of the release.
        coarse: where fine angles are missing take the coarse ones, and where there is no distance either, the object's
            box instead of a camera.
        difficult: take objects that are marked as difficult.
        kwargs: the arguments common to all published data sets, see ``PublishedData`` and ``PoseData``;
            ``val_percent`` is without effect.
    """

    name = "objectnet3d"

    def __init__(self, root: str, coarse: bool = True, difficult: bool = True, **kwargs) -> None:
        super().__init__(root, **kwargs)
        self.coarse, self.difficult = coarse, difficult

    def read_all(self, root: Path, test_only: bool) -> list[Record]:
        """The objects of the pictures of the three lists; with ``test_only`` all are test."""
        parts: dict[str, Part] = {}
        names: tuple[Part, ...] = ("train", "val", "test")
        for part in names:
            for key in read_ids(root / "Image_sets" / f"{part}.txt", RELEASE):
                if key in parts:
                    raise DataError(f"{root}: {key!r} is in both the {parts[key]} and the {part} list; keep it in one.")
                parts[key] = part
        if test_only:
            parts = dict.fromkeys(parts, "test")
        return self.gather(parts, lambda key, part: self._records(root, key, part))

    def _records(self, root: Path, name: str, part: Part) -> list[Record]:
        file = root / "Annotations" / f"{name}.mat"
        records = []
        for place, item in enumerate(read_items(file)):
            if not item.category:
                raise DataError(f"Annotation {file}: object {place + 1} has no class; unpack it again.")
            if self.category not in ("all", item.category):
                continue
            view = view_of(item, self.coarse) if self.difficult or not item.difficult else "marked as difficult"
            if isinstance(view, str):
                self.left_out[view].append(f"{name} object {place + 1}")
                continue
            image = find_picture(root / "Images" / name, file)
            records.append(object_record(root, image, place, item, view, part, item.category))
        return records
