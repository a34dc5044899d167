"""One picture: an object with clutter, shadow, light and occluders before a backdrop, seen by a camera, photographed.

Only the object's own pose, camera and box are labelled. Frames and angles: :mod:`nvsm_lightning.geometry.viewpoints`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.toy.backdrop import random_backdrop
from nvsm_lightning.toy.drawing import FOCAL, Item, Layer, averaged, draw, photograph
from nvsm_lightning.toy.materials import Lights, Look, random_lights, random_look
from nvsm_lightning.toy.objects import FAMILIES
from nvsm_lightning.toy.shapes import Shape

Maker = Callable[[np.random.Generator], Shape]


@dataclass(frozen=True)
class Realism:
    """The realism factors and how strong they are. Shares are chances per picture; pairs are uniform ranges.

    Attributes:
        width: of a picture, pixels; varied by ``size_jitter``. height: likewise.
        distance: of the camera, CAD units (a car is about 0.87 long: 330 px at 8, 130 px at 20).
        azimuth_uniform: share of pictures with a uniform azimuth; the others crowd around front quarters, sides and
            rear quarters.
        elevation_high: share of pictures from 15 to 35 degrees instead of about 7.
        theta_deg: standard deviation of the in-plane turn, cut at 8 degrees.
        clutter: number of background objects.
        occluded: share of pictures with something in front. cover: share of the object it may hide.
        truncated: share of pictures whose object leaves the frame a little.
        box_jitter: of each side of the annotated box, share of its size.
        supersample: rendering scale before averaging down.
    """

    width: int = 400
    height: int = 280
    size_jitter: float = 0.1
    distance: tuple[float, float] = (8.0, 20.0)
    azimuth_uniform: float = 0.3
    elevation_high: float = 0.2
    theta_deg: float = 2.5
    clutter: tuple[int, int] = (1, 5)
    occluded: float = 0.25
    cover: tuple[float, float] = (0.03, 0.25)
    truncated: float = 0.08
    box_jitter: float = 0.03
    supersample: int = 2


DEFAULT = Realism()


@dataclass(frozen=True)
class Sample:
    """A picture with its label.

    Attributes:
        image: RGB. viewpoint: azimuth, elevation, theta in radians. distance: of the camera, CAD units.
        principal: where the object's centre shows, pixels (the focal length is :data:`FOCAL`).
        box: (x1, y1, x2, y2) around the visible object, jittered. mask: its visible pixels.
        visible: share of the object that is neither hidden nor cut off (the latter measured on its box).
        truncated: part of it lies outside the picture. occluded: something stands in front.
        shape: the object itself (its vertices give the cuboid). keypoints: name -> (u, v, seen).
    """

    image: UInt8[np.ndarray, "height width 3"]
    viewpoint: tuple[float, float, float]
    distance: float
    principal: tuple[float, float]
    box: tuple[float, float, float, float]
    mask: Bool[np.ndarray, "height width"]
    visible: float
    truncated: bool
    occluded: bool
    shape: Shape
    keypoints: dict[str, tuple[float, float, bool]]


def random_viewpoint(rng: np.random.Generator, realism: Realism) -> tuple[float, float, float]:
    """A long-tailed viewpoint in radians: all azimuths occur, front quarters most; elevation mostly 0 to 25 degrees."""
    azimuth = rng.uniform(0, 360)
    if rng.random() > realism.azimuth_uniform:
        side = rng.choice((1, -1))
        azimuth = side * rng.normal(*((35, 18), (90, 12), (145, 18))[rng.choice(3, p=(0.55, 0.15, 0.3))])
    elevation = rng.uniform(15, 35) if rng.random() < realism.elevation_high else np.clip(rng.normal(7, 6), -2, 25)
    theta = np.clip(rng.normal(0, realism.theta_deg), -8, 8)
    return math.radians(azimuth % 360), math.radians(elevation), math.radians(theta)


def rotation_matrix(viewpoint: tuple[float, float, float]) -> Float[np.ndarray, "3 3"]:
    """Object to camera, as numpy."""
    return rotation_from_viewpoint(torch.tensor(viewpoint, dtype=torch.float64)).numpy()


@dataclass(frozen=True)
class _View:
    """Camera, picture and light of one sample."""

    viewpoint: tuple[float, float, float]
    rotation: Float[np.ndarray, "3 3"]
    distance: float
    size: tuple[int, int]
    principal: tuple[float, float]
    lights: Lights

    def project(self, points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 2"]:
        """Pixels of object points."""
        camera = np.asarray(points) @ self.rotation.T + (0, 0, self.distance)
        return camera[:, :2] / camera[:, 2:] * FOCAL + self.principal

    def box(self, shape: Shape) -> Float[np.ndarray, " 4"]:
        """(x1, y1, x2, y2) of the whole object, which may reach beyond the picture."""
        uv = self.project(shape.vertices)
        return np.concatenate((uv.min(0), uv.max(0)))

    def place(self, rng: np.random.Generator, make: Maker, at, length: float, depth: float, tilt) -> Item:
        """A new object of any azimuth whose centre shows at pixel ``at``, its diagonal about ``length`` pixels."""
        shape, rotation = make(rng), rotation_matrix((rng.uniform(0, 2 * math.pi), *tilt))
        x, y = (np.asarray(at) - self.principal) / FOCAL * depth
        return Item(shape, random_look(rng), rotation, length * depth / FOCAL, np.array((x, y, depth)))


def make_sample(rng: np.random.Generator, make: Maker, realism: Realism = DEFAULT, clutter_car: bool = True) -> Sample:
    """A random picture of a random object.

    Args:
        rng: the only source of randomness: the same state gives the same picture.
        make: the labelled object's shape. realism: strengths of all nuisances.
        clutter_car: whether other objects made by ``make`` may stand in the background.
    """
    shape, look = make(rng), random_look(rng)
    view, item = _random_view(rng, shape, look, realism)
    box = view.box(shape)
    inside = np.clip(box, 0, (view.size[1], view.size[0]) * 2)
    kept = float(np.prod(inside[2:] - inside[:2]) / np.prod(box[2:] - box[:2]))
    horizon = min(rng.uniform(0.1, 0.55) * view.size[0], box[1] + rng.uniform(0.1, 0.6) * (box[3] - box[1]))
    picture = random_backdrop(rng, *view.size, horizon)
    ground = (horizon, max(box[3] - 0.1 * (box[3] - box[1]), horizon + 1))
    behind = _clutter(rng, realism, view, ground, make if clutter_car else None)
    if behind:
        picture = draw(behind, view.lights, view.principal, view.size, 1, shadow=0.5).over(picture)
    blur = rng.uniform(0, 1.5)
    picture = ndimage.gaussian_filter(picture, (blur, blur, 0))
    step, shadow = realism.supersample, rng.uniform(0.4, 0.95)
    layer = draw([item], view.lights, view.principal, view.size, step, shadow)
    picture, mask = layer.over(picture), layer.first
    front = _occluder(rng, realism, view, mask) if rng.random() < realism.occluded else None
    visible = kept
    if front is not None:
        picture, mask = front.over(picture), mask & ~front.first
        visible = kept * float(mask.sum() / layer.first.sum())
    small = averaged(mask.astype(np.float32), step) > 0.5
    return Sample(
        image=photograph(rng, picture),
        viewpoint=view.viewpoint,
        distance=view.distance,
        principal=view.principal,
        box=_jittered_box(rng, small, realism.box_jitter),
        mask=small,
        visible=visible,
        truncated=kept < 0.99,
        occluded=front is not None,
        shape=shape,
        keypoints=_keypoints(view, shape, mask, step),
    )


def _random_view(rng: np.random.Generator, shape: Shape, look: Look, realism: Realism) -> tuple[_View, Item]:
    """A camera that sees the object near the middle and all in frame, or cut off by 8 to 22 % on one side."""
    viewpoint = random_viewpoint(rng, realism)
    rotation, distance = rotation_matrix(viewpoint), float(np.exp(rng.uniform(*np.log(realism.distance))))
    jitter = realism.size_jitter
    height, width = (int(edge * rng.uniform(1 - jitter, 1 + jitter)) for edge in (realism.height, realism.width))
    edges = np.array((width, height))
    truncated = rng.random() < realism.truncated
    centre = edges / 2 + rng.normal(0, 0.05, 2) * edges
    view = _View(viewpoint, rotation, distance, (height, width), tuple(centre), random_lights(rng, rotation))
    box = view.box(shape)
    low, high = 4 - box[:2], edges - 4 - box[2:]
    shift = np.where(low < high, np.clip(0, low, high), (low + high) / 2)
    if truncated:
        axis, side = int(rng.random() < 0.25), rng.choice((0, 2))
        overhang = rng.uniform(0.08, 0.22) * (box[axis + 2] - box[axis])
        shift[axis] = (-overhang - box[axis]) if side == 0 else edges[axis] + overhang - box[axis + 2]
    px, py = (float(c) for c in centre + shift)
    return replace(view, principal=(px, py)), Item(shape, look, rotation, 1.0, np.array((0, 0, distance)))


def _clutter(
    rng: np.random.Generator, realism: Realism, view: _View, ground: tuple[float, float], car: Maker | None
) -> list[Item]:
    """Background objects standing on the ground between the rows ``ground``; ``car``: more of the labelled kind."""
    items = []
    for _ in range(rng.integers(realism.clutter[0], realism.clutter[1] + 1)):
        make = car if car is not None and rng.random() < 0.4 else FAMILIES[str(rng.choice(list(FAMILIES)))]
        near = rng.random()
        length = FOCAL / view.distance * (0.25 + 0.5 * near) * rng.uniform(0.7, 1.3)
        at = (rng.uniform(-0.1, 1.1) * view.size[1], ground[0] + near * (ground[1] - ground[0]) - 0.22 * length)
        items.append(view.place(rng, make, at, length, view.distance * (1.5 - 0.3 * near), view.viewpoint[1:]))
    return items


def _occluder(
    rng: np.random.Generator, realism: Realism, view: _View, mask: Bool[np.ndarray, "fine_height fine_width"]
) -> Layer | None:
    """Something in front that hides a share of the object within ``realism.cover``; None after four vain tries."""
    step, (rows, columns) = realism.supersample, np.nonzero(mask)
    for _ in range(4):
        length = np.sqrt(len(rows)) / step * rng.uniform(0.4, 1.0)
        foot = rows.max() / step + rng.uniform(-0.1, 0.25) * length  # it stands in front, so lower in the picture
        at = (columns[rng.integers(len(columns))] / step + rng.normal(0, 0.2) * length, foot - 0.3 * length)
        make, tilt = FAMILIES[str(rng.choice(list(FAMILIES)))], (rng.uniform(0, 0.4), rng.normal(0, 0.1))
        item = view.place(rng, make, at, length, view.distance * 0.6, tilt)
        layer = draw([item], view.lights, view.principal, view.size, step)
        if realism.cover[0] < (mask & layer.first).sum() / len(rows) < realism.cover[1]:
            return layer
    return None


def _jittered_box(
    rng: np.random.Generator, mask: Bool[np.ndarray, "height width"], jitter: float
) -> tuple[float, float, float, float]:
    """The box of a mask, each side moved by up to ``jitter`` of its size, within the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), float)
    box += rng.uniform(-jitter, jitter, 4) * np.tile(box[2:] - box[:2], 2)
    x1, y1, x2, y2 = (float(c) for c in np.clip(box, 0, mask.shape[::-1] * 2))
    return x1, y1, x2, y2


def _keypoints(
    view: _View, shape: Shape, mask: Bool[np.ndarray, "fine_height fine_width"], step: int
) -> dict[str, tuple[float, float, bool]]:
    """Named points in pixels; seen = inside the visible mask and on the half of the object that faces the camera."""
    found = {}
    for name, point in shape.keypoints.items():
        u, v = view.project(np.array([point]))[0]
        row, column = int(v * step), int(u * step)
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])
        found[name] = (float(u), float(v), inside and float(view.rotation[2] @ point) < 0.05)
    return found
