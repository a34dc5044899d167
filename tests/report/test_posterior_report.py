"""The posterior in reports: section, table, columns and rose."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from nvsm_lightning.report.overlays import PREDICTED
from nvsm_lightning.report.posterior import (
    posterior_columns,
    posterior_section,
    posterior_table,
    rose,
    with_rose,
)
from nvsm_lightning.report.rows import PictureRows

INFO = {
    "space": "circle", "log_volume": math.log(2 * math.pi), "temperature": 0.02, "n_images": 30,
    "concentration": 50.0, "floored_concentration": 90.0, "floored_share": 0.05,
}  # fmt: skip
TRUTH = torch.tensor([[1.0, 0.1, 0.0], [2.0, 0.1, 0.0], [math.nan] * 3])
FOUND = TRUTH.nan_to_num(0.5) + torch.tensor([[0.05, 0, 0], [math.pi, 0, 0], [0, 0, 0]])


def posterior(count: int = 3) -> dict[str, torch.Tensor]:
    known = torch.tensor([0.0, 0.0, math.nan])[:count]
    mode = torch.stack((FOUND, FOUND + 2.0, torch.full_like(FOUND, math.nan)), 1)[:count]
    return {
        "entropy": torch.zeros(count) - 1, "flip_mass": torch.tensor([0.1, 0.6, 0.0])[:count], "mode": mode,
        "mode_mass": torch.tensor([[0.8, 0.1, 0.0], [0.4, 0.3, 0.0], [0.9, 0.1, 0.0]])[:count],
        "log_density": known + 1.5, "log_density_uncalibrated": known - 1.8, "level": known + 0.3,
        "azimuth_density": torch.rand(count, 120),
    }  # fmt: skip


def rows():
    collected = PictureRows()
    index = torch.tensor([0, 1, 2])
    parts = posterior()
    for batch in ([1], [0, 2, 1]):  # in no order, one twice
        chosen = {name: value[batch] for name, value in parts.items()}
        collected.add({"index": index[batch], "viewpoint": FOUND[batch], "truth": TRUTH[batch], "posterior": chosen})
    return collected.gathered()


def test_rows_keep_the_distribution_of_each_picture_once():
    found = rows().posterior
    for name, expected in posterior().items():
        if name != "azimuth_density":
            assert torch.equal(found[name].nan_to_num(-9), expected.nan_to_num(-9)), name


def test_the_section_holds_the_posterior_beside_what_it_has_to_beat():
    labelled = torch.tensor([[0.9, 0.1, 0.0], [1.1, 0.1, 0.0], [1.9, 0.1, 0.0]], dtype=torch.double)
    section = posterior_section(INFO, rows(), torch.full((3,), 9.0), labelled)
    assert section["nll"] == pytest.approx(-1.5)
    assert section["nll_uncalibrated"] == pytest.approx(1.8)
    assert section["n_images"] == 2
    assert section["calibrated"] and section["calibrated_on"] == 30
    assert section["nll_point_floored"] < section["nll_point"]  # one picture is flipped
    assert section["nll_prior_only"] < section["nll_uniform"]
    bare = posterior_section(INFO | {"n_images": 0, "concentration": None}, rows(), torch.zeros(3), labelled[:0])
    assert bare["nll_point"] is None and bare["nll_prior_only"] is None and not bare["calibrated"]
    assert posterior_section({}, PictureRows().gathered(), torch.zeros(0), labelled) == {}


@pytest.mark.parametrize(("pictures", "words"), [(30, "fitted on 30 validation"), (0, "NOT calibrated")])
def test_the_table_says_how_the_temperature_was_found(pictures, words):
    section = posterior_section(INFO | {"n_images": pictures}, rows(), torch.zeros(3), torch.zeros(0, 3))
    text = io.StringIO()
    Console(file=text, width=130).print(posterior_table(section))
    assert words in text.getvalue()
    assert "von Mises + uniform share" in text.getvalue()
    assert "prior only" not in text.getvalue()  # without labels there is none


def test_columns_have_angles_in_degrees():
    names, lines = posterior_columns(posterior())
    line = dict(zip(names, lines[1], strict=True))
    assert line["flip_mass"] == pytest.approx(0.6)
    assert line["mode_mass"] == pytest.approx(0.4)
    assert line["mode_2_azimuth_deg"] == pytest.approx(math.degrees(4 + math.pi), rel=1e-5)
    assert math.isnan(line["mode_3_azimuth_deg"])
    assert posterior_columns({}) == ([], [])


def test_the_rose_points_where_the_camera_is():
    """Front below, the object's own left on the right."""
    for azimuth, (x, y) in ((0.0, (0, 1)), (math.pi / 2, (1, 0)), (math.pi, (0, -1))):
        density = torch.zeros(120)
        density[round(azimuth / math.tau * 120)] = 1.0
        picture = np.asarray(rose(density, [(azimuth, PREDICTED)], 200)).astype(int)
        orange = np.argwhere(np.abs(picture - PREDICTED).sum(-1) < 40)
        middle = orange.mean(0) - 100
        assert np.allclose(middle / np.linalg.norm(middle), (y, x), atol=0.1)


def test_a_picture_keeps_its_pixels_beside_the_rose():
    picture = Image.new("RGB", (120, 60), (10, 20, 30))
    both = with_rose(picture, posterior(), 0, [1.0, math.nan])
    assert both.height >= 150 and both.width > picture.width + 100
    assert both.getpixel((5, both.height // 2)) == (10, 20, 30)
