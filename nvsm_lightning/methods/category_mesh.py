"""The mesh that stands for a category: its cuboid, a file, or several files, one a subtype."""

import math
from dataclasses import dataclass
from pathlib import Path

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cad import read_cad
from nvsm_lightning.geometry.meshes import Mesh, box_cuboid, category_cuboid


@dataclass
class MeshSpec:
    """Which mesh stands for the category.

    Attributes:
        file: OFF or OBJ file in CAD units, or a folder of them, one a subtype, as ``nvsm prepare mesh`` writes it (the
            file's number is the subtype); empty = a cuboid.
        vertices: about how many vertices the cuboid has.
        extent: (width, length, height) of the cuboid in any unit, for categories that are not known here or another
            shape; it is scaled to a diagonal of 1. null = the category's.

    Raises:
        ConfigError: a side is no positive number, or there is a file as well.
    """

    file: str = ""
    vertices: int = 1000
    extent: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.extent is None:
            return
        if self.file:
            raise ConfigError("--model.mesh: give a file or an extent, not both.")
        if not all(0 < side < math.inf for side in self.extent):
            raise ConfigError(f"--model.mesh.extent: the three sides must be positive; got {list(self.extent)}.")


def category_mesh(spec: MeshSpec, category: str) -> Mesh:
    """The mesh that a spec asks for; of several subtypes the first."""
    return next(iter(category_meshes(spec, category).values()))


def category_meshes(spec: MeshSpec, category: str) -> dict[int, Mesh]:
    """The meshes that a spec asks for, by subtype (``cad_index``, from 1)."""
    if spec.file:
        return read_cad(Path(spec.file))
    if spec.extent is None:
        return {1: category_cuboid(category, spec.vertices)}
    width, length, height = (side / math.hypot(*spec.extent) for side in spec.extent)
    return {1: box_cuboid((width, length, height), spec.vertices)}
