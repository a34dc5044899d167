"""The pose search on the CPU: the compiled loops of :mod:`.descent_kernel` and :mod:`.plan`, spread over pictures.

A picture's result depends on nothing but the picture: not on the batch it came in, nor on the number of threads.
"""

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.pose.descent_kernel import Scene, Schedule, Scratch, descend_batch
from nvsm_lightning.pose.likelihood import Evidence
from nvsm_lightning.pose.plan import Plan, draw_grid, score_grid_batch, sort_by_cell
from nvsm_lightning.pose.score_kernel import AREA, LIKELIHOOD, SLOTS
from nvsm_lightning.render.compiling import in_threads
from nvsm_lightning.render.renderer import FeatureRenderer

KINDS = {"likelihood": LIKELIHOOD, "area": AREA}
PLANS_KEPT = 4
POSES_A_PLAN = 256  # a plan takes about 40 kB a pose
_plans: OrderedDict[tuple, Plan] = OrderedDict()
_spare: dict[tuple, list[tuple[Scratch, list[int]]]] = {}


def refine_fused(
    evidence: Evidence,
    start: Float[Tensor, "batch mode 6"],
    renderer: FeatureRenderer,
    unit: Float[Tensor, "6"],
    steps: int,
    learning_rate: float,
    decay: float,
    objective: str,
) -> tuple[Float[Tensor, "batch mode 6"], Float[Tensor, "batch mode"]]:
    """Best iterate of Adam and its loss; arguments and meaning of :func:`.reference.refine_torch`, float32 inside."""
    scene = _scene(evidence, renderer, objective)
    tables, cells, clutter = _similarities(evidence)
    cameras, starts = _camera_rows(evidence.camera), _array(start, np.float64)
    schedule = Schedule(steps, float(learning_rate), float(decay), _array(unit, np.float64))
    best, best_loss = np.empty_like(starts), np.empty(starts.shape[:2])

    def work(first: int, last: int) -> None:
        """Refine the pictures of one thread."""
        part = slice(first, last)
        own = _borrow(scene, last - first)
        scratch, epoch = own[0], own[1][0] - (last - first)
        descend_batch(
            starts[part], cameras[part], tables[part], cells[part], clutter[part], epoch, scene, scratch, schedule,
            best[part], best_loss[part],
        )  # fmt: skip
        _give_back(scene, own)

    in_threads(work, len(starts))
    return torch.from_numpy(best).to(start), torch.from_numpy(best_loss).to(start)


def grid_losses_fused(
    evidence: Evidence, grid: Float[Tensor, "pose 3"], renderer: FeatureRenderer, objective: str
) -> Float[Tensor, "batch pose"]:
    """Loss of every picture at every pose; meaning of :func:`.solver.grid_losses`.

    Rasterises the grid once for all pictures of a camera (:class:`.plan.Plan`, the last ones are kept).
    """
    scene = _scene(evidence, renderer, objective)
    tables, cells, clutter = _similarities(evidence)
    cameras = _camera_rows(evidence.camera)
    loss = np.empty((len(cameras), len(grid)))
    same = np.flatnonzero((cameras[1:].view(np.uint32) != cameras[:-1].view(np.uint32)).any(1)) + 1
    bounds = [0, *same.tolist(), len(cameras)]  # runs of pictures with one camera
    poses = np.zeros((len(grid), 6))
    poses[:, :3] = _array(grid, np.float64)

    def work(first: int, last: int) -> None:
        """Score the pictures of one thread."""
        value, owner = np.empty(len(scene.points), np.float32), np.empty(len(scene.points), np.int32)
        for low, high in pairwise(bounds):
            part = slice(max(low, first), min(high, last))
            if part.start >= part.stop:
                continue
            for pose in range(0, len(poses), POSES_A_PLAN):
                plan = _plan(poses[pose : pose + POSES_A_PLAN], cameras[low], scene)
                found = np.empty((part.stop - part.start, len(plan.area)))
                score_grid_batch(
                    plan, tables[part], cells[part], clutter[part], scene.features, scene.objective, value, owner,
                    found,
                )  # fmt: skip
                loss[part, pose : pose + POSES_A_PLAN] = found

    if len(cameras):
        in_threads(work, len(cameras))
    return torch.from_numpy(loss).to(evidence.clutter)


