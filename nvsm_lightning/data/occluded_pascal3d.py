"""Occluded-PASCAL3D+: the ImageNet test pictures of PASCAL3D+ behind pasted objects, in nine levels."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from nvsm_lightning.data.annotation import find_picture
from nvsm_lightning.data.crops import picture_size
from nvsm_lightning.data.occlude import annotation_of, parse_level, read_masks
from nvsm_lightning.data.parts import existing
from nvsm_lightning.data.pascal3d import Pascal3D
from nvsm_lightning.data.published import read_ids
from nvsm_lightning.data.record import Part, Record
from nvsm_lightning.errors import DataError

RELEASE = "--data.occluded_root must be the folder of Occluded-PASCAL3D+ with images/, annotations/ and lists/."


class OccludedPascal3D(Pascal3D):
    """Occluded-PASCAL3D+ (``images/ annotations/ lists/``) as test part; labels, pool and validation are PASCAL3D+'s.

    The pictures have the size of the originals, whose annotations they use. Listed pictures that are not in the val
    list of PASCAL3D+ or have no usable camera there are left out and counted (the release has a bicycle among its
    aeroplanes).

    Args:
        root: folder of PASCAL3D+ release 1.1.
        occluded_root: folder of Occluded-PASCAL3D+.
        level: ``L1``, ``L2``, ``L3`` (NeMo's) or one of the nine, such as ``FGL1_BGL3``.
        kwargs: the arguments of ``Pascal3D``.
    """

    name = "occluded_pascal3d"

    def __init__(self, root: str, occluded_root: str = "data/OccludedPASCAL3D", level: str = "L1", **kwargs) -> None:
        super().__init__(root, **kwargs)
        self.occluded_root, self.level = occluded_root, parse_level(level).name

    def read_all(self, root: Path, test_only: bool) -> list[Record]:
        """Train and validation pictures of PASCAL3D+, then the occluded ones of the level."""
        occluded = existing(self.occluded_root, "--data.occluded_root")
        clean = super().read_all(root, test_only=False)
        records = [] if test_only else [record for record in clean if record.part != "test"]
        for category in self.categories(root):
            originals = {r.image.stem: r for r in clean if r.part == "test" and r.category == category}
            folder = f"{category}{self.level}"
            ids = read_ids(occluded / "lists" / f"{folder}.txt", RELEASE)
            missing = [key for key in ids if key not in originals]
            if missing:
                self.left_out["not usable in the val list of PASCAL3D+"] += missing
            parts: dict[str, Part] = {key: "test" for key in ids if key in originals}
            read_one = partial(_records, occluded, folder, originals)
            records += self.gather(parts, read_one)
        return records

    def verify(self, record: Record) -> None:
        """The picture, and of an occluded one its masks, which must have its size."""
        super().verify(record)
        if record.occlusion != self.level:
            return
        masks = read_masks(record.image)
        if masks is None:
            raise DataError(f"Annotation {annotation_of(record.image)} does not exist; unpack it again.")
        width, height = picture_size(record.image)
        if masks[0].shape != (height, width):
            raise DataError(
                f"Annotation {annotation_of(record.image)}: masks of {masks[0].shape} for a picture of "
                f"{(height, width)}; unpack both again."
            )


def _records(root: Path, folder: str, originals: dict[str, Record], key: str, part: Part) -> list[Record]:
    clean = originals[key]
    image = find_picture(root / "images" / folder / key, root / "lists" / f"{folder}.txt")
    level = folder.removeprefix(clean.category)
    return [replace(clean, image=image, key=image.relative_to(root).as_posix(), part=part, occlusion=level)]
