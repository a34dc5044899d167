"""Occluded-PASCAL3D+'s protocol: occluders pasted until given shares of object and context are hidden.

``FGL`` 1, 2, 3: 20-40, 40-60, 60-80 % of the object; ``BGL`` 1, 2, 3: 0-20, 20-40, 40-60 % of the context. NeMo's L1,
L2 and L3 are FGL1_BGL1, FGL2_BGL2 and FGL3_BGL3. The release does not say what its context is; here it is the object's
box enlarged by a quarter on every side, without the object.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from nvsm_lightning.data.occluders import CutOut
from nvsm_lightning.errors import ConfigError, DataError

OBJECT_SHARE = {1: (0.2, 0.4), 2: (0.4, 0.6), 3: (0.6, 0.8)}
CONTEXT_SHARE = {1: (0.0, 0.2), 2: (0.2, 0.4), 3: (0.4, 0.6)}
CONTEXT_MARGIN = 0.25  # of the box, on every side
TRIALS = 40  # placements tried from a clean picture, as in the release
RESTARTS = 25  # clean pictures tried; the release has none and loses up to 8 % of its pictures
SIZES = (0.3, 1.0)  # long side of an occluder over that of the object's box
LARGEST_SCALE = 1.5  # more would blur a cut-out
LEAST = 0.01  # an occluder that hides less of both object and context is not worth a place
TOLERANCE = 0.05  # around the hidden share drawn for a picture, uniform in the level's range
HALF = 0.5  # a pixel is hidden when the occluders there are more opaque
INSIDE = 0.5  # of an occluder must lie in the picture


@dataclass(frozen=True)
class Level:
    """How much is hidden: ``foreground`` and ``background`` level, each 1 to 3."""

    foreground: int
    background: int

    @property
    def name(self) -> str:
        """As in the folder names of the release, such as ``FGL1_BGL1``."""
        return f"FGL{self.foreground}_BGL{self.background}"


def parse_level(text: str) -> Level:
    """``L2`` (foreground and background level 2) or one of the nine, such as ``FGL2_BGL1``.

    Raises:
        ConfigError: it is neither.
    """
    found = re.fullmatch(r"(?:L([123])|FGL([123])_BGL([123]))", text.strip().upper())
    if found is None:
        raise ConfigError(f"There is no occlusion level {text!r}. Choose L1, L2, L3 or FGL1_BGL1 ... FGL3_BGL3.")
    both, foreground, background = found.groups()
    return Level(int(both or foreground), int(both or background))


@dataclass(frozen=True)
class Occluded:
    """A picture with occluders pasted in.

    Attributes:
        picture: its colours.
        occluder: where an occluder is.
        boxes: (y0, y1, x0, x1) of each occluder's visible part, in the order of pasting.
        sources: where each was cut from.
        object_share: hidden share of the object region.
        context_share: hidden share of the context.
    """

    picture: UInt8[np.ndarray, "height width 3"]
    occluder: Bool[np.ndarray, "height width"]
    boxes: list[tuple[int, int, int, int]]
    sources: list[str]
    object_share: float
    context_share: float


def context_of(region: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The context of an object region: its box enlarged by :data:`CONTEXT_MARGIN`, without the object."""
    y0, y1, x0, x1 = box_of(region)
    dy, dx = round((y1 - y0) * CONTEXT_MARGIN), round((x1 - x0) * CONTEXT_MARGIN)
    context = np.zeros_like(region)
    context[max(0, y0 - dy) : y1 + dy, max(0, x0 - dx) : x1 + dx] = True
    return context & ~region


