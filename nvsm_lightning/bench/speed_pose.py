"""How long the pose of a picture takes after the backbone, and whether the short schedules lose anything."""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.bench.speed_dense import dense_solve, rendered_starts
from nvsm_lightning.bench.speed_pictures import CHANNELS, SIZE, Pictures, make_pictures
from nvsm_lightning.bench.speed_rows import Row
from nvsm_lightning.bench.speed_timing import in_turns, per_item, threads_used
from nvsm_lightning.features.backbone import STRIDE, Backbone, BackboneSpec
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.pose.likelihood import gather_evidence
from nvsm_lightning.pose.solver import SolverSettings, solve
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.render.engines import available
from nvsm_lightning.render.renderer import FeatureRenderer

PICTURES = 128
BATCHES = (1, 8, 32, 128)
THREADED = 32
FIRST_CALLS = 30.0  # seconds of budget from which on they are measured: they compile everything
SPACE = PoseSpace(36, [0.0, 15.0, 30.0], [0.0])  # the default: 108 starts
FEW = PoseSpace(12, [0.0, 25.0], [0.0])  # 24 starts
# The ways a pose is found: (pose space, settings)
WAYS = {
    "default (108 starts, 2 modes, 20 steps)": (SPACE, SolverSettings()),
    "fast (24 starts in a quarter of the cells, 1 mode, 20 steps)": (FEW, SolverSettings(stride=2, modes=1)),
    "paper (144 starts, 300 steps)": (SPACE, SolverSettings(name="paper")),
}
FAST, PAPER = list(WAYS)[1:]
NUDGE = 1e-6  # radians: how far the published loop ends from itself after a change of the last bits of its starts
BACKBONE = f"backbone's forward, one crop of {SIZE[0] * STRIDE}x{SIZE[1] * STRIDE}"
DENSE = "paper schedule on rendered maps (plain torch), batch 1"
WHAT = f"{SIZE[0]}x{SIZE[1]} map of {CHANNELS} channels"


def measure(budget_s: float) -> list[Row]:
    """Rows of the pose search; about ``budget_s`` seconds of CPU time, and one run of the published loop at least."""
    pictures = make_pictures(PICTURES)
    vertices = f"{len(pictures.mesh.vertices)} vertices, {WHAT}, {threads_used()}"
    dense, errors = _dense(pictures, vertices, 0.25 * budget_s)
    return [
        dense,
        *_times(pictures, vertices, dense, 0.4 * budget_s),
        *_threads(pictures, vertices, 0.05 * budget_s),
        *errors,
        *_accuracy(pictures, max(16, min(PICTURES, int(6 * budget_s)))),
        *(_first_calls() if budget_s >= FIRST_CALLS else []),
        *([] if _pytorch3d() else [Row("solve, PyTorch3D", vertices, math.nan, "ms/picture", note="not installed")]),
    ]


def poses(
    pictures: Pictures, way: tuple[PoseSpace, SolverSettings], batch: int, engine: str = "auto", first: int = 0
) -> Float[Tensor, "picture 3"]:
    """Poses of ``batch`` pictures, from their feature maps."""
    renderer = pictures.renderer if engine == "auto" else FeatureRenderer(pictures.mesh, SIZE, engine)
    part = slice(first, first + batch)
    evidence = gather_evidence(pictures.maps[part], pictures.vertex, pictures.clutter, pictures.camera[part])
    return solve(evidence, way[0], renderer, way[1]).viewpoint


def _pytorch3d() -> bool:
    from importlib.util import find_spec

    return find_spec("pytorch3d") is not None


def _dense(pictures: Pictures, what: str, budget_s: float) -> tuple[Row, list[Row]]:
    """The published loop: its time, and how far the compiled one ends from it, picture by picture."""
    starts = rendered_starts(pictures)
    dense: list[Tensor] = []
    turns = cycle(range(PICTURES))
    times = in_turns({DENSE: lambda: dense.append(dense_solve(pictures, next(turns), starts))}, budget_s, 1)[DENSE]
    dense = dense[:PICTURES]
    row = per_item(DENSE, what, times, 1, note="the same rasteriser; starts rendered beforehand and not counted")
    fused = poses(pictures, WAYS[PAPER], len(dense))
    moved = torch.stack([dense_solve(pictures, item, (starts[0] + NUDGE, starts[1])) for item in range(len(dense))])
    rows = []
    for name, other in ((PAPER, fused), (f"itself, starts moved by {NUDGE:g} rad", moved)):
        apart = torch.rad2deg(viewpoint_error(other, torch.stack(dense)))
        what = f"{len(dense)} pictures; {(apart <= 0.1).sum()} of them within 0.1 degrees"
        rows += [
            Row(f"pose difference of the published loop to {name}, {kind}", what, value, "deg")
            for kind, value in (("median", apart.median().item()), ("largest", apart.amax().item()))
        ]
    return row, rows


