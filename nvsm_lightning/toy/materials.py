"""Looks of parts, procedural textures in object space, lights, and the shading of surface points.

Colours are linear RGB. Nothing here knows where the front is: colours of lamps, stripes, stains and stickers are drawn
independently of a part's place, so that texture and colour betray no pose.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from nvsm_lightning.toy.shapes import PART, PARTS, Region, Shape

# Common car paints (linear): white, silver, grey, black, red, blue, green, beige, yellow; and how often they occur.
_PAINTS = np.array([
    (0.75, 0.75, 0.73), (0.45, 0.46, 0.47), (0.16, 0.17, 0.18), (0.02, 0.02, 0.022), (0.38, 0.02, 0.02),
    (0.03, 0.07, 0.28), (0.02, 0.13, 0.06), (0.5, 0.4, 0.26), (0.65, 0.42, 0.03),
])  # fmt: skip
_PAINT_SHARE = np.array([0.16, 0.17, 0.13, 0.14, 0.13, 0.11, 0.06, 0.06, 0.04])


@dataclass(frozen=True)
class Look:
    """Materials per part id, textures and stickers of one object.

    Attributes:
        albedo: diffuse colour.
        specular: strength of highlights. gloss: their exponent. mirror: share of the surroundings reflected head-on.
        stain: strength and frequency of the noise in the paint.
        stripe: direction times frequency (0: none), mixing ``paint`` with ``second``.
        two_tone: height below which paint becomes ``second`` (-inf: nowhere).
        stickers: regions on top of the shape's own.
        seed: offset into the noise.
    """

    albedo: Float[np.ndarray, "part 3"]
    specular: Float[np.ndarray, " part"]
    gloss: Float[np.ndarray, " part"]
    mirror: Float[np.ndarray, " part"]
    stain: tuple[float, float]
    stripe: Float[np.ndarray, " 3"]
    two_tone: float
    stickers: tuple[Region, ...]
    seed: float


@dataclass(frozen=True)
class Lights:
    """Ambient light (sky above, ground below) and directional lights, in the camera frame."""

    up: Float[np.ndarray, " 3"]
    sky: Float[np.ndarray, " 3"]
    ground: Float[np.ndarray, " 3"]
    direction: Float[np.ndarray, "light 3"]  # unit, towards the light
    colour: Float[np.ndarray, "light 3"]


def random_paint(rng: np.random.Generator) -> Float[np.ndarray, " 3"]:
    """A car paint: one of the common colours, varied, or now and then any colour."""
    if rng.random() < 0.15:
        return rng.uniform(0.02, 0.6, 3)
    colour = _PAINTS[rng.choice(len(_PAINTS), p=_PAINT_SHARE / _PAINT_SHARE.sum())]
    return np.clip(colour * rng.uniform(0.6, 1.35) * rng.uniform(0.85, 1.15, 3), 0.01, 0.8)


def random_look(rng: np.random.Generator) -> Look:
    """Materials for any shape. Lamps in front and at the back draw from the same colours."""
    paint, second = random_paint(rng), random_paint(rng)
    if rng.random() < 0.5:
        second = np.full(3, rng.uniform(0.02, 0.2))
    lamps = [(0.6, 0.6, 0.55), (0.5, 0.03, 0.02), (0.55, 0.25, 0.03), (0.25, 0.25, 0.26)]

    def lamp():
        """The colour of a lamp."""
        return np.asarray(lamps[rng.choice(4)]) * rng.uniform(0.7, 1.3)

    plate = ((0.7, 0.7, 0.68), (0.65, 0.55, 0.1), (0.1, 0.12, 0.2))
    grey = {"glass": (0.003, 0.03), "tyre": (0.01, 0.04), "rim": (0.08, 0.5), "dark": (0.006, 0.025)}
    grey |= {"chrome": (0.2, 0.5), "trim": (0.02, 0.12)}
    colours = {name: np.full(3, rng.uniform(*bounds)) for name, bounds in grey.items()}
    colours |= {"paint": paint, "second": second, "lamp_front": lamp(), "lamp_back": lamp()}
    colours |= {"plate": np.asarray(plate[rng.choice(3)]), "decal_a": random_paint(rng), "decal_b": random_paint(rng)}
    shine = rng.uniform(0.15, 1.0)
    lamp_like = {"lamp_front": 0.7, "lamp_back": 0.7, "chrome": 0.9, "rim": 0.6, "glass": 0.9}
    specular = {"paint": 0.5 * shine, "second": 0.4 * shine, **lamp_like}
    mirror = {"paint": 0.1 * shine, "second": 0.08 * shine, "glass": rng.uniform(0.01, 0.09), "chrome": 0.35}
    mirror |= {"lamp_front": 0.12, "lamp_back": 0.12, "rim": 0.12}
    gloss = {"glass": 250.0, "paint": float(rng.choice((20, 60, 120)))}

    def table(values, default):
        """A value for every part."""
        return np.array([values.get(name, default) for name in PARTS], np.float32)

    axis = np.array([(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0, 1, 1), (1, 1, 0)][rng.choice(5)])
    stained, striped, two_tone = rng.random() < 0.6, rng.random() < 0.12, rng.random() < 0.12
    return Look(
        albedo=np.stack([colours[name] for name in PARTS]).astype(np.float32),
        specular=table(specular, 0.05),
        gloss=table(gloss, 30.0),
        mirror=table(mirror, 0.0),
        stain=(stained * rng.uniform(0.0, 0.35), float(np.exp(rng.uniform(1.0, 3.5)))),
        stripe=axis * striped * rng.uniform(6, 25),
        two_tone=rng.uniform(-0.1, 0.08) if two_tone else -np.inf,
        stickers=tuple(_random_sticker(rng) for _ in range(rng.poisson(0.9))),
        seed=rng.uniform(0, 64),
    )


def _random_sticker(rng: np.random.Generator) -> Region:
    """A patch of another colour, anywhere."""
    return Region(
        tuple(rng.uniform((-0.22, -0.45, -0.12), (0.22, 0.45, 0.12))),
        tuple(rng.uniform(0.015, 0.09, 3)),
        str(rng.choice(("decal_a", "decal_b"))),
        float(rng.choice((2.0, 8.0))),
    )


def random_lights(rng: np.random.Generator, rotation: Float[np.ndarray, "3 3"]) -> Lights:
    """Ambient light and one to three lamps above the horizon; ``rotation`` takes the world (z up) to the camera."""
    count = int(rng.choice((1, 2, 3), p=(0.5, 0.3, 0.2)))
    azimuth, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.25, 1.4, count)
    world = np.stack((np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)), -1)
    overcast = 0.25 if rng.random() < 0.3 else 1.0
    power = rng.uniform(0.3, 1.1, count) * np.array([1.0, 0.45, 0.3])[:count] * overcast
    colour = power[:, None] * (1 + rng.uniform(-0.12, 0.12, (count, 1)) * (1, 0, -1))
    sky = rng.uniform(0.45, 0.95) * (1 + rng.uniform(-0.1, 0.15) * np.array((-1, 0, 1)))
    ground = sky * rng.uniform(0.15, 0.5) * rng.uniform(0.8, 1.2, 3)
    return Lights(
        *(value.astype(np.float32) for value in (rotation @ (0, 0, 1.0), sky, ground, world @ rotation.T, colour))
    )


@cache
def noise_lattice() -> Float[np.ndarray, "64 64 64"]:
    """Values of the periodic value noise, in -1..1; the same in every process."""
    return np.random.default_rng(12345).uniform(-1, 1, (64, 64, 64)).astype(np.float32)


def noise(
    points: Float[np.ndarray, "point 3"], frequency: float, offset: float, octaves: int = 2
) -> Float[np.ndarray, " point"]:
    """Fractal value noise at points, about -1..1."""
    total = np.zeros(len(points), np.float32)
    for octave in range(octaves):
        at = points.T * (frequency * 2.1**octave) + offset * (1 + 0.7 * octave)
        total += ndimage.map_coordinates(noise_lattice(), at, order=1, mode="grid-wrap") * 0.55**octave
    return total


def paint_regions(
    part: Int[np.ndarray, " point"], points: Float[np.ndarray, "point 3"], regions: tuple[Region, ...]
) -> Int[np.ndarray, " point"]:
    """Part ids after all regions have been painted, in order."""
    part = part.copy()
    for region in regions:
        near = np.flatnonzero(np.abs(points[:, 1] - region.centre[1]) < region.half[1])
        for axis in (0, 2):
            near = near[np.abs(points[near, axis] - region.centre[axis]) < region.half[axis]]
        on = np.zeros(len(PARTS), bool)
        on[[PART[name] for name in region.on]] = True
        near = near[on[part[near]]]
        offset = np.abs((points[near] - np.array(region.centre, np.float32)) / np.array(region.half, np.float32))
        part[near[(offset**region.power).sum(1) < 1]] = PART[region.part]
    return part


def shade(
    shape: Shape,
    look: Look,
    lights: Lights,
    part: Int[np.ndarray, " point"],
    points: Float[np.ndarray, "point 3"],
    normals: Float[np.ndarray, "point 3"],
    view: Float[np.ndarray, "point 3"],
) -> Float[np.ndarray, "point 3"]:
    """Linear colour of surface points.

    Args:
        shape: its regions are painted here. look: materials and textures. lights: in the camera frame.
        part: part id of the face a point lies on. points: in the object frame.
        normals: in the camera frame, of any length, to either side.
        view: unit vectors from the camera to the points, camera frame.
    """
    part = paint_regions(part, points, shape.regions + look.stickers)
    albedo = look.albedo[part]
    body = (part == PART["paint"]).astype(np.float32)
    if np.isfinite(look.two_tone):
        body *= points[:, 2] > look.two_tone
    if look.stripe.any():
        body *= np.sin(points @ look.stripe.astype(np.float32) * (2 * np.pi) + look.seed) > 0
    if np.isfinite(look.two_tone) or look.stripe.any():
        albedo = np.where(((part == PART["paint"]) & (body == 0))[:, None], look.albedo[PART["second"]], albedo)
    if look.stain[0] > 0:
        albedo = albedo * (1 + look.stain[0] * noise(points, look.stain[1], look.seed))[:, None].clip(0.1)
    normals = normals / np.sqrt(np.maximum((normals * normals).sum(1, keepdims=True), 1e-18))
    facing = (normals * view).sum(1, keepdims=True)
    normals = normals * -np.sign(facing)  # both sides are lit: towards the viewer
    facing = np.abs(facing)
    up = (normals @ lights.up)[:, None]
    open_ = np.clip(0.45 + 5 * (points[:, 2:] - shape.vertices[:, 2].min()), 0, 1)  # little light comes under a car
    colour = albedo * (lights.ground + (lights.sky - lights.ground) * (0.5 + 0.5 * up)) * (np.float32(0.75) * open_)
    reflected = view + 2 * facing * normals
    specular, gloss = look.specular[part][:, None], look.gloss[part]
    for direction, light in zip(lights.direction, lights.colour, strict=True):
        lambert = (normals @ direction).clip(0)[:, None]
        highlight = ((reflected @ direction).clip(0) ** gloss)[:, None]
        colour += light * (albedo * lambert + specular * highlight * (lambert > 0))
    shiny = np.flatnonzero(look.mirror[part] > 0)
    mirror = look.mirror[part[shiny]][:, None]
    mirror = mirror + (1 - mirror) * np.float32(0.5) * (1 - facing[shiny]) ** 5
    colour[shiny] += mirror * (_surroundings(lights, reflected[shiny], look.seed) - colour[shiny])
    return colour


def _surroundings(lights: Lights, direction: Float[np.ndarray, "point 3"], seed: float) -> Float[np.ndarray, "point 3"]:
    """What shiny parts reflect: dark ground, uneven things at the horizon, sky above."""
    tilt = (direction @ lights.up)[:, None]
    tilt = tilt + np.float32(0.25) * noise(direction, 2.5, seed, 2)[:, None]
    sky = 1 / (1 + np.exp(-14 * tilt))
    band = 1 - np.float32(0.6) * np.exp(-((tilt - np.float32(0.1)) ** 2) * 80)
    return (lights.ground * np.float32(0.5) + (lights.sky - lights.ground * np.float32(0.5)) * sky) * band
