"""One picture: an object with clutter, shadow, light and occluders in front of a backdrop, seen by a camera, then photographed.

Only the object's own pose, camera and box are labelled. Frames and angles as in :mod:`nvsm_lightning.geometry.viewpoints`.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.fragments import covered
from nvsm_lightning.toy.backdrop import random_backdrop
from nvsm_lightning.toy.materials import Lights, Look, random_lights, random_look, shade
from nvsm_lightning.toy.objects import FAMILIES
from nvsm_lightning.toy.shapes import Shape

FOCAL = 3000.0  # PASCAL3D+: focal 1 times a viewport of 3000 pixels


@dataclass(frozen=True)
class Realism:
    """The realism factors and how strong they are. Shares are chances per picture; pairs are uniform ranges.

    Attributes:
        width: of a picture, pixels; varied by ``size_jitter``. height: likewise.
        distance: of the camera, CAD units (a car is about 0.87 long: 330 px at 8, 130 px at 20).
        azimuth_uniform: share of pictures with a uniform azimuth; the others crowd around the front quarters, side and rear quarters.
        elevation_high: share of pictures from 15 to 35 degrees instead of about 7.
        theta_deg: standard deviation of the in-plane turn, cut at 8 degrees.
        clutter: number of background objects. occluded: share of pictures with something in front. cover: how much it may hide.
        truncated: share of pictures whose object leaves the frame a little. box_jitter: of the annotated box, share of its size.
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


