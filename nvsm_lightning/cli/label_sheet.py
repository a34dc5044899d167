"""A contact sheet of labelled pictures with their cuboids: a label in another convention is seen, not computed."""

import math
from pathlib import Path
from typing import Any

import torch

from nvsm_lightning.data.crops import CropSpec, canonical_crop
from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.meshes import CATEGORY_EXTENT, box_cuboid
from nvsm_lightning.report.gallery import contact_sheet
from nvsm_lightning.report.overlays import TRUTH, captioned, overlay

PICTURES = 24
WIDTH = 288
UNKNOWN = (0.5, 0.5, 0.5)  # of a category whose cuboid is not known: its front is tinted all the same


def label_sheet(data: Any, file: Path) -> str:
    """Draw the labelled pictures of a data set into ``file``, by azimuth, each with a cuboid at its label's pose.

    Those that a fit would learn from come first; validation and test pictures, evenly spaced, fill the sheet. The
    labels of pool pictures stay hidden.

    Args:
        data: a ``PoseData`` that has been set up.
        file: the picture to write; its ending says the format.

    Returns:
        A line that says what was drawn.

    Raises:
        DataError: no picture has a label, or the file cannot be written.
    """
    others = [record for record in (*data.val, *data.test) if record.viewpoint is not None]
    room = max(0, PICTURES - len(data.labelled))
    step = max(1, math.ceil(len(others) / room)) if room else len(others) + 1
    records = sorted([*data.labelled[:PICTURES], *others[::step][:room]], key=lambda record: record.viewpoint[0])
    if not records:
        raise DataError("--sheet: no picture has a label that could be drawn.")
    width, length, height = sides = CATEGORY_EXTENT.get(data.category, UNKNOWN)
    mesh, pictures = box_cuboid(sides), []
    # whole, at most angles: a reader's own crop is of cars
    crop = CropSpec(round(345 * math.hypot(height, length / 2)), round(345 * math.hypot(width, length)), 300.0)
    for record in records:
        image, camera = canonical_crop(record.image, record, crop)
        angles = [math.degrees(angle) for angle in record.viewpoint]
        drawn = overlay(image, camera, mesh, [(torch.tensor(record.viewpoint), TRUTH)], WIDTH)
        told = "azimuth {:.0f}  elevation {:.0f}  theta {:.0f}".format(*angles)
        pictures.append(captioned(drawn, [told, record.key]))
    title = f"{len(records)} labels of {data.name} by azimuth: the tinted side, with the arrow, should be the front"
    file = file.expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(pictures, title).save(file)
    except (OSError, ValueError) as error:
        raise DataError(f"--sheet {file} cannot be written ({error}); give a file such as labels.jpg.") from error
    return f"  {len(records)} labelled pictures with their cuboids in {file}: is the tinted side their front?"
