"""Writers of tiny data sets in their true on-disk layouts: no picture is part of the repository."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def write_picture(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """A small picture of smooth noise; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)
    return path


def truncate(path: Path) -> None:
    """Cut a file to 60 % of its length, as an interrupted download does."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def pose_rows(count: int, split: str | None = None, start: int = 0, labelled: bool = True) -> list[dict]:
    """Rows of a pose table, azimuths evenly around."""
    rows = []
    for index in range(start, start + count):
        row: dict = {"file": f"{index:03d}.jpg"}
        if labelled:
            row |= {"azimuth_deg": round(360 * index / max(count, 1), 3), "elevation_deg": 5.0, "theta_deg": -2.0}
        if split is not None:
            row["split"] = split
        rows.append(row)
    return rows


def viewpoint_struct(**changes) -> dict:
    """The viewpoint struct of a PASCAL3D+ annotation (degrees)."""
    values = dict(
        azimuth_coarse=30.0, elevation_coarse=10.0, azimuth=30.0, elevation=10.0, distance=6.0, focal=1.0, px=33.0,
        py=25.0, theta=5.0, error=0.1, interval_azimuth=5.0, interval_elevation=5.0, num_anchor=4.0, viewport=3000.0,
    )  # fmt: skip
    return {key: value for key, value in (values | changes).items() if value is not None}


def write_annotation(path: Path, viewpoint: dict | None, second: bool = False) -> None:
    """One PASCAL3D+ annotation; ``second`` adds another object, as real pictures often have."""
    anchors = {"left_front_wheel": {"location": np.array([[10.0, 12.0]]), "status": 1.0}}
    item = {
        "class": "car", "bbox": np.array([[5.0, 6.0, 60.0, 44.0]]), "anchors": anchors, "cad_index": 3.0,
        "viewpoint": np.zeros((0, 0)) if viewpoint is None else viewpoint,
        "truncated": 0.0, "occluded": 0.0, "difficult": 0.0,
    }  # fmt: skip
    objects: dict | np.ndarray = item
    if second:
        fields = [(name, object) for name in item]
        objects = np.zeros((1, 2), dtype=fields)
        for name, value in item.items():
            objects[name][0, 0] = value
            objects[name][0, 1] = np.zeros((0, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"filename": path.stem + ".JPEG", "imgsize": np.array([[64.0, 48.0, 3.0]]), "objects": objects}
    savemat(path, {"record": record})


def degrees(viewpoint: tuple[float, float, float] | None) -> tuple[float, ...]:
    """A label in degrees, for comparing with what was written."""
    assert viewpoint is not None
    return tuple(math.degrees(angle) for angle in viewpoint)
