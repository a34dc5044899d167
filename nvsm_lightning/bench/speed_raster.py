"""How fast each engine draws: face ids and rendered feature maps, beside Embree and the plain-torch reference."""

import importlib.util
import math
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from nvsm_lightning.bench.speed_pictures import CHANNELS, PIXELS_PER_UNIT, SIZE, VERTICES, smooth_features
from nvsm_lightning.bench.speed_rows import Row
from nvsm_lightning.bench.speed_timing import Times, in_turns, threads_used
from nvsm_lightning.geometry.cameras import canonical_camera, project
from nvsm_lightning.geometry.meshes import Mesh, category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.engines import available, rasterize
from nvsm_lightning.render.renderer import FeatureRenderer

POSES, CHECKED = 144, 8
TORCH_POSES = 16  # plain torch takes milliseconds a pose
ENGINES = {"numba": (1, 16, POSES), "torch": (1, TORCH_POSES)}


def measure(budget_s: float) -> list[Row]:
    """Rows of the rasterisers; about ``budget_s`` seconds of CPU time."""
    mesh, viewpoint, uvz = views()
    faces = mesh.faces
    actions: dict[str, Callable[[], object]] = {}
    for engine, batches in ENGINES.items():
        for batch in batches if available(engine) else ():
            parts = uvz.split(batch)[: max(1, TORCH_POSES // batch)] if batch < POSES else [uvz]
            for cull in (False, True):
                name = f"rasterise, {engine}{' without hidden sides' if cull else ''}, batch {batch}"
                actions[name] = _draw(parts, faces, engine, cull)
    if importlib.util.find_spec("embreex"):
        actions[EMBREE] = embree(mesh, viewpoint[:TORCH_POSES])
    times = in_turns(actions, 0.6 * budget_s)
    what = f"{len(mesh.vertices)} vertices, {len(faces)} faces, {SIZE[0]}x{SIZE[1]} map, ids only, {threads_used()}"
    rows = [] if EMBREE in times else [Row(EMBREE, what, math.nan, "poses/s", note="embreex is not installed")]
    rows += [_rate(name, what, each, _poses(name), times.get(EMBREE)) for name, each in times.items()]
    if not importlib.util.find_spec("pytorch3d"):
        rows.append(Row("rasterise, PyTorch3D", what, math.nan, "poses/s", note="not installed"))
    return [*rows, *_agreement(mesh, uvz), *_maps(mesh, uvz, 0.4 * budget_s)]


EMBREE = "rasterise, Embree (trimesh)"


def views(poses: int = POSES) -> tuple[Mesh, Float[Tensor, "pose 3"], Float[Tensor, "pose vertex 3"]]:
    """The car's cuboid at random poses from around, and its projected vertices."""
    mesh = category_cuboid("car", VERTICES)
    low, span = torch.tensor([0.0, -0.1, -0.2]), torch.tensor([2 * math.pi, 0.7, 0.4])
    viewpoint = low + span * torch.rand(poses, 3, generator=torch.Generator().manual_seed(0))
    camera = canonical_camera(*SIZE, PIXELS_PER_UNIT).expanded(poses)
    return mesh, viewpoint, project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera)


def _draw(parts: list[Tensor] | tuple[Tensor, ...], faces: Tensor, engine: str, cull: bool) -> Callable[[], object]:
    return lambda: [rasterize(part, faces, SIZE, engine, cull) for part in parts]


def _poses(name: str) -> int:
    return POSES if name.endswith(f"batch {POSES}") else TORCH_POSES


def _rate(name: str, what: str, times: Times, poses: int, against: Times | None) -> Row:
    ratio = against.median / TORCH_POSES / (times.median / poses) if against and name != EMBREE else None
    baseline = EMBREE if ratio else ""
    spread = (poses / times.high, poses / times.low)
    return Row(name, f"{what}, {poses} poses", poses / times.median, "poses/s", baseline, ratio, spread)


def embree(mesh: Mesh, viewpoint: Float[Tensor, "pose 3"]) -> Callable[[], list[np.ndarray]]:
    """The same pictures by ray casting: face ids of every pose; rays and search tree are made beforehand."""
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    body = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    caster = RayMeshIntersector(body)
    camera = canonical_camera(*SIZE, PIXELS_PER_UNIT)
    v, u = torch.meshgrid(*(torch.arange(count) + 0.5 for count in SIZE), indexing="ij")
    plane = (torch.stack((u, v), -1) - camera.principal[0]) / camera.focal
    ray = torch.cat((plane, torch.ones(*SIZE, 1)), -1).view(-1, 3)
    rays = []
    for rotation in rotation_from_viewpoint(viewpoint):
        origin = (-camera.distance * rotation[2]).expand_as(ray)
        rays.append((origin.numpy().copy(), (ray @ rotation).numpy()))
    caster.intersects_first(*rays[0])
    return lambda: [caster.intersects_first(*each) for each in rays]


def brute_force(uvz: Float[Tensor, "vertex 3"], faces: Int[Tensor, "face 3"]) -> Int[Tensor, "h w"]:
    """Face ids of one pose in float64, every face at every cell, from inverted matrices of its corners."""
    v, u = torch.meshgrid(*(torch.arange(count).double() + 0.5 for count in SIZE), indexing="ij")
    centre = torch.stack((u.ravel(), v.ravel(), torch.ones(u.numel()).double()))
    corners = uvz.double()[faces]
    homogeneous = torch.cat((corners[..., :2], torch.ones(len(faces), 3, 1)), -1).mT
    usable = torch.linalg.det(homogeneous).abs() > 1e-12
    nearest = torch.full((centre.shape[1],), torch.inf).double()
    face_id = torch.full((centre.shape[1],), -1)
    for part in usable.nonzero()[:, 0].split(64):
        weight = torch.linalg.inv(homogeneous[part]) @ centre  # [face, 3, cell]
        depth = 1 / (weight / corners[part, :, 2, None]).sum(1)
        first = depth.masked_fill((weight < 0).any(1), torch.inf).min(0)
        closer = first.values < nearest
        nearest, face_id = torch.where(closer, first.values, nearest), torch.where(closer, part[first.indices], face_id)
    return face_id.view(SIZE)


def _agreement(mesh: Mesh, uvz: Tensor) -> list[Row]:
    """Share of cells, of those that either covers, in which an engine sees the face of the float64 brute force."""
    exact = torch.stack([brute_force(each, mesh.faces) for each in uvz[:CHECKED]])
    rows = []
    for engine in ENGINES:
        for cull in (False, True) if available(engine) else ():
            found = rasterize(uvz[:CHECKED], mesh.faces, SIZE, engine, cull)
            either = (found >= 0) | (exact >= 0)
            share = 100 * (found == exact)[either].double().mean().item()
            name = f"face ids equal to brute force, {engine}{' without hidden sides' if cull else ''}"
            rows.append(Row(name, f"{CHECKED} poses, {int(either.sum())} covered cells, float64", share, "%"))
    return rows


def _maps(mesh: Mesh, uvz: Tensor, budget_s: float) -> list[Row]:
    """Rendered feature maps."""
    features = smooth_features(mesh.vertices, CHANNELS, torch.Generator().manual_seed(0))
    actions = {}
    for engine in (name for name in ENGINES if available(name)):
        renderer = FeatureRenderer(mesh, SIZE, engine)
        actions[f"render {CHANNELS} channels, {engine}, batch 8"] = lambda renderer=renderer: renderer.render(
            features, uvz[:8]
        )
    what = f"{SIZE[0]}x{SIZE[1]} map of {CHANNELS} channels, 8 poses, {threads_used()}"
    return [
        Row(name, what, 8 / each.median, "poses/s", spread=(8 / each.high, 8 / each.low))
        for name, each in in_turns(actions, budget_s).items()
    ]
