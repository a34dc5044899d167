"""NeMo's three kinds of mesh for a category: a cuboid for all models, one a model, or decimated models."""

from collections.abc import Iterable

import numpy as np
import torch
import trimesh

from nvsm_lightning.geometry.meshes import Mesh, cuboid, shortest_interval

FINER = 2.0  # triangles are divided until their edges are so many times shorter than a cell


def enclosing_cuboid(models: Iterable[Mesh], target_vertices: int = 1000) -> Mesh:
    """The cuboid of NeMo around one model (MultiCuboid) or several taken together (SingleCuboid).

    Its sides are the shortest intervals that hold 99 % of the vertices. It is centred at the origin, where the boxes of
    all models are centred, and not at the intervals' middles: only so it keeps the left-right symmetry.
    """
    points = torch.cat([mesh.vertices for mesh in models]).double().numpy()
    x, y, z = ((high - low) / 2 for low, high in (shortest_interval(points[:, axis]) for axis in range(3)))
    return cuboid((-x, -y, -z), (x, y, z), target_vertices)


def divided(mesh: Mesh, edge: float) -> Mesh:
    """The same surface with every edge at most ``edge`` CAD units long."""
    vertices, faces = trimesh.remesh.subdivide_to_size(mesh.vertices.double().numpy(), mesh.faces.numpy(), edge, 20)
    return Mesh(torch.from_numpy(np.ascontiguousarray(vertices)).float(), torch.from_numpy(faces.astype(np.int64)))


def clustered(mesh: Mesh, cell: float) -> Mesh:
    """Vertex clustering: one vertex, the mean, for all in the same cube of ``cell`` CAD units.

    Faces that lose a corner go, and so does the second of two with the same corners. The cubes lie symmetrically about
    the planes x = 0, y = 0 and z = 0. Edges of ``mesh`` should be shorter than a cell, else large faces leave the cubes
    between their corners empty. Source: Rossignac and Borrel, 1993.
    """
    points = mesh.vertices.double().numpy()
    index = np.sign(points) * np.floor(np.abs(points) / cell + 0.5)  # halves go outwards on both sides
    _, cluster = np.unique(index.astype(np.int64), axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = np.bincount(cluster)
    means = np.stack([np.bincount(cluster, points[:, axis]) / count for axis in range(3)], -1)
    faces = cluster[mesh.faces.numpy()]
    whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[whole]
    _, first = np.unique(np.sort(faces, 1), axis=0, return_index=True)
    return with_faces(Mesh(torch.from_numpy(means).float(), torch.from_numpy(faces[np.sort(first)])))


def with_faces(mesh: Mesh, keep: torch.Tensor | None = None) -> Mesh:
    """The mesh with the faces ``keep`` (a mask; default all) and without vertices that no face uses."""
    faces = mesh.faces if keep is None else mesh.faces[keep]
    used, place = faces.unique(return_inverse=True)
    return Mesh(mesh.vertices[used], place.view(-1, 3))
