"""How often a short list holds the best pictures, on real feature maps; and how bf16 products rank pictures.

``python experiments/matching_recall.py --root STANFORD --weights resnet18.pt --cache FEATURES``. Labelled pictures are
synthesised at shifted azimuths and matched with all of the pool by float32 products of maps; no pose of the pool is
used.
"""

import argparse
import math
from pathlib import Path

import torch

from nvsm_lightning.bench.contenders import frozen_contenders
from nvsm_lightning.bench.pool_features import PoolFeatures
from nvsm_lightning.data.crops import CropSpec
from nvsm_lightning.data.stanford import StanfordCars
from nvsm_lightning.features.backbone import STRIDE, BackboneSpec
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.meshes import category_cuboid
from nvsm_lightning.matching.feature_cache import FeatureCache
from nvsm_lightning.matching.products import area_queries, map_products
from nvsm_lightning.matching.shared_cameras import shared_cameras
from nvsm_lightning.matching.shortlist import SketchBasis, channel_rows, pooled, principal_channels, shortlist
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.render.renderer import FeatureRenderer

SHIFTS, BEST = (-60, -30, 0, 30, 60), 10
POOLED = ((32, 4), (32, 2), (64, 2))  # sketches without components: channels, cells
PARTS = {"all": slice(None), "every other": slice(0, None, 2)}  # pictures that the components are taken from
COMPONENTS, LENGTHS = (64, 128, 256, 512, 1024), (30, 50, 65, 100, 150, 258)


def main() -> None:
    """Print recall for several sketches and lengths of the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--cache", required=True, type=Path)
    parser.add_argument("--anchors", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=None)
    options = parser.parse_args()
    data = StanfordCars(
        root=options.root, label_seed=0, labels=20, crop=CropSpec(160, 384, 300.0), pool_limit=options.pictures
    )
    data.setup("match")
    spec = BackboneSpec(name="resnet18", weights=options.weights)
    backbone = frozen_contenders(spec, ["project"])[0].build().eval()
    with torch.no_grad():
        backbone.calibrate((batch["image"], batch["camera"]) for batch in data.anchor_dataloader())
        features = PoolFeatures(data, backbone, backbone, "project", "float32", FeatureCache(options.cache, 10))
        labelled = next(iter(data.anchor_dataloader()))
        measure(features, backbone(labelled["image"]), labelled["viewpoint"], labelled["camera"], options.anchors)


def measure(
    features: PoolFeatures, anchor_map: torch.Tensor, viewpoint: torch.Tensor, camera: Camera, anchors: int
) -> None:
    """Match the anchors with the pool and print what short lists hold."""
    renderer = FeatureRenderer(category_cuboid("car", 600), (anchor_map.shape[-2], anchor_map.shape[-1]))
    vertex, seen = vertex_features(anchor_map, viewpoint, camera.scaled(1 / STRIDE), renderer)
    shards = [shard for _, shard in features.shards("features")]
    maps = torch.cat([shard.maps for shard in shards])
    shared, group = shared_cameras(Camera.stack([shard.camera for shard in shards]))
    shift = torch.tensor([[math.radians(degrees), 0, 0] for degrees in SHIFTS])
    count = min(anchors, len(vertex))
    exact, rounded = torch.empty(2, count * len(SHIFTS), len(maps))
    small = {cells: torch.cat([pooled(part.float(), cells) for part in maps.split(200)]) for cells in (2, 4)}
    channels = {key: principal_channels(small[key[1]][::4], key[0]) for key in POOLED}
    rows = {key: channel_rows(small[key[1]], channels[key]) for key in POOLED}
    bases = {f"from {name}": SketchBasis.of(small[2][part], max(COMPONENTS)) for name, part in PARTS.items()}
    sketches = {name: basis.sketch(small[2]) for name, basis in bases.items()}
    listed = {key: torch.empty_like(exact) for key in [*POOLED, *((name, n) for name in bases for n in COMPONENTS)]}
    for number in range(len(shared)):
        nothing, one = torch.zeros(vertex.shape[-1]), shared[number : number + 1]
        queries = torch.cat([
            area_queries(vertex[n], seen[n].float(), nothing, viewpoint[n] + shift, one, renderer)[0]
            for n in range(count)
        ])  # fmt: skip
        members = (group == number).nonzero()[:, 0]
        for key in POOLED:
            of = channel_rows(pooled(queries, key[1]), channels[key])
            listed[key][:, members] = map_products(of, rows[key][members])
        for name, basis in bases.items():
            of = basis.sketch(pooled(queries))
            for n in COMPONENTS:
                listed[name, n][:, members] = of[:, :n] @ sketches[name][members, :n].T
        for part in members.split(256):
            exact[:, part] = map_products(queries.flatten(1), maps[part].flatten(1).float())
            rounded[:, part] = map_products(queries.flatten(1), maps[part].flatten(1))
    print(f"{len(maps)} pictures, {len(shared)} cameras, {len(exact)} queries")
    first, second = torch.randint(len(maps), (2, 100_000), generator=torch.Generator().manual_seed(0))
    same = (
        ((exact[:, first] - exact[:, second]).sign() == (rounded[:, first] - rounded[:, second]).sign()).float().mean()
    )
    print(f"bf16: largest difference {(exact - rounded).abs().max():.5f}, deviation of the scores {exact.std():.4f}, "
          f"pairs in the same order {100 * same:.3f} %")  # fmt: skip
    for top in (1, 3, 10, 50):
        print(
            f"bf16, top {top} shared: {100 * recall(rounded.topk(top).indices, exact.topk(top).indices).mean():.1f} %"
        )
    best, everybody = exact.topk(BEST).indices, torch.ones(len(maps), dtype=torch.bool)
    for key, score in listed.items():
        found = [recall(shortlist(score, everybody, length), best) for length in LENGTHS]
        shown = (
            f"{length}: {100 * each.mean():.1f} ({100 * each.min():.0f})"
            for length, each in zip(LENGTHS, found, strict=True)
        )
        print(f"{key}, recall@{BEST} of a list of .. (worst query)", *shown, sep=", ", flush=True)
    generator = torch.Generator().manual_seed(0)
    score = listed["from all", 512]
    for size in (len(maps) // 8, len(maps) // 4, len(maps) // 2, len(maps)):
        needed = [wanted(score[:, part], exact[:, part]) for part in
                  (torch.randperm(len(maps), generator=generator)[:size] for _ in range(4))]  # fmt: skip
        print(f"a pool of {size}: recall 99 % wants a list of {sum(needed) / 4:.0f} (mean of 4 draws)")


def wanted(score: torch.Tensor, exact: torch.Tensor) -> int:
    """Shortest list whose mean recall is 99 %."""
    place = score.argsort(1, descending=True).argsort(1).gather(1, exact.topk(BEST).indices)
    return int(place.flatten().sort().values[math.ceil(0.99 * place.numel()) - 1]) + 1


def recall(found: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """Share of the best that were found, for each query."""
    return (best[:, :, None] == found[:, None]).any(-1).float().mean(1)


if __name__ == "__main__":
    main()
