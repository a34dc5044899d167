"""Tiny data sets for every reader."""

import csv
from pathlib import Path

import pytest
from layouts import viewpoint_struct, write_annotation, write_picture

EPFL_HEAD = "{count} 376 250\n{frames}\ntripod_seq_%02d_%03d.jpg\nbbox_%02d.txt\n{turn}\n{front}\n{sense}\n"


@pytest.fixture
def epfl(tmp_path: Path) -> Path:
    """EPFL layout: sequences 1-4 of 12 frames, 10 a turn, a second each, front at frame 3, number 2 turning back."""
    folder = tmp_path / "epfl" / "tripod-seq"
    folder.mkdir(parents=True)
    text = EPFL_HEAD.format(
        count=5, frames="12 12 12 12 12", turn="10 10 10 10 10", front="3 3 3 3 3", sense="1 -1 1 1 1"
    )
    (folder / "tripod-seq.txt").write_text(text)
    for number in range(1, 5):
        for frame in range(1, 13):
            write_picture(folder / f"tripod_seq_{number:02d}_{frame:03d}.jpg", seed=100 * number + frame)
        times = [f"2008:03:12 10:59:{54 + s}" if s < 6 else f"2008:03:12 11:00:{s - 6:02d}" for s in range(12)]
        (folder / f"times_{number:02d}.txt").write_text("\n".join(times))
        (folder / f"bbox_{number:02d}.txt").write_text("8.5 10.25 44 30\n" * 12)
    return folder.parent


@pytest.fixture
def write_csv(tmp_path: Path):
    """``write_csv(rows, columns) -> folder``: a pose table with pictures for all its files."""

    def write(rows: list[dict], columns: list[str] | None = None, name: str = "set", pictures: bool = True) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        columns = columns or list(dict.fromkeys(key for row in rows for key in row))
        with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        for seed, row in enumerate(rows):
            if pictures and not (folder / row["file"]).exists():
                write_picture(folder / row["file"], seed=seed)
        return folder

    return write


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """PASCAL3D+ layout: 20 pictures in the train list, 6 in the val list, evenly around; every third of two objects."""
    root = tmp_path / "PASCAL3D+_release1.1"
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(26):
        key = f"n0281453{index % 3}_{index:04d}"
        lists["train" if index < 20 else "val"].append(key)
        picture = write_picture(root / "Images/car_imagenet" / f"{key}.jpeg", seed=index)
        picture.rename(picture.with_suffix(".JPEG"))
        view = viewpoint_struct(azimuth=360 * index / 26, px=30.0 + index / 10)
        write_annotation(root / "Annotations/car_imagenet" / f"{key}.mat", view, second=index % 3 == 0)
    (root / "Image_sets").mkdir()
    for part, keys in lists.items():
        (root / "Image_sets" / f"car_imagenet_{part}.txt").write_text("\r\n".join(keys) + "\r\n")
    return root
