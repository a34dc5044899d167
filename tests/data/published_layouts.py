"""Writers of the published data sets' true on-disk layouts, tiny and of our own noise: fixtures of the readers' tests.

``python tests/data/published_layouts.py FOLDER`` writes all four for a look.
"""

import math
import sys
from pathlib import Path

import numpy as np
from layouts import viewpoint_struct, write_picture
from scipy.io import savemat

SIZE = (64, 48)
NOTHING = np.zeros((0, 0))  # MATLAB's []
P2 = "P2: 180.384 0 152.39 11.21432 0 180.384 43.2135 0.0540947 0 0 1 0.002745884"  # KITTI's at a quarter of its size
CALIB = ("P0", "P1", "P2", "P3", "R0_rect", "Tr_velo_to_cam", "Tr_imu_to_velo")


def item(category: str = "car", viewpoint: dict | None = None, **changes) -> dict:
    """One object as PASCAL3D+ and ObjectNet3D annotate it; without a viewpoint the field is []."""
    anchors = {
        "left_front_wheel": {"location": np.array([[10.0, 12.0]]), "status": 1.0},
        "right_front_wheel": {"location": NOTHING, "status": 2.0},
    }
    values = {
        "class": category, "bbox": np.array([[5.0, 6.0, 60.0, 44.0]]), "anchors": anchors,
        "viewpoint": NOTHING if viewpoint is None else viewpoint, "cad_index": 3.0, "subtype": "sedan",
        "truncated": 0.0, "occluded": 0.0, "difficult": 0.0,
    }  # fmt: skip
    return values | changes


def write_record(path: Path, items: list[dict], size: tuple[int, int] = SIZE) -> Path:
    """An annotation file: the struct ``record`` with a struct array of objects."""
    objects = np.zeros((1, len(items)), dtype=[(name, object) for name in item()])
    for place, one in enumerate(items):
        for name in item():
            objects[name][0, place] = one.get(name, NOTHING)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"filename": f"{path.stem}.JPEG", "imgsize": np.array([[*map(float, size), 3.0]]), "objects": objects}
    savemat(path, {"record": record}, do_compression=True)
    return path


def write_list(path: Path, ids: list[str], ending: str = "\n") -> Path:
    """A list of ids, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}{ending}" for key in ids), encoding="utf-8", newline="")
    return path


def picture(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    """A picture whose name may end in .JPEG, as those of ImageNet do."""
    made = write_picture(path.with_suffix(".jpeg"), size, seed)
    return made.rename(path)


def turn(index: int, count: int, **changes) -> dict:
    """A viewpoint struct with an azimuth of its own."""
    return viewpoint_struct(azimuth=360.0 * index / count, **changes)


def write_pascal3d(root: Path, train: int = 9, test: int = 4) -> Path:
    """PASCAL3D+: ImageNet pictures of cars with one to three objects, and four VOC pictures with VOC's own lists."""
    ids: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(train + test):
        key = f"n0281453{index % 3}_{index:04d}"
        ids["train" if index < train else "val"].append(key)
        picture(root / f"Images/car_imagenet/{key}.JPEG", index)
        items = [item(viewpoint=turn(index, train + test), subtype=("sedan", "SUV")[index % 2])]
        if index % 3 == 1:
            items.append(item(viewpoint=turn(index, 8), truncated=1.0))
        if index % 3 == 2:
            items += [item("bus", viewpoint=turn(index, 5)), item(viewpoint=None, occluded=1.0)]
        write_record(root / f"Annotations/car_imagenet/{key}.mat", items)
    for part, keys in ids.items():
        write_list(root / f"Image_sets/car_imagenet_{part}.txt", keys)
    write_list(root / "Image_sets/car_imagenet_subtype.txt", ["hatchback", "sedan", "SUV", "others"])
    coarse = viewpoint_struct(azimuth=0.0, elevation=0.0, theta=0.0, distance=0.0, azimuth_coarse=135.0)
    voc = {
        "2008_000027": [item(viewpoint=turn(1, 6)), item(viewpoint=turn(2, 6), occluded=1.0)],
        "2008_000032": [item(viewpoint=coarse, bbox=np.array([[1.0, 1.0, 70.0, 48.0]]))],
        "2008_000036": [item("person"), item(viewpoint=turn(4, 6), difficult=1.0)],
        "2008_000042": [item(viewpoint=turn(5, 6))],
    }
    for seed, (key, items) in enumerate(voc.items()):
        picture(root / f"Images/car_pascal/{key}.jpg", 100 + seed)
        write_record(root / f"Annotations/car_pascal/{key}.mat", items)
    main = root / "PASCAL/VOCdevkit/VOC2012/ImageSets/Main"
    write_list(main / "train.txt", [*list(voc)[:2], "2008_000999"])  # a picture without a car
    write_list(main / "val.txt", list(voc)[2:])
    return root


