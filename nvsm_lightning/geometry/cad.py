"""The CAD models of a category: PASCAL3D+'s ``CAD/<category>.mat``, a folder of ``NN.off``, or one OFF or OBJ file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.meshes import Mesh, read_mesh


def read_cad(path: Path) -> dict[int, Mesh]:
    """The models by ``cad_index``, which counts from 1 as the annotations do.

    Args:
        path: ``<category>.mat``, whose empty entries are skipped; a folder of ``01.off``, ``02.off`` ... (the number is
            the index; other names are numbered in their order); or one OFF or OBJ file, which is model 1.

    Raises:
        DataError: nothing is there, it cannot be read, or it holds no model.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in (".off", ".obj"))
        numbered = all(file.stem.isdecimal() for file in files)
        models = {int(file.stem) if numbered else place: read_mesh(file) for place, file in enumerate(files, 1)}
    elif path.suffix.lower() == ".mat":
        models = _read_mat(path)
    else:
        models = {1: read_mesh(path)}
    if not models:
        raise DataError(f"{path} holds no CAD model. Give <category>.mat of PASCAL3D+, an OFF or OBJ file or a folder.")
    return models


def _read_mat(path: Path) -> dict[int, Mesh]:
    if not path.is_file():
        raise DataError(f"There is no CAD file {path}. Give CAD/<category>.mat of PASCAL3D+ release 1.1.")
    try:
        content = loadmat(path, simplify_cells=True)
    except Exception as reason:  # scipy raises a dozen types on damaged files
        raise DataError(f"The CAD file {path} cannot be read ({reason!r}). Unpack it again.") from reason
    names = [name for name in content if not name.startswith("__")]
    if len(names) != 1:
        raise DataError(f"The CAD file {path} holds {names or 'nothing'}; it should hold one list of models.")
    entries = content[names[0]]
    entries = [entries] if isinstance(entries, dict) else list(np.atleast_1d(entries))
    models = {}
    for index, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not {"vertices", "faces"} <= entry.keys():
            raise DataError(f"Model {index} of {path} has no vertices and faces. Unpack it again.")
        if np.size(entry["vertices"]) and np.size(entry["faces"]):
            models[index] = _mesh(entry["vertices"], entry["faces"], f"Model {index} of {path}")
    return models


def _mesh(vertices: Any, faces: Any, what: str) -> Mesh:
    """A mesh from MATLAB's arrays, whose faces count from 1."""
    try:
        points = np.asarray(vertices, np.float64).reshape(-1, 3)
        triangles = np.asarray(faces, np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as reason:
        raise DataError(f"{what} has vertices or faces that are not rows of three ({reason}).") from reason
    inside = np.isfinite(triangles).all() and triangles.min() >= 1 and triangles.max() <= len(points)
    if not inside or not np.isfinite(points).all():
        raise DataError(f"{what} has a face or vertex that makes no sense. Unpack it again.")
    return Mesh(torch.from_numpy(points).float(), torch.from_numpy(triangles.astype(np.int64) - 1))
