"""What retrieval costs as the pool grows: short lists over a memory-mapped feature cache, then exact scores.

``python experiments/matching_pool.py --folder FEATURES --pictures 1000 10000 100000``. The features are synthetic: one
shard of 256 pictures is repeated under other names, on disk as on a real pool (20 x 48 cells, 128 channels, bf16,
0.31 MB a picture with its pooled map: 31 GB for 100,000). The times do not depend on what is in them. The folder is not
emptied.
"""

import argparse
import resource
import time
from functools import partial
from pathlib import Path

import torch

from nvsm_lightning.bench.retrieval import TwoStage
from nvsm_lightning.geometry.cameras import canonical_camera, project
from nvsm_lightning.geometry.meshes import category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.matching.feature_cache import FeatureCache, Shard
from nvsm_lightning.matching.matcher import Anchors
from nvsm_lightning.matching.shortlist import LISTED, pooled
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.render.renderer import FeatureRenderer

SHARD, CHANNELS, SIZE = 256, 128, (20, 48)


def synthetic(renderer: FeatureRenderer) -> tuple[Shard, Anchors]:
    """Cars of smooth random features at even azimuths on noise, and the first of them as the anchor."""
    generator = torch.Generator().manual_seed(0)
    points = renderer.vertices
    waves = points @ torch.randn(3, CHANNELS, generator=generator) * 6 + 6.28 * torch.rand(
        CHANNELS, generator=generator
    )
    view = torch.zeros(SHARD, 3)
    view[:, 0], view[:, 1] = torch.arange(SHARD) * 6.283 / SHARD, 0.1
    camera = canonical_camera(*SIZE, 37.5, 1.5).expanded(SHARD)
    drawn, mask = renderer.render(waves.sin(), project(points, rotation_from_viewpoint(view), camera))
    noise = torch.randn(drawn.shape, generator=generator)
    maps = torch.nn.functional.normalize(torch.where(mask[:, None], drawn, 0) + 0.5 * noise, dim=1)
    anchor = Anchors(*vertex_features(maps[:1], view[:1], camera[:1], renderer), view[:1])
    return Shard(maps.bfloat16(), pooled(maps).bfloat16(), torch.arange(SHARD), camera), anchor


def main() -> None:
    """Print a line for each size of the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--poses", type=int, default=9)
    parser.add_argument("--list", type=int, default=LISTED)
    options = parser.parse_args()
    renderer = FeatureRenderer(category_cuboid("car", 600), SIZE)
    shard, anchor = synthetic(renderer)
    poses = anchor.viewpoint.repeat(options.poses, 1)
    poses[:, 0] = torch.linspace(-1, 1, options.poses)
    print("pictures | write | read sketches | short lists and scores | us a pose and picture | peak memory (wall; CPU)")
    for count in options.pictures:
        whole = count // SHARD * SHARD

        def shards(cache: FeatureCache, whole: int = whole):
            for start in range(0, whole, SHARD):
                found = cache.shard("synthetic", [str(start)], lambda: shard)
                yield start + found.position, found

        def clock() -> torch.Tensor:
            return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)

        def timed(action):
            start = clock()
            result = action()
            return result, clock() - start

        with torch.no_grad():
            cache = FeatureCache(options.folder, 40)
            _, write = timed(lambda shards=shards, cache=cache: sum(len(one) for one, _ in shards(cache)))
            cache = FeatureCache(options.folder, 40)
            stages, read = timed(partial(TwoStage, partial(shards, cache), renderer, options.list))
            allowed = torch.ones(1, whole, dtype=torch.bool)
            scores, match = timed(partial(stages.scores, anchor, poses[None], allowed))
        assert scores.isfinite().sum() > 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        each = 1e6 * match / (whole * options.poses)
        times = (f"{wall:.1f}; {cpu:.1f} s" for wall, cpu in (write.tolist(), read.tolist(), match.tolist()))
        print(whole, *times, f"{each[0]:.2f}; {each[1]:.2f} us", f"{peak:.2f} GiB", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
