"""Pasting occluders until the level is met, and the files that keep what was pasted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nvsm_lightning.data.crops import CropSpec, canonical_crop, canonical_mask
from nvsm_lightning.data.occlude import (
    CONTEXT_SHARE,
    OBJECT_SHARE,
    Level,
    annotation_of,
    box_of,
    context_of,
    occlude,
    parse_level,
    read_masks,
    write_annotation,
)
from nvsm_lightning.data.occluders import CutOut
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError, DataError

GREY = np.full((120, 200, 3), 128, np.uint8)


def disc(size: int) -> CutOut:
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    alpha = np.where(rows**2 + columns**2 <= size**2 / 4, 255, 0)
    return CutOut(np.dstack((np.zeros((size, size, 3), int), alpha)).astype(np.uint8), "disc", f"disc{size}")


DISCS = [disc(90), disc(140)]


def region() -> np.ndarray:
    mask = np.zeros((120, 200), bool)
    mask[30:90, 40:160] = True
    return mask


@pytest.mark.parametrize("foreground", [1, 2, 3])
@pytest.mark.parametrize("background", [1, 2, 3])
def test_the_shares_of_the_level_are_met_and_measured(foreground, background):
    level = Level(foreground, background)
    shares = []
    for seed in range(4):
        result = occlude(GREY, region(), DISCS, level, np.random.default_rng(seed))
        assert result is not None
        hidden = (result.occluder & region()).sum() / region().sum()
        assert result.object_share == pytest.approx(hidden)
        low, high = OBJECT_SHARE[foreground]
        assert low <= hidden <= high
        low, high = CONTEXT_SHARE[background]
        assert low <= (result.occluder & context_of(region())).sum() / context_of(region()).sum() <= high
        assert (result.picture[result.occluder] < 128).all()  # black discs ...
        assert (result.picture[~result.occluder] > 60).all()  # ... with soft edges, and nothing else
        union = np.zeros_like(region())
        for y0, y1, x0, x1 in result.boxes:
            union[y0:y1, x0:x1] = True
        assert not (result.occluder & ~union).any() and len(result.boxes) == len(result.sources)
        shares.append(hidden)
    assert len(set(shares)) > 1


def test_hidden_shares_spread_over_the_whole_range():
    """Stopping at the first allowed share would leave them near its lower end."""
    shares = [
        occlude(GREY, region(), DISCS, Level(2, 2), np.random.default_rng(seed)).object_share for seed in range(40)
    ]
    assert 0.46 < np.mean(shares) < 0.54 and min(shares) < 0.45 and max(shares) > 0.55


def test_the_same_seed_gives_the_same_picture():
    first, second, other = (occlude(GREY, region(), DISCS, Level(1, 1), np.random.default_rng(s)) for s in (5, 5, 6))
    assert (first.picture == second.picture).all() and first.boxes == second.boxes
    assert not (first.picture == other.picture).all()


def test_a_level_that_cannot_be_met_is_told_apart():
    """No context is left beside an object that fills the picture, and a far too large cut-out never fits."""
    whole = np.ones((120, 200), bool)
    assert occlude(GREY, whole, DISCS, Level(1, 2), np.random.default_rng(0)) is None
    with pytest.raises(DataError, match="no pixel"):
        occlude(GREY, ~whole, DISCS, Level(1, 1), np.random.default_rng(0))


def test_context_is_a_frame_of_a_quarter_of_the_box():
    context = context_of(region())
    assert box_of(context) == (15, 105, 10, 190)
    assert context.sum() == 90 * 180 - 60 * 120


@pytest.mark.parametrize(("text", "level"), [("L2", (2, 2)), ("l3", (3, 3)), ("FGL1_BGL3", (1, 3))])
def test_levels_have_names(text, level):
    assert parse_level(text) == Level(*level)
    assert parse_level(parse_level(text).name) == Level(*level)


@pytest.mark.parametrize("text", ["L0", "L4", "2", "FGL1", ""])
def test_other_levels_are_refused(text):
    with pytest.raises(ConfigError, match="L1, L2, L3"):
        parse_level(text)


def test_annotations_have_the_layout_of_the_release_and_are_read_back(tmp_path):
    result = occlude(GREY, region(), DISCS, Level(1, 1), np.random.default_rng(0))
    image = tmp_path / "images" / "carFGL1_BGL1" / "n01.JPEG"
    assert read_masks(image) is None
    write_annotation(annotation_of(image), result, region(), "n01.jpg", "cad")
    with np.load(tmp_path / "annotations" / "carFGL1_BGL1" / "n01.npz", allow_pickle=False) as content:
        assert {"source", "occluder_mask", "mask", "box", "occluder_box"} <= set(content)
        assert content["box"].tolist() == [30, 90, 40, 160, 120, 200]
        assert content["occluder_box"].shape == (len(result.boxes), 6)
        assert float(content["visible_share"]) == pytest.approx(1 - result.object_share)
    occluder, mask = read_masks(image)
    assert (occluder == result.occluder).all() and (mask == region()).all()
    annotation_of(image).write_bytes(b"PK\x03\x04cut")
    with pytest.raises(DataError, match=r"n01\.npz"):
        read_masks(image)


def test_a_mask_is_cropped_as_its_picture(tmp_path):
    """A picture that is white where the mask is set looks the same as the mask; outside the picture both are empty."""
    file = tmp_path / "a.png"
    Image.fromarray(region().astype(np.uint8) * 255).convert("RGB").save(file)
    record = Record(image=file, key="a", category="car", part="test", box=(40.0, 30.0, 160.0, 90.0))
    spec = CropSpec(height=160, width=384)
    for each in (record, replace(record, box=(100.0, 60.0, 199.0, 119.0))):
        crop, camera = canonical_crop(file, each, spec)
        mask = canonical_mask(region(), each, spec)
        shown = camera.shows((160, 384))[0]
        assert mask.any() and not (mask & ~shown).any()
        assert mask[shown].equal(crop[0][shown] > 127)
        assert torch.is_tensor(mask)
