"""ETH-80: toy objects on a turntable from 41 views each, whose poses stand in the names of the pictures."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from nvsm_lightning.data.crops import picture_size
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.parts import parts_of_groups, tested_groups
from nvsm_lightning.data.record import Part, Record, check_record
from nvsm_lightning.errors import DataError

SIZE = 256  # pixels of a side of the published pictures


class ETH80(PoseData):
    """ETH-80 in the layout of its release with 256 x 256 pictures: ``<category><object>-<polar>-<azimuth>.png`` (or
    ``.jpg``) in any folders below the root; other categories and the masks beside them are left alone.

    The polar angle is counted from straight above; the azimuth in the sense of PASCAL3D+, but from another side
    (``front_deg``). The release centres the box around the object's silhouette in every picture, and its scale is the
    same from every side: one distance and one focal length serve all pictures. They are estimates of this reader
    (experiments/eth80_horses.md).

    Args:
        root: folder that holds the pictures, at any depth.
        category: object category, as the names of the pictures begin.
        train_objects: objects whose pictures are labelled or pool.
        val_objects: objects of the validation part.
        test_objects: objects of the test part.
        front_deg: azimuth that the release gives to the view from the front (that of horses).
        distance: of the camera from the object's centre in CAD units.
        focal_px: focal length in pixels of a picture of 256 x 256.
        kwargs: the arguments common to all data sets, see ``PoseData``.
    """

    name = "eth80"

    def __init__(
        self,
        root: str,
        category: str = "horse",
        train_objects: Sequence[int] = (1, 2, 3, 4, 5),
        val_objects: Sequence[int] = (6, 7),
        test_objects: Sequence[int] = (8, 9, 10),
        front_deg: float = 90.0,
        distance: float = 4.0,
        focal_px: float = 916.0,
        **kwargs,
    ) -> None:
        super().__init__(root, category=category, **kwargs)
        self.objects: dict[Part, Sequence[int]] = {"train": train_objects, "val": val_objects, "test": test_objects}
        self.front_deg, self.distance, self.focal_px = front_deg, distance, focal_px

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """The pictures of the wanted objects; with ``test_only`` of the test objects that are found, or if there is
        none of all. See ``PoseData.read``."""
        pattern = re.compile(re.escape(self.category) + r"(\d+)-(\d{3})-(\d{3})\.(?:png|jpe?g)", re.IGNORECASE)
        found = [(path, match) for path in sorted(root.rglob("*-*-*.*")) if (match := pattern.fullmatch(path.name))]
        here = sorted({int(match[1]) for _, match in found})
        if not here:
            raise DataError(
                f"{root} holds no picture {self.category}<object>-<polar>-<azimuth>.png; give the folder of ETH-80 "
                "with --data.root and one of its categories with --data.category."
            )
        if test_only:
            tested = tested_groups(self.objects["test"], here, "ETH-80 object", root)
            parts: dict[int, Part] = dict.fromkeys(tested, "test")
        else:
            parts = parts_of_groups(self.objects, here, "ETH-80 object", root, self.test_root is not None)
        return [self._record(path, match, parts[n], root) for path, match in found if (n := int(match[1])) in parts]

    def _record(self, path: Path, match: re.Match[str], part: Part, root: Path) -> Record:
        number, polar, azimuth = (int(word) for word in match.groups()[:3])
        try:
            width, height = picture_size(path)
        except DataError:  # whoever decodes it will tell, or skip it
            width = height = SIZE
        record = Record(
            image=path,
            key=path.relative_to(root).as_posix(),
            category=self.category,
            part=part,
            viewpoint=(math.radians(azimuth - self.front_deg) % (2 * math.pi), math.radians(90 - polar), 0.0),
            distance=self.distance,
            focal_px=self.focal_px * width / SIZE,
            principal=(width / 2, height / 2),
            group=f"{self.category} {number:02d}",
        )
        check_record(record, str(path))
        return record
