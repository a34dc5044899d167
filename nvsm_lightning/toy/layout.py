"""Writing pictures and labels in the on-disk layout of PASCAL3D+ release 1.1."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from nvsm_lightning.toy.drawing import FOCAL
from nvsm_lightning.toy.scene import Sample
from nvsm_lightning.toy.shapes import Shape

SOURCE = "car_imagenet"  # the folder names of the release; the pictures are ours, see the README written beside them

README = """SYNTHETIC PICTURES - THIS IS NOT PASCAL3D+.

Procedural cars rendered by nvsm_lightning (generator version {version}, seed {seed}), in the folder layout of
PASCAL3D+ release 1.1 so that its reader reads them: {train} pictures in the train list, {test} in the val list (the
test part). Every picture shows a car of its own; no shape occurs twice, in one part or across parts. The set can be
made again at any time by `nvsm prepare toy`.

Numbers measured on these pictures say whether the program works and how methods compare here. They are not PASCAL3D+
numbers and must not be set beside published ones without saying so.

Differences to the release: pixel coordinates (bbox, px, py) are continuous, (0, 0) being the outer corner of the
top-left pixel; every cad_index is 1, and CAD/car/01.off is one procedural sedan.
"""


def prepare_folders(root: Path) -> None:
    """Make the folders of the layout under ``root``."""
    for folder in (f"Images/{SOURCE}", f"Annotations/{SOURCE}", "Image_sets", "CAD/car"):
        (root / folder).mkdir(parents=True, exist_ok=True)


def annotation(name: str, sample: Sample) -> dict:
    """The ``record`` struct of one picture, angles in degrees, as scipy's ``savemat`` takes it."""
    azimuth, elevation, theta = (math.degrees(angle) for angle in sample.viewpoint)
    height, width = sample.image.shape[:2]
    viewpoint = {
        "azimuth_coarse": round(azimuth / 45) * 45.0 % 360, "elevation_coarse": round(elevation / 10) * 10.0,
        "azimuth": azimuth, "elevation": elevation, "theta": theta, "distance": sample.distance,
        "focal": 1.0, "viewport": FOCAL, "px": sample.principal[0], "py": sample.principal[1], "error": 0.0,
        "interval_azimuth": 5.0, "interval_elevation": 5.0, "num_anchor": float(len(sample.keypoints)),
    }  # fmt: skip
    anchors = {
        point: {"location": np.array([[u, v]]) if seen else np.zeros((0, 0)), "status": 1.0 if seen else 2.0}
        for point, (u, v, seen) in sample.keypoints.items()
    }
    item = {
        "class": "car", "bbox": np.array([sample.box]), "anchors": anchors, "viewpoint": viewpoint, "cad_index": 1.0,
        "truncated": float(sample.truncated), "occluded": float(sample.occluded), "difficult": 0.0,
    }  # fmt: skip
    return {"record": {"filename": name, "imgsize": np.array([[width, height, 3.0]]), "objects": item}}


def write_sample(root: Path, key: str, sample: Sample) -> None:
    """Write one picture and its annotation."""
    name = f"{key}.JPEG"
    Image.fromarray(sample.image).save(root / "Images" / SOURCE / name, "JPEG", quality=92)
    savemat(root / "Annotations" / SOURCE / f"{key}.mat", annotation(name, sample), do_compression=True)


def write_off(path: Path, shape: Shape) -> None:
    """Write a shape as OFF, header and counts on lines of their own."""
    lines = ["OFF", f"{len(shape.vertices)} {len(shape.faces)} 0"]
    lines += [f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in shape.vertices]
    lines += [f"3 {a} {b} {c}" for a, b, c in shape.faces]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
