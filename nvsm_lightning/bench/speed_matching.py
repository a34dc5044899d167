"""How fast many synthesised maps are matched with many pictures: blocked products and short lists."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from nvsm_lightning.bench.speed_pictures import CHANNELS, SIZE, make_pictures
from nvsm_lightning.bench.speed_rows import Row
from nvsm_lightning.bench.speed_timing import Times, in_turns, threads_used
from nvsm_lightning.matching.grid_products import GridProducts, anchor_sources
from nvsm_lightning.matching.matcher import Anchors, anchor_losses
from nvsm_lightning.matching.products import area_queries, map_products
from nvsm_lightning.matching.shortlist import LISTED, SAMPLE, SketchBasis, pooled, shortlist
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.pose.space import PoseSpace

SQUARE = 1024  # rows of the square product that stands for the machine's peak
PICTURES = 384
POSES = (16, 64, 144)
MATCHED = 16  # pictures of the E-step
FEW = 4  # poses and pictures of the broadcast form, which writes every product to memory
POOL, DRAWN, SHIFTS, BEST = 4096, 256, 13, 10
MAP = f"{SIZE[0]}x{SIZE[1]} maps of {CHANNELS} channels, CPU time"
PEAK = "product, bf16, square: the machine's rate"


def measure(budget_s: float) -> list[Row]:
    """Rows of the matching; about ``budget_s`` seconds of CPU time, besides ten to make pictures."""
    return [*_products(0.5 * budget_s), *_two_stages(0.25 * budget_s), *_e_step(0.25 * budget_s)]


def _rate(name: str, what: str, times: Times, numbers: float, peak: Row | None = None) -> Row:
    """A row in GFLOP/s: a multiplication and an addition for each of ``numbers``."""
    value, low, high = (2e-9 * numbers / seconds for seconds in (times.median, times.high, times.low))
    ratio = value / peak.value if peak else None
    return Row(name, what, value, "GFLOP/s", peak.name if peak else "", ratio, (low, high))


def _products(budget_s: float) -> list[Row]:
    """P maps against M pictures in both precisions, the broadcast form, and square products of the same library."""
    generator = torch.Generator().manual_seed(0)
    maps = normalize(torch.randn(PICTURES, CHANNELS, *SIZE, generator=generator), dim=1).flatten(1)
    queries = torch.randn(max(POSES), maps.shape[1], generator=generator) / CHANNELS**0.5
    square = torch.randn(SQUARE, SQUARE, generator=generator)
    kinds = {"bf16": torch.bfloat16, "float32": torch.float32}
    actions: dict[str, Callable[[], object]] = {}
    numbers: dict[str, float] = {}
    for kind, dtype in kinds.items():
        left, right, name = square.to(dtype), maps.to(dtype), PEAK.replace("bf16", kind)
        actions[name], numbers[name] = partial(torch.matmul, left, left.T), float(SQUARE**3)
        for poses in POSES:
            rows, name = queries[:poses].to(dtype), f"match, {kind} blocks, P = {poses}"
            actions[name] = partial(map_products, rows, right)
            numbers[name] = float(poses * maps.numel())
    name = "match, broadcast and sum"
    actions[name] = lambda: (queries[:FEW, None] * maps[None, :FEW]).sum(-1)
    numbers[name] = float(FEW * FEW * maps.shape[1])
    times = in_turns(actions, budget_s)
    threads = threads_used()
    peaks = {kind: _rate(name, f"{SQUARE} rows, {threads}", times[name], numbers[name])
             for kind, name in ((kind, PEAK.replace("bf16", kind)) for kind in kinds)}  # fmt: skip
    rows = list(peaks.values())
    for name in (name for name in actions if name.startswith("match")):
        what = f"{PICTURES if 'P =' in name else FEW} pictures, {MAP}, {threads}"
        rows.append(_rate(name, what, times[name], numbers[name], peaks["float32" if "float32" in name else "bf16"]))
    return rows


def _two_stages(budget_s: float) -> list[Row]:
    """One picture synthesised at shifted azimuths against a pool: all by one product, and a short list first."""
    pictures = make_pictures(DRAWN)
    camera, renderer = pictures.camera[:1], pictures.renderer
    vertex, seen = (part[0] for part in vertex_features(pictures.maps[:1], pictures.viewpoint[:1], camera, renderer))
    shift = torch.zeros(SHIFTS, 3)
    shift[:, 0] = torch.deg2rad(torch.linspace(-60, 60, SHIFTS))
    poses, nothing = pictures.viewpoint[:1] + shift, torch.zeros(CHANNELS)
    drawn = (poses, camera, renderer)
    queries, _ = area_queries(vertex, seen.float(), nothing, *drawn)
    queries, pool = queries.flatten(1), _mixed(pictures.maps)
    basis = SketchBasis.of(torch.cat([pooled(part[::4].float()) for part in pool.split(64)])[:SAMPLE])
    sketches = torch.cat([basis.sketch(pooled(part.float())) for part in pool.split(64)])
    pool, allowed = pool.flatten(1), torch.ones(POOL, dtype=torch.bool)
    whole = pool[:PICTURES].float()

    def listed() -> Tensor:
        """The poses that the sketches list for every map."""
        few, _ = area_queries(vertex @ basis.channels, seen.float(), nothing[: basis.channels.shape[1]], *drawn)
        return shortlist(map_products(basis.sketch_queries(few), sketches), allowed, LISTED)

    def two_stages() -> Tensor:
        """Exact scores of what is listed, pair by pair: poses share few of their lists."""
        return torch.stack([queries[pose] @ pool[one].float() for pose, row in enumerate(listed()) for one in row])

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "match, all, float32": (lambda: map_products(queries, whole), PICTURES),
        "match, all, bf16": (lambda: map_products(queries, pool[:PICTURES]), PICTURES),
        "match, short list and exact": (two_stages, POOL),
        "short list alone": (listed, POOL),
    }
    times = in_turns({name: way for name, (way, _) in ways.items()}, budget_s)
    what = f"{SHIFTS} shifted poses, {POOL} pictures (mixtures of {DRAWN}), {MAP}"
    found: list[Row] = []
    for name, (_, count) in ways.items():
        each = 1e6 / (SHIFTS * count)
        value = times[name].median * each
        ratio = found[0].value / value if found else None
        spread = (times[name].low * each, times[name].high * each)
        found.append(Row(name, what, value, "us/pair", "match, all, float32" if found else "", ratio, spread))
    exact = torch.cat([map_products(queries, part.float()) for part in pool.split(64)], 1)
    best, short = exact.topk(BEST).indices, listed()
    share = f"{short.shape[1]} of {POOL} listed for a pose, {len(short.unique())} for all poses"
    found.append(Row(f"recall@{BEST} of the short list", f"{what}; {share}", _recall(short, best), "%"))
    bf16 = map_products(queries, pool)
    name = f"top {BEST} of bf16 products"
    return [*found, Row(name, what, _recall(bf16.topk(BEST).indices, best), "%", note="shared with float32")]


def _mixed(maps: Float[Tensor, "picture dim h w"]) -> Float[Tensor, "pool dim h w"]:
    """The maps and, to fill the pool, mixtures of two of them in bf16: drawing a map is slow."""
    generator = torch.Generator().manual_seed(1)
    pool = torch.empty(POOL, *maps.shape[1:], dtype=torch.bfloat16)
    pool[: len(maps)] = maps
    for item in range(len(maps), POOL):
        one, other = torch.randint(len(maps), (2,), generator=generator).tolist()
        share = float(torch.rand(1, generator=generator))
        pool[item] = torch.lerp(maps[one], maps[other], share)
    return pool


def _recall(found: Tensor, best: Float[Tensor, "query best"]) -> float:
    """Per cent of ``best`` that are among ``found``, row by row."""
    return 100 * (best[:, :, None] == found[:, None]).any(-1).double().mean().item()


def _e_step(budget_s: float) -> list[Row]:
    """The E-step's scores of labelled pictures at poses around their own: by similarity tables, and by products."""
    pictures = make_pictures(4 + MATCHED)
    vertex, visible = vertex_features(pictures.maps, pictures.viewpoint, pictures.camera, pictures.renderer)
    anchors = Anchors(vertex[:4], visible[:4], pictures.viewpoint[:4])
    grid, ring = PoseSpace(36, [-3.0, 6.0, 15.0], [0.0]).grid(), torch.pi / 4
    maps, camera = pictures.maps[4:], pictures.camera[4:]
    rest = (pictures.clutter, camera, anchors, grid, ring, pictures.renderer)
    made = {
        kind: GridProducts(anchor_sources(anchors, grid, ring), pictures.clutter, grid, pictures.renderer, dtype=kind)
        for kind in (torch.float32, torch.bfloat16)
    }
    count = len(next(iter(made.values())).pose)
    times = in_turns({
        "E-step, anchors, table": lambda: anchor_losses(maps, *rest),
        "E-step, anchors, products": lambda: made[torch.float32].losses(maps, camera),
        "E-step, anchors, products_bf16": lambda: made[torch.bfloat16].losses(maps, camera),
    }, budget_s)  # fmt: skip
    rows: list[Row] = []
    for name, each in times.items():
        scale = 1e6 / (count * len(maps))
        ratio = rows[0].value / (each.median * scale) if rows else None
        what = f"4 anchors at {count} poses together, {len(maps)} pictures of one camera, {MAP}"
        spread = (each.low * scale, each.high * scale)
        note = "" if not rows else f"maps are synthesised once: {1000 * each.first:.0f} ms for a camera"
        rows.append(Row(name, what, each.median * scale, "us/pair", rows[0].name if rows else "", ratio, spread, note))
    return rows
