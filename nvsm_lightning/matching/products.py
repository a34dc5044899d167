"""Similarity of many synthesised maps with many observed ones as blocked matrix products.

``S``, NVSM's similarity, is an inner product of two maps, so that P poses against M pictures are one product of
[P, C h w] with [C h w, M]; the broadcast form writes [P, M, C, h, w] to memory first.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.renderer import FeatureRenderer

BLOCK = 65536  # numbers of a map that one product sums: bf16 products round their sums, float32 adds up the blocks
ROWS = 16  # bf16 products want whole tiles of rows
POSES = 16  # drawn together: a map of every channel and pose is large


def map_products(
    queries: Float[Tensor, "query number"], maps: Float[Tensor, "picture number"], block: int = BLOCK
) -> Float[Tensor, "query picture"]:
    """Inner products of all rows of ``queries`` with all rows of ``maps``, in the precision of ``maps``.

    float32 sums over blocks of ``block`` numbers; with bf16 maps each block is a bf16 product, which adds in float32
    and rounds its sum to 8 bits. Small blocks round no less and are slower (experiments/matching_speed.md).
    """
    count = len(queries)
    queries = queries.to(maps.dtype)
    if maps.dtype == torch.bfloat16 and count % ROWS:
        queries = torch.cat((queries, queries.new_zeros(-count % ROWS, queries.shape[1])))
    total = torch.zeros(len(maps), len(queries), device=maps.device)
    with torch.autocast(maps.device.type, enabled=False):  # the maps' own precision, in float32 as well
        for start in range(0, queries.shape[1], block):
            part = slice(start, start + block)
            total += maps[:, part] @ queries[:, part].T  # the long list on the left: a tenth to a fifth faster
    return total[:, :count].T


def area_queries(
    vertex: Float[Tensor, "vertex dim"],
    seen: Float[Tensor, " vertex"],
    clutter: Float[Tensor, " dim"],
    poses: Float[Tensor, "pose 3"],
    camera: Camera,
    renderer: FeatureRenderer,
) -> tuple[Float[Tensor, "pose dim h w"], Float[Tensor, " pose"]]:
    """Maps whose inner product with an observed one is the score "area" of the E-step, and the shown area in cells.

    ``S = sum_p (<F'(p), F(p)> - m(p) <c, F(p)>) / sum_p m(p) = <(F' - m c) / area, F>``, with F' the rendered vertex
    features, m the rendered visibility (1 in covered cells where every vertex is seen) and c the clutter feature.

    Args:
        vertex: features, zero at vertices that were not seen.
        seen: 1 at vertices that were seen, else 0.
        clutter: feature to subtract; zeros for none.
        poses: azimuth, elevation, theta in radians.
        camera: ONE camera in map pixels, for all poses.
        renderer: of the mesh and the map's size.
    """
    maps, areas = [], []
    channels = torch.cat((vertex, seen[:, None]), 1)
    for part in poses.split(POSES):
        uvz = project(renderer.vertices, rotation_from_viewpoint(part), camera.expanded(len(part)))
        drawn = renderer.render(channels, uvz)[0]
        shown = drawn[:, -1:]
        area = shown.sum((1, 2, 3))
        maps.append((drawn[:, :-1] - clutter[:, None, None] * shown) / area.clamp_min(1)[:, None, None, None])
        areas.append(area)
    return torch.cat(maps), torch.cat(areas)