@dataclass(frozen=True)
class Item:
    """An object placed in the camera frame: ``scale * rotation @ vertex + translation``."""

    shape: Shape
    look: Look
    rotation: Float[np.ndarray, "3 3"]
    scale: float
    translation: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class Sample:
    """A picture with its label.

    Attributes:
        image: RGB. viewpoint: azimuth, elevation, theta in radians. distance: CAD units. principal: pixels (the focal length is FOCAL).
        box: (x1, y1, x2, y2) around the visible object, jittered. mask: its visible pixels. visible: share of it not hidden or cut off.
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


def draw(
    items: list[Item],
    lights: Lights,
    principal: tuple[float, float],
    size: tuple[int, int],
    supersample: int,
    shadow: float = 0.0,
) -> tuple[Float[np.ndarray, "height width 3"], Float[np.ndarray, "height width"], Bool[np.ndarray, "height2 width2"]]:
    """Render items: premultiplied linear colour, coverage (shadows on the ground included), and the first item's supersampled mask.

    Args:
        items: placed objects. lights: in the camera frame. principal: pixels. size: (height, width).
        supersample: samples a pixel and axis. shadow: darkness of the soft blob under every item, 0 for none.
    """
    height, width = size[0] * supersample, size[1] * supersample
    vertices, faces, counts = [], [], [0]
    for item in items:
        ground = np.float32(_blob(item.shape))
        points = np.concatenate((item.shape.vertices, ground)) @ (item.scale * item.rotation).T + item.translation
        quad = np.array([(0, 1, 2), (0, 2, 3)]) + len(item.shape.vertices)
        offset = sum(len(v) for v in vertices)
        faces.append(np.concatenate((item.shape.faces, quad)) + offset if shadow else item.shape.faces + offset)
        vertices.append(points)
        counts.append(counts[-1] + len(faces[-1]))
    camera = np.concatenate(vertices).astype(np.float32)
    plane = camera[:, :2] / camera[:, 2:] * FOCAL + np.float32(principal)
    uvz = torch.from_numpy(np.c_[plane * supersample, camera[:, 2]].astype(np.float32))[None]
    triangles = torch.from_numpy(np.concatenate(faces))
    face_id = rasterize(uvz, triangles, (height, width))
    cells = (face_id >= 0).nonzero(as_tuple=True)
    vertex, weight = (t.numpy() for t in covered(uvz, triangles, face_id, cells))
    face = face_id[cells].numpy()
    seen = np.einsum("nk,nkc->nc", weight, camera[vertex])
    view = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    first, layer = np.zeros((height, width), bool), np.zeros((height, width, 4), np.float32)
    colour, alpha = layer[..., :3], layer[..., 3]
    row, column = cells[1].numpy(), cells[2].numpy()
    for k, item in enumerate(items):
        own = np.flatnonzero((face >= counts[k]) & (face < counts[k + 1]))
        local = face[own] - counts[k]
        on_object = local < len(item.shape.faces)
        points = (seen[own] - np.float32(item.translation)) @ np.float32(item.rotation / item.scale)
        solid, blob = own[on_object], own[~on_object]
        offset = sum(len(v) for v in vertices[:k])
        normal = np.einsum("nk,nkc->nc", weight[solid], item.shape.normals()[vertex[solid] - offset])
        parts = item.shape.part[local[on_object]]
        colour[row[solid], column[solid]] = shade(
            item.shape, item.look, lights, parts, points[on_object], normal @ np.float32(item.rotation.T), view[solid]
        )
        alpha[row[solid], column[solid]] = 1
        half = np.abs(item.shape.vertices[:, :2]).max(0)
        reach = ((points[~on_object][:, :2] / half) ** 4).sum(1) ** 0.25  # 1 on the footprint's edge
        alpha[row[blob], column[blob]] = shadow * np.clip((1.5 - reach) / 0.7, 0, 1) ** 1.5
        if k == 0:
            first[row[solid], column[solid]] = True
    layer = _averaged(layer, supersample)
    return layer[..., :3], layer[..., 3], first


def _averaged(
    fine: Float[np.ndarray, "height2 width2 *channel"], step: int
) -> Float[np.ndarray, "height width *channel"]:
    """Mean over blocks of ``step`` by ``step`` (strided sums: ten times as fast as a reshaped mean over two axes)."""
    return sum(fine[i::step, j::step] for i in range(step) for j in range(step)) * np.float32(1 / step**2)


def _blob(shape: Shape) -> Float[np.ndarray, "4 3"]:
    """Corners of the ground quad that carries the shadow."""
    (x, y), z = np.abs(shape.vertices[:, :2]).max(0) * 1.5, shape.vertices[:, 2].min() + 1e-3
    return np.array([(-x, -y, z), (x, -y, z), (x, y, z), (-x, y, z)])


def _place(
    rng: np.random.Generator,
    shape: Shape,
    at: tuple[float, float],
    length_px: float,
    depth: float,
    tilt: tuple[float, float],
    principal,
) -> Item:
    """An item with a random azimuth whose centre shows at pixel ``at`` and whose diagonal is about ``length_px`` pixels."""
    rotation = rotation_matrix((rng.uniform(0, 2 * math.pi), *tilt))
    x, y = (np.asarray(at) - principal) / FOCAL * depth
    return Item(shape, random_look(rng), rotation, length_px * depth / FOCAL, np.array((x, y, depth)))


def _clutter(rng, realism: Realism, viewpoint, distance: float, principal, size, ground, car) -> list[Item]:
    """Background objects standing on the ground between the rows ``ground``; ``car`` makes more of the labelled kind."""
    items = []
    for _ in range(rng.integers(realism.clutter[0], realism.clutter[1] + 1)):
        make = car if car is not None and rng.random() < 0.4 else FAMILIES[str(rng.choice(list(FAMILIES)))]
        near = rng.random()
        length = FOCAL / distance * (0.25 + 0.5 * near) * rng.uniform(0.7, 1.3)
        foot = ground[0] + near * (ground[1] - ground[0])
        at = (rng.uniform(-0.1, 1.1) * size[1], foot - 0.22 * length)
        items.append(_place(rng, make(rng), at, length, distance * (1.5 - 0.3 * near), viewpoint[1:], principal))
    return items


def make_sample(
    rng: np.random.Generator,
    make: Callable[[np.random.Generator], Shape],
    realism: Realism = Realism(),
    clutter_car: bool = True,
) -> Sample:
    """A random picture of a random object.

    Args:
        rng: the only source of randomness: the same state gives the same picture.
        make: the labelled object's shape. realism: strengths of all nuisances.
        clutter_car: whether other objects made by ``make`` may stand in the background.
    """
    shape, look = make(rng), random_look(rng)
    viewpoint = random_viewpoint(rng, realism)
    rotation, distance = rotation_matrix(viewpoint), float(np.exp(rng.uniform(*np.log(realism.distance))))
    size = tuple(
        int(edge * rng.uniform(1 - realism.size_jitter, 1 + realism.size_jitter))
        for edge in (realism.height, realism.width)
    )
    truncated = bool(rng.random() < realism.truncated)
    principal = _principal(rng, shape, rotation, distance, size, truncated)
    lights = random_lights(rng, rotation)
    item = Item(shape, look, rotation, 1.0, np.array((0, 0, distance)))
    box, cut = _projected_box(shape, rotation, distance, principal, size)
    horizon = min(rng.uniform(0.1, 0.55) * size[0], box[1] + rng.uniform(0.1, 0.6) * (box[3] - box[1]))
    picture = random_backdrop(rng, *size, horizon)
    ground = (horizon, max(box[3] - 0.1 * (box[3] - box[1]), horizon + 1))
    behind = _clutter(rng, realism, viewpoint, distance, principal, size, ground, make if clutter_car else None)
    if behind:
        colour, alpha, _ = draw(behind, lights, principal, size, 1, shadow=0.5)
        picture = colour + (1 - alpha[..., None]) * picture
    blur = rng.uniform(0, 1.5)
    picture = ndimage.gaussian_filter(picture, (blur, blur, 0))
    colour, alpha, mask = draw([item], lights, principal, size, realism.supersample, shadow=rng.uniform(0.4, 0.95))
    picture = colour + (1 - alpha[..., None]) * picture
    total, occluded = mask.sum(), False
    if rng.random() < realism.occluded:
        picture, mask, occluded = _occlude(rng, realism, picture, mask, lights, principal, size, distance)
    step = realism.supersample
    small = _averaged(mask.astype(np.float32), step) > 0.5
    image = photograph(rng, picture)
    box = _jittered_box(rng, small, realism.box_jitter, size)
    share = 1 - cut
    return Sample(
        image, viewpoint, distance, principal, box, small, float(mask.sum() / max(total, 1) * share), cut > 0.01, occluded, shape,
        _keypoints(shape, rotation, distance, principal, mask, step),
    )  # fmt: skip


def _projected(points, rotation, distance: float, principal) -> Float[np.ndarray, "point 2"]:
    camera = np.asarray(points) @ rotation.T + (0, 0, distance)
    return camera[:, :2] / camera[:, 2:] * FOCAL + principal


def _projected_box(shape: Shape, rotation, distance: float, principal, size) -> tuple[np.ndarray, float]:
    """The object's full box in pixels, and the share of the box's area that is outside the picture."""
    uv = _projected(shape.vertices, rotation, distance, principal)
    box = np.concatenate((uv.min(0), uv.max(0)))
    inside = np.clip(box, 0, (size[1], size[0]) * 2)
    return box, 1 - float(np.prod(inside[2:] - inside[:2]) / np.prod(box[2:] - box[:2]))


def _principal(rng, shape: Shape, rotation, distance: float, size, truncated: bool) -> tuple[float, float]:
    """Where the object's centre goes: near the middle and all in frame, or cut off by 8 to 22 % on one side."""
    centre = np.array((size[1], size[0])) / 2 + rng.normal(0, 0.05, 2) * (size[1], size[0])
    box, _ = _projected_box(shape, rotation, distance, centre, size)
    low, high = 4 - box[:2], np.array((size[1] - 4, size[0] - 4)) - box[2:]
    shift = np.where(low < high, np.clip(0, low, high), (low + high) / 2)
    if truncated:
        axis, side = int(rng.random() < 0.25), rng.choice((0, 2))
        overhang = rng.uniform(0.08, 0.22) * (box[axis + 2] - box[axis])
        shift[axis] = (-overhang - box[axis]) if side == 0 else size[1 - axis] + overhang - box[axis + 2]
    return tuple(float(c) for c in centre + shift)


