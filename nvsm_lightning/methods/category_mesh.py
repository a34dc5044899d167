"""The mesh that stands for a category: its cuboid, a file, or several files, one a subtype."""

import math
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cad import read_cad
from nvsm_lightning.geometry.meshes import Mesh, box_cuboid, category_cuboid

CUT = 1.2  # times the crop: some crops of NeMo's are a little small


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
        meshes = read_cad(Path(spec.file))
        for number, mesh in meshes.items():
            diagonal = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm())
            if not 0.5 <= diagonal <= 2:
                rank_zero_warn(
                    f"--model.mesh.file {spec.file}: mesh {number} is {diagonal:.3g} from corner to corner of its box. "
                    f"Distances count in units in which that is about 1: scale it by {1 / diagonal:.3g}."
                )
        return meshes
    if spec.extent is None:
        return {1: category_cuboid(category, spec.vertices)}
    width, length, height = (side / math.hypot(*spec.extent) for side in spec.extent)
    return {1: box_cuboid((width, length, height), spec.vertices)}


def warn_where_cut(mesh: Mesh, height: int, width: int, pixels_per_unit: float) -> None:
    """Say where a crop of ``height`` x ``width`` pixels shows much less than the object, seen level from the front or
    the side."""
    x, y, z = ((mesh.vertices.amax(0) - mesh.vertices.amin(0)) * pixels_per_unit).tolist()
    if z > CUT * height or max(x, y) > CUT * width:
        rank_zero_warn(
            f"Crops of {height} x {width} pixels are too small for the object: at {pixels_per_unit:g} a unit it is "
            f"{z:.0f} high and up to {max(x, y):.0f} wide, and is cut off (with a box as camera it is shrunk). Set "
            "--data.crop.height, --data.crop.width or --data.crop.pixels_per_unit."
        )
