"""Triangle meshes as (vertices, faces), NeMo's cuboids, and OFF / OBJ files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from nvsm_lightning.errors import DataError

# Extents (x, y, z) in CAD units of the cuboid around 99 % of the vertices of a category's PASCAL3D+ models, measured with
# :func:`shortest_interval` on the CAD files of release 1.1: facts about the models, so that no CAD file is needed to start.
CATEGORY_EXTENT = {"car": (0.368, 0.875, 0.288)}


@dataclass(frozen=True)
class Mesh:
    """Vertices in CAD units (object frame of :mod:`viewpoints`) and triangles wound counter-clockwise seen from outside."""

    vertices: Float[Tensor, "vertex 3"]
    faces: Int[Tensor, "face 3"]


def cuboid(
    low: tuple[float, float, float], high: tuple[float, float, float], target_vertices: int = 1000
) -> Mesh:
    """NeMo's cuboid: a grid of about ``target_vertices`` on the surface of a box, with shared edge vertices and outward winding.

    Grid edge ``e = sqrt(A / target)`` for surface area A; an axis of length l gets ``max(2, int(l / e + 1))`` samples.
    NeMo lets every side have vertices of its own (``target`` counts those); merging the shared edges removes vertices that
    could never be told apart. Source: NeMo, cuboid preparation; A36 of the design for winding and merging.
    """
    low_, high_ = np.asarray(low, float), np.asarray(high, float)
    length = high_ - low_
    if not (length > 0).all():
        raise DataError(f"A cuboid needs high > low on every axis; got {low} and {high}.")
    area = 2 * (length[0] * length[1] + length[1] * length[2] + length[0] * length[2])
    edge = np.sqrt(area / target_vertices)
    count = np.maximum(2, (length / edge + 1 + 1e-9).astype(int))
    ticks = [np.linspace(low_[axis], high_[axis], count[axis]) for axis in range(3)]
    vertices, faces, offset = [], [], 0
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3  # cyclic order, so that first x second points along +axis
        grid_first, grid_second = np.meshgrid(ticks[first], ticks[second], indexing="ij")
        n, m = grid_first.shape
        index = np.arange(n * m).reshape(n, m)
        a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
        triangles = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
        for side, value in ((-1, low_[axis]), (1, high_[axis])):
            points = np.empty((n * m, 3))
            points[:, axis], points[:, first], points[:, second] = value, grid_first.ravel(), grid_second.ravel()
            vertices.append(points)
            faces.append((triangles if side > 0 else triangles[:, ::-1]) + offset)
            offset += n * m
    points, inverse = np.unique(np.concatenate(vertices).round(9), axis=0, return_inverse=True)
    return Mesh(
        torch.from_numpy(points).float(), torch.from_numpy(inverse.reshape(-1)[np.concatenate(faces)]).long()
    )


def category_cuboid(category: str, target_vertices: int = 1000) -> Mesh:
    """The cuboid of a category, centred at the origin, from :data:`CATEGORY_EXTENT`."""
    if category not in CATEGORY_EXTENT:
        known = ", ".join(sorted(CATEGORY_EXTENT))
        raise DataError(f"No mesh for category {category!r}. Known: {known}. Give a mesh file or extents instead.")
    half = [extent / 2 for extent in CATEGORY_EXTENT[category]]
    return cuboid((-half[0], -half[1], -half[2]), (half[0], half[1], half[2]), target_vertices)
