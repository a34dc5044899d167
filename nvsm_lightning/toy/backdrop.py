"""Backgrounds with the objects' own statistics: 1/f noise, buildings, stripes, car-coloured polygons, ground."""

from functools import cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from nvsm_lightning.toy.materials import random_paint

_TILE = 512


@cache
def _noise_tiles() -> Float[np.ndarray, "tile 512 512"]:
    """1/f^a noise, a from 1 to 1.7, periodic, unit variance; the same in every process."""
    rng = np.random.default_rng(54321)
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None])
    frequency[0, 0] = np.inf
    tiles = []
    for exponent in np.linspace(1.0, 1.7, 8):
        tile = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) / frequency**exponent, (_TILE, _TILE))
        tiles.append(tile / tile.std())
    return np.stack(tiles).astype(np.float32)


def noise_field(
    rng: np.random.Generator, height: int, width: int, stretch: float = 1.0
) -> Float[np.ndarray, "{height} {width}"]:
    """A random window of 1/f noise, ``stretch`` > 1 drawn out sideways, mean 0, variance about 1."""
    tile = _noise_tiles()[rng.integers(len(_noise_tiles()))]
    scale = np.exp(rng.uniform(-0.7, 0.5))
    rows = (np.arange(height) * scale + rng.integers(_TILE)).astype(int) % _TILE
    columns = (np.arange(width) * scale / stretch + rng.integers(_TILE)).astype(int) % _TILE
    return tile[rows[:, None], columns[None]]


def _srgb(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in 255 * np.clip(colour, 0, 1) ** (1 / 2.2))
    return red, green, blue


def _buildings(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, horizon: float) -> None:
    """Facades standing on the horizon, with a grid of windows or with stripes."""
    x = -rng.uniform(0, 80)
    while x < width:
        w, h = rng.uniform(40, 200), rng.uniform(0.4, 1.4) * horizon
        x1, y1 = x + w, horizon + 2
        y0 = min(horizon - h, y1)  # a horizon above the frame (seen from on high) turns heights round
        wall = random_paint(rng)
        draw.rectangle((x, y0, x1, y1), fill=_srgb(wall))
        dark = _srgb(wall * rng.uniform(0.1, 0.6) if rng.random() < 0.7 else random_paint(rng))
        step, gap = rng.uniform(10, 45), rng.uniform(0.3, 0.7)
        style = rng.random()
        for u in np.arange(x + 3, x1 - 4, step):
            if style < 0.25:
                draw.rectangle((u, y0, u + step * gap, y1), fill=dark)
            else:
                for v in np.arange(y0 + 4, y1 - 6, step * rng.uniform(0.9, 1.3)):
                    draw.rectangle((u, v, u + step * gap, min(v + step * gap, y1)), fill=dark)
        x = x1 + rng.choice((0.0, rng.uniform(0, 60)))


def _polygons(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int, count: int) -> None:
    """Car-coloured polygons, some long and thin like poles, kerbs and markings."""
    for _ in range(count):
        centre, size = rng.uniform((0, 0), (width, height)), np.exp(rng.uniform(2.0, 4.6))
        angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        squash = rng.uniform(0.08, 1.0)
        points = np.c_[np.cos(angle), np.sin(angle) * squash] * size
        turn = rng.choice((0.0, np.pi / 2, rng.uniform(0, np.pi)))
        points = points @ np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))]) + centre
        draw.polygon([tuple(p) for p in points], fill=_srgb(random_paint(rng)))


def random_backdrop(
    rng: np.random.Generator, height: int, width: int, horizon: float
) -> Float[np.ndarray, "{height} {width} 3"]:
    """A background, linear RGB: sky or wall above the row ``horizon``, ground below, clutter on both, noise on all."""
    upper, ground = random_paint(rng), random_paint(rng)
    if rng.random() < 0.6:  # asphalt, concrete, grass, sand
        ground = np.array(
            [(0.12, 0.12, 0.12), (0.3, 0.29, 0.27), (0.07, 0.13, 0.03), (0.33, 0.26, 0.16)][rng.choice(4)]
        ) * rng.uniform(0.6, 1.4)
    if rng.random() < 0.4:
        upper = np.array((0.45, 0.55, 0.7)) * rng.uniform(0.6, 1.3) * (1 + rng.uniform(-0.15, 0.15, 3))
    picture = Image.new("RGB", (width, height), _srgb(upper))
    draw = ImageDraw.Draw(picture)
    kind = rng.choice(("street", "polygons", "plain"), p=(0.5, 0.3, 0.2))
    if kind == "street":
        _buildings(draw, rng, width, horizon)
    elif kind == "polygons":
        _polygons(draw, rng, width, max(int(horizon) + 20, 1), int(rng.integers(5, 25)))
    draw.rectangle((0, horizon, width, height), fill=_srgb(ground))
    for _ in range(rng.integers(0, 4)):  # kerbs, markings
        v, thick = horizon + rng.uniform(0, 1) ** 2 * (height - horizon), rng.uniform(1, 9)
        slope = rng.normal(0, 12)
        draw.line((0, v - slope, width, v + slope), fill=_srgb(random_paint(rng)), width=int(thick))
    if kind == "polygons":
        _polygons(draw, rng, width, height, int(rng.integers(0, 8)))
    linear = (np.asarray(picture, np.float32) / 255) ** 2.2
    below = (np.arange(height) > horizon)[:, None]
    rough = np.where(
        below,
        noise_field(rng, height, width, rng.uniform(1, 4)) * rng.uniform(0.08, 0.4),
        noise_field(rng, height, width) * rng.uniform(0.05, 0.5),
    )
    linear = linear * np.exp(rough)[..., None]
    if rng.random() < 0.35:  # foliage: noise above a threshold takes its own colour
        leaf = noise_field(rng, height, width) + 2.5 * np.abs(np.arange(height) - horizon)[:, None] / height
        colour = (
            np.array((0.05, 0.1, 0.03))
            * np.exp(noise_field(rng, height, width) * 0.5)[..., None]
            * rng.uniform(0.5, 1.5)
        )
        linear = np.where(((leaf < rng.uniform(-0.3, 0.6)) & ~below)[..., None], colour, linear)
    tint = 1 + rng.uniform(0.01, 0.08) * np.stack([noise_field(rng, height, width) for _ in range(3)], -1)
    shade = 1 + rng.normal(0, 0.25) * np.linspace(-1, 1, width)[None, :, None]
    return np.clip(linear * tint * np.clip(shade, 0.3, 2), 0.002, 1.5).astype(np.float32)