def _times(pictures: Pictures, what: str, dense: Row, budget_s: float) -> list[Row]:
    actions: dict[str, tuple[Callable[[], object], int]] = {}
    for name, way in WAYS.items():
        for batch in BATCHES if name == FAST else (1,):
            actions[f"solve, {name}, batch {batch}"] = _rotating(pictures, way, batch, "auto"), batch
    for batch in (1, 8):
        actions[f"solve, {FAST}, plain torch, batch {batch}"] = _rotating(pictures, WAYS[FAST], batch, "torch"), batch
    cells = pictures.maps[0].flatten(1).T.contiguous()
    actions["the whole similarity table (not needed by the compiled search)"] = lambda: cells @ pictures.vertex.T, 1
    backbone, crop = Backbone(BackboneSpec("resnet18")).eval(), torch.rand(1, 3, SIZE[0] * STRIDE, SIZE[1] * STRIDE)
    actions[BACKBONE] = torch.no_grad()(lambda: backbone(crop)), 1
    times = in_turns({name: action for name, (action, _) in actions.items()}, budget_s)
    rows = [
        per_item(name, what, times[name], items, against=dense if name.startswith("solve") else None)
        for name, (_, items) in actions.items()
    ]
    share = 100 * times[f"solve, {FAST}, batch 1"].median / times[BACKBONE].median
    return [*rows, Row("solve, fast, batch 1, as a share of the backbone's forward", what, share, "%", note="goal 15")]


def _threads(pictures: Pictures, what: str, budget_s: float) -> list[Row]:
    """Shortest wall time of batches with one and with two threads: a busy machine hides the second one otherwise."""
    calls = _rotating(pictures, WAYS[FAST], THREADED, "auto")
    shortest, start, before = {1: math.inf, 2: math.inf}, time.process_time(), torch.get_num_threads()
    try:
        while time.process_time() - start < budget_s or math.inf in shortest.values():
            for threads in shortest:
                torch.set_num_threads(threads)
                began = time.perf_counter()
                calls()
                shortest[threads] = min(shortest[threads], time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    rows: list[Row] = []
    for threads, seconds in shortest.items():
        name, value = f"solve, fast, batch {THREADED}, wall, {threads} thread(s)", 1000 * seconds / THREADED
        ratio, baseline = (rows[0].value / value, rows[0].name) if rows else (None, "")
        rows.append(Row(name, what, value, "ms/picture", baseline, ratio, note="shortest of all turns"))
    return rows


def _rotating(
    pictures: Pictures, way: tuple[PoseSpace, SolverSettings], batch: int, engine: str
) -> Callable[[], object]:
    """A call that takes the next ``batch`` pictures each time: a repeated pose would be known to the processor."""
    turn = iter(range(0, 10**9, batch))
    return lambda: poses(pictures, way, batch, engine, next(turn) % (PICTURES - batch + 1))


def _accuracy(pictures: Pictures, count: int) -> list[Row]:
    rows = []
    for name, way in WAYS.items():
        error = torch.rad2deg(viewpoint_error(poses(pictures, way, count), pictures.viewpoint[:count]))
        what = f"{count} synthetic pictures with clutter, noise and an occluder; {name}"
        rows.append(Row(f"median error, {name}", what, error.median().item(), "deg"))
        for limit in (5, 10):
            share = 100 * (error < limit).double().mean().item()
            rows.append(Row(f"within {limit} degrees, {name}", what, share, "%"))
    return rows


def _first_calls() -> list[Row]:
    """Seconds of the first solve of a process, with an empty and with a filled cache of compiled code."""
    if not available("numba"):
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for state in ("nothing compiled yet", "compiled before"):
            done = _in_new_process([sys.executable, "-c", _FIRST], {"NUMBA_CACHE_DIR": folder})
            rows.append(Row(f"first solve of a process, {state}", WHAT, float(done), "s", note="CPU time, no imports"))
    return rows


_FIRST = (
    "import time\n"
    "from nvsm_lightning.bench.speed_pictures import make_pictures\n"
    "from nvsm_lightning.bench import speed_pose as s\n"
    "pictures = make_pictures(1, engine='torch')\n"
    "start = time.process_time()\n"
    "s.poses(pictures, s.WAYS[s.FAST], 1, 'numba')\n"
    "print(time.process_time() - start)\n"
)


def _in_new_process(command: Sequence[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]
