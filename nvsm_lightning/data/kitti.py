"""KITTI object detection in its true on-disk layout: labels and calibrations to viewpoints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.data.published import PublishedData, checked, is_file, read_ids
from nvsm_lightning.data.record import Part, Record
from nvsm_lightning.data.turning import warp_towards
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.frames import kitti_view

OCCLUSION = ("fully visible", "partly occluded", "largely occluded", "unknown")
TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
COLUMNS = 15  # and a score in result files
RELEASE = "the lists ImageSets/{train,val}.txt (3,712 and 3,769 frames) come with detection codes, not with KITTI."


@dataclass(frozen=True)
class KittiLabel:
    """One row of a label file, in its units (pixels, metres, radians); ``row`` counts from 0."""

    row: int
    type: str
    truncated: float
    occluded: int
    box: tuple[float, float, float, float]
    height: float
    width: float
    length: float
    location: tuple[float, float, float]
    rotation_y: float


class KITTI(PublishedData):
    """KITTI object detection (``training/{image_2,label_2,calib}``, ``ImageSets/``): every large enough car a picture.

    The train list is labels, pool and validation, the val list is the test part; frames that are listed but not there
    are skipped with a notice. Reports show each occlusion level. A car's distance is in units of ``metres_per_unit``,
    its focal length that of the left colour camera; azimuth and elevation are those of the line of sight (camera above
    the car: positive).

    Args:
        root: folder that holds ``training/`` and ``ImageSets/``.
        train_list: list of the train part; empty for none (all of a test list of your own).
        test_list: list of the test part.
        min_side: the shorter side of the box must be longer than this many pixels (NeMo: 100, cars within 11 m).
        max_truncation: the share outside the picture must be smaller (NeMo: 0.2).
        occlusion: levels to take: 0 fully visible, 1 partly occluded, 2 largely occluded, 3 unknown.
        metres_per_unit: length of a CAD unit. NeMo's crops amount to 5.32 (its ``distance / 6.4``), which makes these
            small cars smaller than the cuboid; 4.46 is the median diagonal of their boxes, which is what PASCAL3D+
            calls one unit; 0 = each car's own diagonal.
        rectify: show each car as a camera turned towards it would. NeMo does not: cars at the border of these wide
            pictures are then stretched, by half at 35 degrees.
        kwargs: the arguments common to all published data sets, see ``PublishedData`` and ``PoseData``.
    """

    name = "kitti"

    def __init__(
        self,
        root: str,
        train_list: str = "train",
        test_list: str = "val",
        min_side: float = 100.0,
        max_truncation: float = 0.2,
        occlusion: Sequence[int] = (0, 1, 2),
        metres_per_unit: float = 5.32,
        rectify: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(root, **kwargs)
        if not set(occlusion) <= set(range(len(OCCLUSION))) or not occlusion or metres_per_unit < 0:
            raise ConfigError(
                "--data.occlusion takes levels 0 to 3 and --data.metres_per_unit no negative number; got "
                f"{list(occlusion)} and {metres_per_unit}."
            )
        self.train_list, self.test_list = train_list, test_list
        self.min_side, self.max_truncation = min_side, max_truncation
        self.occlusion, self.metres_per_unit, self.rectify = tuple(occlusion), metres_per_unit, rectify

    def read_all(self, root: Path, test_only: bool) -> list[Record]:
        """The cars of the frames of both lists; with ``test_only`` all are test."""
        sets, images = root / "ImageSets", root / "training/image_2"
        train, test = (
            read_ids(sets / f"{name}.txt", RELEASE) if name else [] for name in (self.train_list, self.test_list)
        )
        here = {key for key in (*train, *test) if is_file(images / f"{key}.png")}
        if not here:
            raise DataError(f"{images} holds none of the listed frames; unpack KITTI's pictures there.")
        absent = [key for key in (*train, *test) if key not in here]
        if absent:
            self.left_out["listed frames that are not there"] += absent
        parts = self.parts_of([key for key in train if key in here], [key for key in test if key in here], str(sets))
        return self.gather(dict.fromkeys(parts, "test") if test_only else parts, lambda k, p: self._frame(root, k, p))

    def _frame(self, root: Path, key: str, part: Part) -> list[Record]:
        """The usable cars of one frame."""
        labels = read_labels(root / f"training/label_2/{key}.txt")
        projection = read_projection(root / f"training/calib/{key}.txt")
        records = []
        for label in labels:
            if label.type == "DontCare" or self.category.lower() not in ("all", label.type.lower()):
                continue
            reason = self._unwanted(label)
            if reason:
                self.left_out[reason].append(f"{key} row {label.row + 1}")
                continue
            records.append(self._record(root, key, part, label, projection))
        return records

    def _unwanted(self, label: KittiLabel) -> str:
        """Why the protocol does not use an object; empty if it does."""
        x1, y1, x2, y2 = label.box
        if label.occluded not in self.occlusion:
            return f"of occlusion level {label.occluded} ({OCCLUSION[label.occluded]})"
        if label.truncated >= self.max_truncation:
            return f"truncated by {self.max_truncation:.0%} or more"
        return f"not more than {self.min_side:g} pixels high or wide" if min(x2 - x1, y2 - y1) <= self.min_side else ""

    def _record(self, root: Path, key: str, part: Part, label: KittiLabel, projection: Float[Tensor, "3 4"]) -> Record:
        where = f"{root / f'training/label_2/{key}.txt'}:{label.row + 1}"
        if min(label.height, label.width, label.length) <= 0 or label.location[2] <= 0:
            raise DataError(f"{where}: size or depth is not positive; unpack the labels again.")
        location = torch.tensor(label.location, dtype=torch.float64)
        if self.rectify:  # seen from the colour camera, which stands 6 cm beside the labels' camera 0
            location = location + torch.linalg.solve(projection[:, :3], projection[:, 3])
            projection = torch.cat((projection[:, :3], torch.zeros_like(projection[:, 3:])), -1)
        heading, height = location.new_tensor(label.rotation_y), location.new_tensor(label.height)
        view = kitti_view(location, heading, height, projection)
        unit = self.metres_per_unit or math.hypot(label.height, label.width, label.length)
        azimuth, elevation, theta = view.viewpoint.tolist()
        focal, principal, warp = float(projection[0, 0]), tuple(view.principal.tolist()), None
        if self.rectify:
            middle = (float(projection[0, 2]), float(projection[1, 2]))
            warp, principal = warp_towards(principal, focal, middle), middle
        image = root / f"training/image_2/{key}.png"
        record = Record(
            image=image,
            key=f"training/image_2/{key}#{label.row}.png",
            category=label.type.lower(),
            part=part,
            viewpoint=(azimuth, elevation, theta),
            distance=float(view.distance) / unit,
            focal_px=focal,
            principal=principal,
            warp=warp,
            box=label.box,  # for pools of other sets, which may be cut by boxes
            occlusion=OCCLUSION[label.occluded],
        )
        return checked(record, where)


def read_labels(file: Path) -> list[KittiLabel]:
    """The rows of a label file.

    Raises:
        DataError: no such file, or a row that is not of the format.
    """
    labels = []
    for row, line in enumerate(_lines(file)):
        words, where = line.split(), f"{file}:{row + 1}"
        if not words:
            continue
        if len(words) not in (COLUMNS, COLUMNS + 1) or words[0] not in TYPES:
            raise DataError(f"{where}: expected a type and 14 numbers, found {line[:80]!r}; unpack the labels again.")
        numbers = _numbers(words[1:], where)
        occluded = numbers[1]
        if occluded not in range(-1, len(OCCLUSION)) or (occluded < 0 and words[0] != "DontCare"):
            raise DataError(f"{where}: occlusion level {words[2]} is not 0, 1, 2 or 3; unpack the labels again.")
        labels.append(
            KittiLabel(
                row, words[0], numbers[0], int(occluded), (numbers[3], numbers[4], numbers[5], numbers[6]),
                numbers[7], numbers[8], numbers[9], (numbers[10], numbers[11], numbers[12]), numbers[13],
            )
        )  # fmt: skip
    if not labels:
        raise DataError(f"{file} is empty; unpack KITTI's labels again.")
    return labels


def read_projection(file: Path) -> Float[Tensor, "3 4"]:
    """P2 of a calibration file: rectified camera coordinates in metres to pixels of the left colour camera.

    Raises:
        DataError: no such file, no row P2, or one that is no projection.
    """
    for row, line in enumerate(_lines(file), 1):
        name, _, rest = line.partition(":")
        if name.strip() != "P2":
            continue
        numbers = _numbers(rest.split(), f"{file}:{row}")
        zeros = max(abs(numbers[place]) for place in (1, 4, 8, 9)) if len(numbers) == 12 else 1.0
        if zeros > 1e-3 or min(numbers[0], numbers[5]) <= 0 or abs(numbers[10] - 1) > 1e-3:
            raise DataError(f"{file}:{row}: P2 is not the projection of a camera ({numbers}); unpack calib again.")
        return torch.tensor(numbers, dtype=torch.float64).reshape(3, 4)
    raise DataError(f"{file} has no row `P2:`; unpack KITTI's calib again.")


def _lines(file: Path) -> list[str]:
    if not is_file(file):
        raise DataError(f"{file} does not exist, but its picture does; unpack KITTI's label_2 and calib.")
    return file.read_text(encoding="utf-8", errors="replace").splitlines()


def _numbers(words: Sequence[str], where: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: {error}; unpack it again.") from error
    if not all(math.isfinite(number) for number in numbers):
        raise DataError(f"{where}: a value is not finite; unpack it again.")
    return numbers
