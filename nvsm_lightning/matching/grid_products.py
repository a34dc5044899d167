"""The E-step's score "area" at every pose of a grid, from maps that are synthesised once for all pictures of a camera.

The similarity table costs a product of all cells with all vertices for every picture and anchor, and a rasterisation
for every pose. Where pictures share cameras, all of that is one product with maps made beforehand.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.matching.matcher import Anchors
from nvsm_lightning.matching.products import area_queries, map_products
from nvsm_lightning.matching.shared_cameras import shared_cameras
from nvsm_lightning.render.renderer import FeatureRenderer

KEPT_BYTES = 2_000_000_000  # of synthesised maps; those of the camera used longest ago are made anew


@dataclass(frozen=True)
class Source:
    """What is synthesised at some poses of the grid.

    Attributes:
        vertex: features, zero at vertices that were not seen.
        seen: 1 at vertices that were seen, else 0.
        pose: positions in the grid.
    """

    vertex: Float[Tensor, "vertex dim"]
    seen: Float[Tensor, " vertex"]
    pose: Int[Tensor, " pose"]


def bank_source(vertex: Float[Tensor, "vertex dim"], grid: Float[Tensor, "pose 3"]) -> list[Source]:
    """The bank at all poses."""
    return [Source(vertex, torch.ones_like(vertex[:, 0]), torch.arange(len(grid), device=vertex.device))]


def anchor_sources(anchors: Anchors, grid: Float[Tensor, "pose 3"], ring: float) -> list[Source]:
    """Each anchor at the poses within ``ring`` radians of its own."""
    near = viewpoint_error(grid[None], anchors.viewpoint[:, None]) <= ring
    parts = zip(anchors.vertex, anchors.visible.to(anchors.vertex), near, strict=True)
    return [Source(vertex, seen, row.nonzero()[:, 0]) for vertex, seen, row in parts if row.any()]


class GridProducts:
    """Losses by matrix products; the same numbers as :func:`.matcher.anchor_losses` and the objective "area" where
    cameras are shared, else those of rounded cameras (:mod:`.shared_cameras`).

    Args:
        sources: what is synthesised.
        clutter: feature whose similarity is subtracted.
        grid: poses.
        renderer: of the mesh and the maps' size.
        hidden: loss of a pose at which a source shows nothing: infinite for anchors, 1 for the bank.
        mean: of several sources at a pose the mean counts, not the best.
        dtype: of the products.
    """

    def __init__(
        self,
        sources: list[Source],
        clutter: Float[Tensor, " dim"],
        grid: Float[Tensor, "pose 3"],
        renderer: FeatureRenderer,
        hidden: float = torch.inf,
        mean: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sources, self.clutter, self.grid, self.renderer = sources, clutter, grid, renderer
        self.hidden, self.mean, self.dtype = hidden, mean, dtype
        self.pose = torch.cat([source.pose for source in sources])
        self._queries: OrderedDict[tuple[float, ...], tuple[Tensor, Tensor]] = OrderedDict()

    def losses(self, feature_map: Float[Tensor, "batch dim h w"], camera: Camera) -> Float[Tensor, "batch pose"]:
        """``1 - S`` of every picture at every pose, infinite where no source reaches; ``camera`` in map pixels."""
        shared, index = shared_cameras(camera)
        maps = feature_map.flatten(1).to(self.dtype)
        losses = torch.empty(len(maps), len(self.grid), device=maps.device)
        for number in range(len(shared)):
            rows = (index == number).nonzero()[:, 0]
            queries, shows = self.queries(shared[number : number + 1])
            each = (1 - map_products(queries, maps[rows])).masked_fill(~shows[:, None], self.hidden)
            losses[rows] = self._of_poses(each).T
        return losses

    def queries(self, camera: Camera) -> tuple[Float[Tensor, "query number"], Bool[Tensor, " query"]]:
        """The maps of all sources for one camera as rows, and which of them show anything."""
        key = tuple(value for tensor in camera.tensors()[:4] for value in tensor.flatten().nan_to_num(-1).tolist())
        if key not in self._queries:
            parts = [
                area_queries(source.vertex, source.seen, self.clutter, self.grid[source.pose], camera, self.renderer)
                for source in self.sources
            ]
            maps = torch.cat([part[0].flatten(1).to(self.dtype) for part in parts])
            self._queries[key] = maps, torch.cat([part[1] for part in parts]) >= 1
            while len(self._queries) > 1 and len(self._queries) * maps.nbytes > KEPT_BYTES:
                self._queries.popitem(last=False)
        self._queries.move_to_end(key)
        return self._queries[key]

    def _of_poses(self, each: Float[Tensor, "query picture"]) -> Float[Tensor, "pose picture"]:
        """The best source at each pose, or the mean of those that show something."""
        nothing = each.new_full((len(self.grid), each.shape[1]), torch.inf)
        place = self.pose[:, None].expand_as(each)
        if not self.mean:
            return nothing.scatter_reduce(0, place, each, "amin")
        total = torch.zeros_like(nothing).index_add(0, self.pose, each.nan_to_num(posinf=0.0))
        reached = torch.zeros_like(nothing).index_add(0, self.pose, each.isfinite().to(each))
        return torch.where(reached > 0, total / reached, nothing)
