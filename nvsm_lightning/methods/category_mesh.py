"""The mesh that stands for a category: its cuboid, a file, or several files, one a subtype."""

from dataclasses import dataclass
from pathlib import Path

from nvsm_lightning.geometry.cad import read_cad
from nvsm_lightning.geometry.meshes import Mesh, category_cuboid


@dataclass
class MeshSpec:
    """Which mesh stands for the category.

    Attributes:
        file: OFF or OBJ file in CAD units, or a folder of them, one a subtype, as ``nvsm prepare mesh`` writes it (the
            file's number is the subtype); empty = the category's cuboid.
        vertices: about how many vertices the cuboid has.
    """

    file: str = ""
    vertices: int = 1000


def category_mesh(spec: MeshSpec, category: str) -> Mesh:
    """The mesh that a spec asks for; of several subtypes the first."""
    return next(iter(category_meshes(spec, category).values()))


def category_meshes(spec: MeshSpec, category: str) -> dict[int, Mesh]:
    """The meshes that a spec asks for, by subtype (``cad_index``, from 1)."""
    return read_cad(Path(spec.file)) if spec.file else {1: category_cuboid(category, spec.vertices)}
