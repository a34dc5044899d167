import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvsm_lightning.data.record import Record, check_box_inside, check_record, viewpoints
from nvsm_lightning.errors import DataError

GOOD = Record(Path("a.jpg"), "a", "car", "train", (1.0, 0.2, 0.0), 5.0, 3000.0, (10.0, 20.0), (1.0, 2.0, 30.0, 40.0))


def test_good_record_passes() -> None:
    check_record(GOOD, "here")
    check_record(replace(GOOD, focal_px=None, principal=None), "here")  # a distance alone is an assumption
    check_box_inside(GOOD, (30, 40), "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"viewpoint": (math.nan, 0.0, 0.0)}, "angle is not a number"),
        ({"viewpoint": (0.0, 1.7, 0.0)}, "outside -90..90"),
        ({"focal_px": None}, "give all of them or none"),
        ({"distance": None}, "give all of them or none"),
        ({"distance": 0.0}, "distance 0.0 is not positive"),
        ({"focal_px": -1.0}, "focal length -1.0 is not positive"),
        ({"principal": (math.inf, 0.0)}, "not a number"),
        ({"box": (30.0, 2.0, 1.0, 40.0)}, "no area"),
    ],
)
def test_bad_labels_are_fatal_and_located(change, message) -> None:
    with pytest.raises(DataError, match=f"labels.csv:7: .*{message}"):
        check_record(replace(GOOD, **change), "labels.csv:7")


@pytest.mark.parametrize("box", [(-5.0, 0.0, 10.0, 10.0), (0.0, 0.0, 35.0, 10.0), (0.0, 0.0, 10.0, 45.0)])
def test_box_outside_the_picture(box) -> None:
    with pytest.raises(DataError, match=r"lies outside the picture a.jpg of 30 x 40"):
        check_box_inside(replace(GOOD, box=box), (30, 40), "here")


def test_viewpoints_are_nan_where_unknown() -> None:
    result = viewpoints([GOOD, replace(GOOD, viewpoint=None)])
    assert result.shape == (2, 3) and result[1].isnan().all()
    torch.testing.assert_close(result[0], torch.tensor([1.0, 0.2, 0.0]))
    assert viewpoints([]).shape == (0, 3)