def write_occluded(root: Path, pascal: Path, level: str = "FGL1_BGL1") -> Path:
    """Occluded-PASCAL3D+ of the val list: picture, masks and boxes as its release has them, and a stranger on the
    list."""
    keys = (pascal / "Image_sets/car_imagenet_val.txt").read_text().split()
    folder = f"car{level}"
    for seed, key in enumerate(keys):
        picture(root / f"images/{folder}/{key}.JPEG", 200 + seed)
        occluder = np.zeros(SIZE[::-1], bool)
        occluder[10:30, 5 + seed : 25 + seed] = True
        mask = np.full(SIZE[::-1], 4, np.uint8)  # masks were JPEG files: not quite 0
        mask[6:44, 5:60] = 255
        target = root / f"annotations/{folder}/{key}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        box = np.array([6, 44, 5, 60, 48, 64])
        boxes = np.array([[10, 30, 5 + seed, 25 + seed, 48, 64]])
        np.savez(
            target, source=f"../PASCAL3D+/Images/car_imagenet/{key}.JPEG", mask=mask, box=box, occluder_mask=occluder,
            occluder_box=boxes, category="car", occluder_level="F",
        )  # fmt: skip
    write_list(root / f"lists/{folder}.txt", [*keys, "n02834778_9345"], ending=".JPEG\n")
    return root


def write_objectnet(root: Path, pictures: int = 10) -> Path:
    """ObjectNet3D: pictures with objects of three categories, fine, coarse and missing labels."""
    ids: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for index in range(pictures):
        key = f"n0{2818832 + index}_{index}"
        ids["train" if index < pictures * 0.6 else "val" if index < pictures * 0.7 else "test"].append(key)
        picture(root / f"Images/{key}.JPEG", 300 + index)
        items = [item("bed", viewpoint=turn(index, 10)), item("chair", viewpoint=turn(index, 4), difficult=1.0)]
        if index % 3 == 1:  # fine angles missing
            rough = viewpoint_struct(azimuth=None, elevation=None, azimuth_coarse=45.0 * (index % 8))
            items.append(item("bed", viewpoint=rough))
        if index % 3 == 2:
            items = [item("lamp"), *items, item("bed", viewpoint=turn(index, 10, focal=0.0)), item("bed")]
        write_record(root / f"Annotations/{key}.mat", items)
    for part, keys in ids.items():
        write_list(root / f"Image_sets/{part}.txt", keys)
    return root


def label_row(category: str, occluded: int, x: float, z: float, rotation: float, truncated: float = 0.0) -> str:
    """A row of a KITTI label file; the box is that of the car's projected centre and size."""
    h, w, length = 1.5, 1.6, 3.9
    y, focal = 1.65, 180.384
    u, v = (focal * x + 11.21432) / z + 152.39, focal * (y - h / 2) / z + 43.2135
    box = (u - focal * length / 2 / z, v - focal * h / 2 / z, u + focal * length / 2 / z, v + focal * h / 2 / z)
    alpha = (rotation - math.atan2(x, z) + math.pi) % (2 * math.pi) - math.pi
    numbers = [alpha, *box, h, w, length, x, y, z, rotation]
    return f"{category} {truncated:.2f} {occluded} " + " ".join(f"{number:.2f}" for number in numbers)


def write_kitti(root: Path, frames: int = 12) -> Path:
    """KITTI: frames of three cars, a van, a distant car and a region not cared for; every seventh listed frame is
    absent."""
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(frames):
        key = f"{index:06d}"
        lists["train" if index < frames * 2 // 3 else "val"].append(key)
        if index % 7 == 6:
            continue
        write_picture(root / f"training/image_2/{key}.png", (310, 94), 400 + index)
        rows = [
            label_row("Car", 0, -3.0, 9.0, -math.pi + 0.5 * index),
            label_row("Car", 1 + index % 2, 1.5, 11.0, 1.57),
            label_row("Van", 0, 4.0, 12.0, 0.3),
            label_row("Car", 3, 2.0, 10.0, 0.3),
            label_row("Car", 0, -6.0, 9.0, 0.3, truncated=0.4),
            label_row("Car", 0, 3.0, 60.0, 0.0),
            "DontCare -1 -1 -10 50.00 17.00 63.00 20.00 -1 -1 -1 -1000 -1000 -1000 -10",
        ]
        write_list(root / f"training/label_2/{key}.txt", rows)
        calib = [P2 if name == "P2" else f"{name}: 1 0 0 0 0 1 0 0 0 0 1 0" for name in CALIB]
        write_list(root / f"training/calib/{key}.txt", [*calib, ""])
    for part, keys in lists.items():
        write_list(root / f"ImageSets/{part}.txt", keys)
    return root


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_occluded(target / "OccludedPASCAL3D", write_pascal3d(target / "PASCAL3D+_release1.1"))
    write_objectnet(target / "ObjectNet3D")
    write_kitti(target / "kitti")
