"""Retrieval in two stages, and the pool's maps through the feature cache."""

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from nvsm_lightning.bench import pool_features
from nvsm_lightning.bench.matching import MatchingSpec, score_shifts
from nvsm_lightning.bench.pool_features import PoolFeatures
from nvsm_lightning.bench.retrieval import TwoStage
from nvsm_lightning.data.crops import CropSpec
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.meshes import category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.matching.feature_cache import FeatureCache, Shard
from nvsm_lightning.matching.matcher import Anchors
from nvsm_lightning.matching.shortlist import pooled
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.render.renderer import FeatureRenderer

SIZE, POOL = (16, 40), 120


def radians(*degrees):
    return torch.tensor(degrees) * (math.pi / 180)


@pytest.fixture(scope="module")
def scene():
    """Views of a textured cuboid from many sides and distances, with noise; the first is the anchor."""
    generator = torch.Generator().manual_seed(0)
    mesh = category_cuboid("car", 400)
    renderer = FeatureRenderer(mesh, SIZE)
    waves = mesh.vertices @ torch.randn(3, 32, generator=generator) * 6 + 6.28 * torch.rand(32, generator=generator)
    texture = normalize(waves.sin(), dim=1)
    viewpoint = radians(*((3.0 * k, 10.0, 0.0) for k in range(POOL)))
    camera = canonical_camera(*SIZE, pixels_per_unit=36.0).expanded(POOL)
    distance = 1.5 + torch.rand(POOL, generator=generator)
    camera = Camera(distance, distance * 36, camera.principal, camera.box)
    drawn, mask = renderer.render(texture, project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera))
    noise = normalize(torch.randn(drawn.shape, generator=generator), dim=1)
    maps = normalize(torch.where(mask[:, None], drawn, 0) + 0.6 * noise, dim=1)
    anchor = Anchors(*vertex_features(maps[:1], viewpoint[:1], camera[:1], renderer), viewpoint[:1])
    return renderer, camera, maps, anchor


def shards_of(maps, camera, left_out=()):
    def shards():
        for start in range(0, len(maps), 50):
            position = torch.tensor([k for k in range(start, min(start + 50, len(maps))) if k not in left_out])
            part = maps[position]
            yield position, Shard(part, pooled(part), position - start, camera[position])

    return shards


@pytest.mark.parametrize("score", ["area", "mean"])
def test_listed_pictures_get_the_exact_score_and_the_best_are_listed(scene, score) -> None:
    renderer, camera, maps, anchor = scene
    poses = radians((0.0, 10.0, 0.0), (30.0, 10.0, 0.0), (120.0, 10.0, 0.0))
    exact = score_shifts(maps, camera, anchor, poses, renderer, "vertex", score).T
    allowed = torch.ones(1, POOL, dtype=torch.bool)
    allowed[0, 0] = False
    found = TwoStage(shards_of(maps, camera, {7}), renderer, 35, score).scores(anchor, poses[None], allowed)[0]
    listed = found.isfinite()
    assert (listed.sum(1) == 35).all() and not listed[:, [0, 7]].any()
    torch.testing.assert_close(found[listed], exact[listed], atol=3e-6, rtol=0)
    exact[:, [0, 7]] = -torch.inf
    assert found.nan_to_num(nan=-torch.inf).topk(3).indices.equal(exact.topk(3).indices)


def test_shards_of_which_nothing_is_listed_are_passed_over(scene) -> None:
    renderer, camera, maps, anchor = scene
    allowed = torch.ones(1, POOL, dtype=torch.bool)
    found = TwoStage(shards_of(maps, camera), renderer, 1).scores(anchor, anchor.viewpoint[None], allowed)
    assert found[0].isfinite().nonzero().tolist() == [[0, 0]]  # the anchor itself, in the first of three shards


def test_two_stages_need_a_folder_and_room_for_the_best() -> None:
    with pytest.raises(ConfigError, match="--cache"):
        MatchingSpec(retrieval="two_stage")
    with pytest.raises(ConfigError, match="shortlist of at least 3 pictures"):
        MatchingSpec(shortlist=2)


class Colours(nn.Module):
    """A network whose features are the mean colours of the cells; counts the pictures that it has read."""

    spec, read = "colours", 0

    def forward(self, image):
        self.read += len(image)
        return normalize(nn.functional.avg_pool2d(image, 8) + 0.01, dim=1)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Seven pictures, the fourth damaged, in shards of three."""
    monkeypatch.setattr(pool_features, "SHARD", 3)
    generator = torch.Generator().manual_seed(0)
    data = PoseData(str(tmp_path), crop=CropSpec(32, 64, 60.0), batch_size=2)
    for number in range(7):
        file = tmp_path / f"{number}.png"
        pixels = (torch.rand(40, 70, 3, generator=generator) * 255).byte().numpy()
        Image.fromarray(pixels).save(file)
        data.pool.append(Record(file, file.name, "car", "train", box=(5.0, 5.0, 60.0, 35.0)))
    data.pool[3].image.write_bytes(b"no picture")
    return data


def gather(data, network, folder, **settings):
    options = {"name": "colours", "precision": "float32", **settings}
    cache = FeatureCache(folder, 1)
    found = list(PoolFeatures(data, network, network, cache=cache, **options).shards())
    return torch.cat([position for position, _ in found]), [shard for _, shard in found], cache


def test_the_pool_is_read_once_and_damaged_pictures_are_left_out(pool, tmp_path) -> None:
    network = Colours()
    with pytest.warns(UserWarning, match="1 pool pictures are damaged"):
        position, first, cache = gather(pool, network, tmp_path / "cache")
    assert (network.read, cache.built, position.tolist()) == (6, 3, [0, 1, 2, 4, 5, 6])
    _, again, cache = gather(pool, network, tmp_path / "cache")
    assert (network.read, cache.built) == (6, 0)
    for one, other in zip(first, again, strict=True):
        assert one.maps.equal(other.maps) and one.maps.shape[1:] == (3, 4, 8)
        assert one.camera.box.equal(other.camera.box) and one.camera.box.max() <= 8  # in map cells


@pytest.mark.filterwarnings("ignore:.*damaged.*")
def test_only_what_has_changed_is_read_again(pool, tmp_path) -> None:
    network = Colours()
    gather(pool, network, tmp_path / "cache")
    Image.new("RGB", (70, 40), (255, 0, 0)).save(pool.pool[6].image)
    pool.pool[0] = replace(pool.pool[0], box=(6.0, 5.0, 60.0, 35.0))
    _, shards, cache = gather(pool, network, tmp_path / "cache")
    assert (network.read, cache.built) == (6 + 3 + 1, 2)
    assert shards[2].maps[0, 0].float().max() > 0.99  # red
    for changed in ({"precision": "bfloat16"}, {"name": "others"}):
        assert gather(pool, network, tmp_path / "cache", **changed)[2].built == 3
    pool.crop = CropSpec(32, 64, 50.0)
    assert gather(pool, network, tmp_path / "cache")[2].built == 3


@pytest.mark.filterwarnings("ignore:.*damaged.*")
def test_a_pool_without_a_readable_picture_is_an_error(pool, tmp_path) -> None:
    pool.pool = pool.pool[3:4]
    with pytest.raises(DataError, match="None of the 1 pictures"):
        gather(pool, Colours(), tmp_path / "cache")
