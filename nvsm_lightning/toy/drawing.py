"""From placed objects to a photograph: rasterise and shade items, then exposure, blur, noise and JPEG."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage

from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.fragments import covered
from nvsm_lightning.toy.materials import Lights, Look, shade
from nvsm_lightning.toy.shapes import Shape

FOCAL = 3000.0  # pixels; PASCAL3D+: focal 1 times a viewport of 3000
_QUAD = np.array([(0, 1, 2), (0, 2, 3)])


@dataclass(frozen=True)
class Item:
    """An object placed in the camera frame: ``scale * rotation @ vertex + translation``."""

    shape: Shape
    look: Look
    rotation: Float[np.ndarray, "3 3"]
    scale: float
    translation: Float[np.ndarray, " 3"]

    def ground(self) -> Float[np.ndarray, "4 3"]:
        """Corners, in the object's frame, of the ground quad that carries its shadow."""
        (x, y), z = np.abs(self.shape.vertices[:, :2]).max(0) * 1.5, self.shape.vertices[:, 2].min() + 1e-3
        return np.array([(-x, -y, z), (x, -y, z), (x, y, z), (-x, y, z)])


@dataclass(frozen=True)
class Layer:
    """Drawn items.

    Attributes:
        colour: linear, premultiplied by ``cover``. cover: share of a pixel that is drawn, shadows included.
        first: where the first item is seen, at the supersampled resolution.
    """

    colour: Float[np.ndarray, "height width 3"]
    cover: Float[np.ndarray, "height width"]
    first: Bool[np.ndarray, "fine_height fine_width"]

    def over(self, picture: Float[np.ndarray, "height width 3"]) -> Float[np.ndarray, "height width 3"]:
        """This layer in front of a picture."""
        return self.colour + (1 - self.cover[..., None]) * picture


def draw(
    items: list[Item],
    lights: Lights,
    principal: tuple[float, float],
    size: tuple[int, int],
    supersample: int,
    shadow: float = 0.0,
) -> Layer:
    """Render items with hidden surfaces, shading and anti-aliasing; focal length :data:`FOCAL`.

    Args:
        items: placed objects. lights: in the camera frame. principal: pixels. size: (height, width).
        supersample: samples per pixel and axis.
        shadow: darkness of the soft blob on the ground under every item, 0 for none.
    """
    height, width = size[0] * supersample, size[1] * supersample
    camera, faces, first_vertex, first_face = _assemble(items, shadow > 0)
    plane = (camera[:, :2] / camera[:, 2:] * FOCAL + np.array(principal, np.float32)) * supersample
    uvz = torch.from_numpy(np.c_[plane, camera[:, 2]].astype(np.float32))[None]
    triangles = torch.from_numpy(faces)
    face_id = rasterize(uvz, triangles, (height, width))
    picture, rows, columns = (face_id >= 0).nonzero(as_tuple=True)
    cells = picture, rows, columns
    vertex, weight = (found.numpy() for found in covered(uvz, triangles, face_id, cells))
    face, row, column = face_id[cells].numpy(), rows.numpy(), columns.numpy()
    # Only the rows with something in them are worked on, from a whole pixel to a whole pixel.
    low = row.min() // supersample if len(row) else 0
    high = row.max() // supersample + 1 if len(row) else 0
    fine = np.zeros(((high - low) * supersample, width, 4), np.float32)
    row = row - low * supersample
    first = np.zeros((height, width), bool)
    seen = np.einsum("nk,nkc->nc", weight, camera[vertex])
    for k, item in enumerate(items):
        own = np.flatnonzero((face >= first_face[k]) & (face < first_face[k + 1]))
        solid = face[own] - first_face[k] < len(item.shape.faces)
        blob, own = own[~solid], own[solid]
        fine[row[own], column[own], :3] = _item_colour(
            item, lights, face[own] - first_face[k], vertex[own] - first_vertex[k], weight[own], seen[own]
        )
        fine[row[own], column[own], 3] = 1
        fine[row[blob], column[blob], 3] = shadow * _blob(item, seen[blob])
        if k == 0:
            first[row[own] + low * supersample, column[own]] = True
    layer = np.zeros((*size, 4), np.float32)
    layer[low:high] = averaged(fine, supersample)
    return Layer(layer[..., :3], layer[..., 3], first)


def _assemble(items: list[Item], ground: bool) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Camera coordinates and faces of all items in one mesh, and where each item's vertices and faces begin."""
    vertices, faces, first_vertex, first_face = [], [], [0], [0]
    for item in items:
        points, triangles = item.shape.vertices, item.shape.faces
        if ground:
            triangles = np.concatenate((triangles, _QUAD + len(points)))
            points = np.concatenate((points, item.ground()))
        vertices.append(points @ (item.scale * item.rotation).T + item.translation)
        faces.append(triangles + first_vertex[-1])
        first_vertex.append(first_vertex[-1] + len(points))
        first_face.append(first_face[-1] + len(triangles))
    return np.concatenate(vertices).astype(np.float32), np.concatenate(faces), first_vertex, first_face


def _in_object(item: Item, seen: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
    return (seen - np.float32(item.translation)) @ np.float32(item.rotation / item.scale)


def _item_colour(
    item: Item,
    lights: Lights,
    face: Int[np.ndarray, " point"],
    vertex: Int[np.ndarray, "point 3"],
    weight: Float[np.ndarray, "point 3"],
    seen: Float[np.ndarray, "point 3"],
) -> Float[np.ndarray, "point 3"]:
    """Shaded colour of an item's seen points; face and vertex count from the item's own first."""
    view = seen / np.sqrt((seen * seen).sum(1, keepdims=True))
    normal = np.einsum("nk,nkc->nc", weight, item.shape.normals()[vertex]) @ np.float32(item.rotation.T)
    return shade(item.shape, item.look, lights, item.shape.part[face], _in_object(item, seen), normal, view)


def _blob(item: Item, seen: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
    """Share of light a point of the ground quad loses: 1 under the object, fading outside its footprint."""
    half = np.abs(item.shape.vertices[:, :2]).max(0)
    squared = (_in_object(item, seen)[:, :2] / half) ** 2
    reach = np.sqrt(np.sqrt((squared * squared).sum(1)))  # 1 on the footprint's rounded edge
    light = np.clip((1.5 - reach) / 0.7, 0, 1)
    return light * np.sqrt(light)


def averaged(fine: Float[np.ndarray, "fine_height fine_width *channel"], step: int) -> Float[np.ndarray, "..."]:
    """Mean over blocks of ``step`` by ``step`` (strided sums: far faster than a reshaped mean over two axes)."""
    blocks = [fine[i::step, j::step] for i in range(step) for j in range(step)]
    return np.asarray(sum(blocks)) * np.float32(1 / step**2)


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