def _occlude(rng, realism: Realism, picture, mask, lights, principal, size, distance: float):
    """Put something in front that hides a share of the object within ``realism.cover``; gives up after four tries."""
    step, rows, columns = realism.supersample, *np.nonzero(mask)
    if len(rows) == 0:
        return picture, mask, False
    for _ in range(4):
        length = np.sqrt(mask.sum()) / step * rng.uniform(0.4, 1.0)
        foot = (
            max(rows.max() / step, 0) + rng.uniform(-0.1, 0.25) * length
        )  # it stands in front, so lower in the picture
        at = (columns[rng.integers(len(columns))] / step + rng.normal(0, 0.2) * length, foot - 0.3 * length)
        shape = FAMILIES[str(rng.choice(list(FAMILIES)))](rng)
        item = _place(rng, shape, at, length, distance * 0.6, (rng.uniform(0, 0.4), rng.normal(0, 0.1)), principal)
        colour, alpha, front = draw([item], lights, principal, size, step)
        hidden = (mask & front).sum() / mask.sum()
        if realism.cover[0] < hidden < realism.cover[1]:
            return colour + (1 - alpha[..., None]) * picture, mask & ~front, True
    return picture, mask, False


def _jittered_box(rng, mask, jitter: float, size) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), float)
    box += rng.uniform(-jitter, jitter, 4) * np.tile(box[2:] - box[:2], 2)
    return tuple(float(c) for c in np.clip(box, 0, (size[1], size[0]) * 2))


def _keypoints(
    shape: Shape, rotation, distance: float, principal, mask, step: int
) -> dict[str, tuple[float, float, bool]]:
    """Named points in pixels; seen = inside the visible mask and on the side of the object that faces the camera."""
    if not shape.keypoints:
        return {}
    points = np.array(list(shape.keypoints.values()))
    uv = _projected(points, rotation, distance, principal)
    found = {}
    for name, point, (u, v) in zip(shape.keypoints, points, uv, strict=True):
        row, column = int(v * step), int(u * step)
        inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and bool(mask[row, column])
        found[name] = (float(u), float(v), inside and float((rotation @ point)[2]) < 0.05)
    return found


def photograph(
    rng: np.random.Generator, linear: Float[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Exposure, colour cast, contrast, blur, noise and JPEG."""
    gain = np.exp(rng.normal(0.1, 0.3)) * (1 + rng.normal(0, 0.06, 3))
    picture = np.clip(linear * gain.astype(np.float32), 0, None)
    picture /= 1 + picture * np.float32(rng.uniform(0.0, 0.35))  # soft shoulder
    sigma = abs(rng.normal(0, 0.6))
    picture = ndimage.gaussian_filter(picture, (sigma, sigma, 0))
    picture = np.clip(picture, 0, 1) ** np.float32(1 / rng.uniform(1.9, 2.5))
    picture += np.float32(rng.uniform(0.0, 0.03)) * rng.standard_normal(picture.shape, np.float32)
    grey = picture @ np.full((3, 1), 1 / 3, np.float32)
    picture = np.clip(grey + (picture - grey) * np.float32(rng.uniform(0.6, 1.2)), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(buffer, "JPEG", quality=int(rng.integers(60, 96)))
    return np.asarray(Image.open(buffer))