def _plan(poses: np.ndarray, camera: np.ndarray, scene: Scene) -> Plan:
    """The plan of a camera, kept from the last time or made."""
    mesh = (scene.points.tobytes(), scene.faces.tobytes(), scene.height, scene.width, scene.cull)
    name = (camera.tobytes(), poses.tobytes(), *mesh)
    if (kept := _plans.get(name)) is not None:
        return kept
    cells = scene.height * scene.width
    corners = np.empty((len(poses), len(scene.points), 4), np.float32)
    seen, area = np.empty((len(poses), cells), np.int32), np.empty(len(poses), np.int64)
    own = _borrow(scene, 0)
    total = draw_grid(poses, camera, scene, own[0], corners, seen, area)
    _give_back(scene, own)
    plan = Plan(
        np.empty(cells + 1, np.int64), np.empty(total, np.int32), np.empty((total, 3), np.int32),
        np.empty((total, 3), np.float32), area,
    )  # fmt: skip
    sort_by_cell(corners, seen, scene, plan.first, plan.pose, plan.vertex, plan.weight)
    _plans[name] = plan
    while len(_plans) > PLANS_KEPT:
        _plans.popitem(last=False)
    return plan


def _scene(evidence: Evidence, renderer: FeatureRenderer, objective: str) -> Scene:
    """What the pictures share. Vertex features only where similarities are computed from them."""
    features = np.empty((0, 0), np.float32)
    if evidence.cells is not None and evidence.features is not None:
        features = _array(evidence.features, np.float32)
    points, faces = _array(renderer.vertices, np.float32), _array(renderer.faces, np.uint32)
    return Scene(points, faces, features, *renderer.size, renderer.hides_its_back, KINDS[objective])


def _similarities(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tables, cells, clutter) of the pictures; of the first two the one that is not needed is empty."""
    none, clutter = np.empty((0, 0, 0), np.float32), _array(evidence.clutter, np.float32)
    if evidence.cells is None:
        return _array(evidence.table, np.float32), none, clutter
    return none, _array(evidence.cells, np.float32), clutter


def _camera_rows(camera: Camera) -> np.ndarray:
    """Cameras as rows: see :mod:`.projection_kernel`."""
    distance, focal, principal, box, _ = camera.tensors()
    return _array(torch.cat((distance[:, None], focal[:, None], principal, box), 1), np.float32)


def _array(values: Tensor, kind: type) -> np.ndarray:
    return np.ascontiguousarray(values.detach().numpy(), kind)


def _borrow(scene: Scene, pictures: int) -> tuple[Scratch, list[int]]:
    """Buffers that no other thread uses, and the first epoch after those of ``pictures`` pictures."""
    spare = _spare.setdefault(_shape(scene), [])
    try:
        scratch, epoch = spare.pop()
    except IndexError:
        scratch, epoch = _scratch(scene), [1]
    epoch[0] += pictures
    return scratch, epoch


def _give_back(scene: Scene, own: tuple[Scratch, list[int]]) -> None:
    _spare[_shape(scene)].append(own)


def _shape(scene: Scene) -> tuple[int, int, int, int]:
    return len(scene.points), len(scene.faces), scene.height * scene.width, min(1, len(scene.features))


def _scratch(scene: Scene) -> Scratch:
    vertices, faces, cells, computed = _shape(scene)
    single = np.float32
    return Scratch(
        rotation=np.empty((3, 3), single), slope=np.empty((3, 3, 3), single), corner=np.empty((vertices, 4), single),
        bounds=np.empty((faces, 4), np.int32), listed=np.empty(faces + 1, np.int32), key=np.empty(cells, np.int64),
        cell=np.empty(cells + 1, np.int32), face=np.empty(cells + 1, np.int32),
        similarity=np.empty((cells, 3), single), gradient=np.empty((vertices, 3), single),
        memo=np.empty((cells * computed, SLOTS), single), tag=np.zeros((cells * computed, SLOTS), np.int64),
    )  # fmt: skip