def box_of(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """(y0, y1, x0, x1) of a mask, half open. Raises DataError if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise DataError("The object covers no pixel of the picture; correct its camera or box, or unlist the picture.")
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def occlude(
    picture: UInt8[np.ndarray, "height width 3"],
    region: Bool[np.ndarray, "height width"],
    cut_outs: Sequence[CutOut],
    level: Level,
    generator: np.random.Generator,
) -> Occluded | None:
    """Paste occluders at random places and sizes until the shares of ``level`` are met; None if they cannot be.

    The hidden share is drawn first, evenly over the level's range, and met within 0.05. Every trial takes a cut-out,
    mirrors it in half of the cases, scales its long side to 0.3-1 of the object's and puts its centre at a random pixel
    of object and context. A trial that hides too much of either, next to nothing, or lies mostly outside the picture is
    undone. After 40 trials without success all is undone and begun again.

    Raises:
        DataError: the object region is empty.
    """
    for _ in range(RESTARTS):
        result = _attempt(picture, region, cut_outs, level, generator)
        if result is not None:
            return result
    return None


def _attempt(
    picture: np.ndarray, region: np.ndarray, cut_outs: Sequence[CutOut], level: Level, generator: np.random.Generator
) -> Occluded | None:
    around = context_of(region)
    y0, y1, x0, x1 = box_of(region)
    rows, columns = np.nonzero(region | around)
    (low, high), (context_low, context_high) = OBJECT_SHARE[level.foreground], CONTEXT_SHARE[level.background]
    # A share of its own for each picture: stopping at the first one allowed would leave most near the lower bound.
    wanted = generator.uniform(low, high)
    least, most = max(low, wanted - TOLERANCE), min(high, wanted + TOLERANCE)
    canvas, opacity = picture.copy(), np.zeros(region.shape, np.float32)
    boxes: list[tuple[int, int, int, int]] = []
    sources: list[str] = []
    hidden = context_hidden = 0.0
    for _ in range(TRIALS):
        cut = cut_outs[int(generator.integers(len(cut_outs)))]
        rgba = _resized(cut.rgba, generator.uniform(*SIZES) * max(y1 - y0, x1 - x0), bool(generator.integers(2)))
        place = int(generator.integers(len(rows)))
        target, source = _overlap(rgba.shape[:2], (int(rows[place]), int(columns[place])), region.shape)
        part = rgba[source]
        solid = part[..., 3] > 127
        if solid.sum() < INSIDE * (rgba[..., 3] > 127).sum():
            continue
        alpha = part[..., 3].astype(np.float32) / 255
        trial = opacity.copy()
        trial[target] = 1 - (1 - trial[target]) * (1 - alpha)  # soft edges over soft edges add up
        share, context_share = (_share(trial > HALF, mask) for mask in (region, around))
        gain = max(share - hidden, context_share - context_hidden)
        if share > most or context_share > context_high or gain < LEAST:
            continue
        mixed = part[..., :3] * alpha[..., None] + canvas[target] * (1 - alpha[..., None])
        canvas[target] = np.round(mixed).astype(np.uint8)
        top, bottom, left, right = box_of(solid)
        y, x = target[0].start, target[1].start
        boxes.append((y + top, y + bottom, x + left, x + right))
        sources.append(f"{cut.source} {cut.label}")
        opacity, hidden, context_hidden = trial, share, context_share
        if least <= hidden and context_low <= context_hidden:
            return Occluded(canvas, opacity > HALF, boxes, sources, hidden, context_hidden)
    return None


def _share(hidden: np.ndarray, of: np.ndarray) -> float:
    return float((hidden & of).sum() / max(1, of.sum()))


def _resized(rgba: np.ndarray, longest: float, mirrored: bool) -> np.ndarray:
    """The cut-out with this long side (at most :data:`LARGEST_SCALE` times its own)."""
    scale = min(longest / max(rgba.shape[:2]), LARGEST_SCALE)
    size = max(1, round(rgba.shape[1] * scale)), max(1, round(rgba.shape[0] * scale))
    premultiplied = Image.fromarray(rgba, "RGBA").convert("RGBa")  # else colours beside the cut would bleed in
    resized = np.asarray(premultiplied.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0).convert("RGBA"))
    return resized[:, ::-1] if mirrored else resized


def _overlap(
    size: tuple[int, ...], centre: tuple[int, int], frame: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a patch of ``size`` centred at ``centre`` lies in a frame, and which part of the patch that is."""
    target, source = [], []
    for length, middle, limit in zip(size, centre, frame, strict=True):
        start = middle - length // 2
        low, high = max(0, start), min(limit, start + length)
        target.append(slice(low, high))
        source.append(slice(low - start, high - start))
    return (target[0], target[1]), (source[0], source[1])


def write_annotation(
    path: Path, result: Occluded, region: Bool[np.ndarray, "height width"], source: str, kind: str
) -> None:
    """The npz file of a picture: the release's keys (``source occluder_mask mask box occluder_box``), and ours.

    ``mask`` is the object region, ``box`` its (y0, y1, x0, x1, height, width); ``occluder_box`` one such row an
    occluder. Ours: ``occluders`` (what they were cut from), ``object_share``, ``context_share``, ``visible_share`` and
    ``region`` (how the object region was found).
    """
    size = region.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        source=np.array(source),
        occluder_mask=result.occluder,
        mask=region,
        box=np.array((*box_of(region), *size)),
        occluder_box=np.array([(*box, *size) for box in result.boxes]).reshape(-1, 6),
        occluders=np.array(result.sources),
        object_share=np.float64(result.object_share),
        context_share=np.float64(result.context_share),
        visible_share=np.float64(1 - result.object_share),
        region=np.array(kind),
    )


def annotation_of(image: Path) -> Path:
    """The annotation of ``.../images/<set>/<id>.JPEG``: ``.../annotations/<set>/<id>.npz``."""
    return image.parents[2] / "annotations" / image.parent.name / f"{image.stem}.npz"


def read_masks(image: Path) -> tuple[Bool[np.ndarray, "height width"], Bool[np.ndarray, "height width"]] | None:
    """(occluder mask, object mask) of an occluded picture at its own size; None if it has no annotation.

    Raises:
        DataError: the annotation is damaged or lacks a mask.
    """
    path = annotation_of(image)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            occluder, region = (np.asarray(content[name]) for name in ("occluder_mask", "mask"))
    except Exception as reason:  # zipfile, numpy and zlib each have their own
        raise DataError(f"Annotation {path} cannot be read ({reason!r}); unpack or make it again.") from reason
    if occluder.ndim != 2 or occluder.shape != region.shape:
        raise DataError(f"Annotation {path}: masks of shape {occluder.shape} and {region.shape}; make it again.")
    # The object masks of the release come from JPEG files, which ring by a few grey levels; its own tool cuts at 10.
    return occluder > 0, region > (10 if region.dtype == np.uint8 else 0)
