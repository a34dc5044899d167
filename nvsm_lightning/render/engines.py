"""Choice of the rasterising engine: resolved at the first use, the outcome (also a failure) remembered."""

import importlib
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from nvsm_lightning.errors import EngineError

_REMEDY = {
    "torch": "",
    "numba": "Install it with `pip install numba`, or choose the engine `torch`.",
    "nvdiffrast": "Install it with `pip install --no-build-isolation git+https://github.com/NVlabs/nvdiffrast.git` "
    "(needs the CUDA compiler of your torch; non-commercial licence), or choose `torch`, which runs on CUDA too.",
    "triton": "It comes with torch on Linux (`pip install triton`); or choose `torch`, which runs on CUDA too.",
}
ENGINES = tuple(_REMEDY)


@cache
def _load(engine: str) -> Callable | EngineError:
    """The engine's function, or why there is none."""
    try:
        module = importlib.import_module(f"nvsm_lightning.render.raster_{engine}")
    except Exception as reason:  # an import of native code may fail with anything
        return EngineError(f"The renderer engine {engine!r} cannot be used here ({reason!r}). {_REMEDY[engine]}")
    return getattr(module, f"rasterize_{engine}")


def available(engine: str) -> bool:
    """Whether an engine can be loaded here (the device is not asked)."""
    return not isinstance(_load(engine), EngineError)


def choose_engine(engine: str, device: torch.device) -> str:
    """The engine that will draw tensors on ``device``.

    ``auto``: on CUDA nvdiffrast if it is installed, on the CPU numba if it is installed, plain torch everywhere else.

    Raises:
        EngineError: an unknown name, or an engine that cannot draw on this device.
    """
    if engine == "auto":
        fast = {"cpu": "numba", "cuda": "nvdiffrast"}.get(device.type, "torch")
        return fast if available(fast) else "torch"
    if engine not in ENGINES:
        raise EngineError(f"There is no renderer engine {engine!r}. Choose one of: auto, {', '.join(ENGINES)}.")
    needs = {"numba": "cpu", "nvdiffrast": "cuda", "triton": "cuda"}.get(engine, device.type)
    if needs != device.type:
        raise EngineError(
            f"The renderer engine {engine!r} draws on {needs} only; these tensors are on {device}. Choose `auto`."
        )
    return engine


def rasterize(
    uvz: Float[Tensor, "batch vertex 3"],
    faces: Int[Tensor, "face 3"],
    size: tuple[int, int],
    engine: str = "auto",
    cull: bool = False,
) -> Int32[Tensor, "batch {size[0]} {size[1]}"]:
    """The face seen in every cell of a map, -1 where none is.

    **Convention**: (u, v) in map pixels with cell (i, j) centred at (j + 0.5, i + 0.5), v downwards; depth along the
    optical axis. Both sides of a face are drawn, the nearest depth wins, at equal depth the lowest face id. A face with
    a vertex at depth <= 0 is dropped.

    Args:
        uvz: projected vertices (u, v, depth); any float type, drawn in float32. No gradient passes.
        faces: vertex indices of the triangles.
        size: (height, width) of the map in cells.
        engine: ``auto``, ``torch``, ``numba``, ``nvdiffrast`` or ``triton`` (not yet run on a GPU).
        cull: faces seen from behind need not be drawn, as the mesh is closed with outward winding
            (:func:`.culling.hides_its_back`): the same picture, faster on engines that make use of it.

    Raises:
        EngineError: the engine is unknown, not installed, or cannot draw on the tensors' device.
    """
    function = _load(choose_engine(engine, uvz.device))
    if isinstance(function, EngineError):
        raise EngineError(*function.args)  # a fresh one: the kept one would gather tracebacks
    if uvz.shape[0] == 0 or faces.shape[0] == 0:
        return torch.full((uvz.shape[0], *size), -1, dtype=torch.int32, device=uvz.device)
    return function(uvz.detach().float(), faces.to(uvz.device), size, cull)
