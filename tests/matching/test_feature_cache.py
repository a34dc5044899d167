"""The feature cache: what is kept, what is made anew, and what it says when the disk is full."""

import os
import shutil
from collections import namedtuple

import pytest
import torch
from torch import nn

from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.cameras import canonical_camera
from nvsm_lightning.matching.feature_cache import FeatureCache, Shard, file_identity, weights_digest

NAMES = ["a", "b", "c"]


def make(value: float = 1.0, side: int = 8) -> Shard:
    maps = torch.full((3, 4, side, side), value, dtype=torch.bfloat16)
    return Shard(maps, maps[..., :2, :2].clone(), torch.arange(3), canonical_camera(8, 8).expanded(3))


def never() -> Shard:
    raise AssertionError("the shard is there")


def only_file(folder):
    (file,) = folder.glob("*.maps")
    return file


def test_shards_are_kept_and_read_through_a_memory_map(tmp_path) -> None:
    cache = FeatureCache(tmp_path / "cache", 1)
    made = cache.shard("key", NAMES, make)
    again = FeatureCache(tmp_path / "cache", 1)
    kept = again.shard("key", NAMES, never)
    assert (cache.built, again.built) == (1, 0)
    for shard in (made, kept):
        assert shard.maps.equal(make().maps) and shard.maps.dtype == torch.bfloat16
        assert shard.pooled.equal(make().pooled) and shard.position.tolist() == [0, 1, 2]
        assert shard.camera.focal.equal(make().camera.focal)
    with open("/proc/self/maps") as listing:
        assert any(str(only_file(tmp_path / "cache")) in line for line in listing)


@pytest.mark.parametrize(("key", "names"), [("other weights", NAMES), ("key", ["a", "b", "changed"])])
def test_other_weights_or_pictures_are_another_shard(tmp_path, key, names) -> None:
    cache = FeatureCache(tmp_path, 1)
    cache.shard("key", NAMES, make)
    assert cache.shard(key, names, lambda: make(2.0)).maps.unique().tolist() == [2.0]
    assert cache.shard("key", NAMES, never).maps.unique().tolist() == [1.0]


def cut(file) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda file: file.write_bytes(b""), lambda file: file.write_text("no")])
def test_broken_files_are_found_and_made_anew(tmp_path, damage) -> None:
    FeatureCache(tmp_path, 1).shard("key", NAMES, lambda: make(side=64))
    damage(only_file(tmp_path))
    cache = FeatureCache(tmp_path, 1)
    with pytest.warns(UserWarning, match="is broken .* made anew"):
        assert cache.shard("key", NAMES, lambda: make(3.0, 64)).maps.unique().tolist() == [3.0]
    assert cache.built == 1
    assert FeatureCache(tmp_path, 1).shard("key", NAMES, never).maps.unique().tolist() == [3.0]


def test_what_a_killed_process_left_is_swept_up(tmp_path) -> None:
    old, new = tmp_path / "x.tmp1", tmp_path / "x.tmp2"
    for file in (old, new):
        file.write_text("half")
    os.utime(old, (1, 1))
    FeatureCache(tmp_path, 1)
    assert not old.exists() and new.exists()  # another process may be writing it


def test_the_shards_not_used_for_longest_make_room(tmp_path) -> None:
    FeatureCache(tmp_path, 1).shard("old", NAMES, lambda: make(side=64))
    size = only_file(tmp_path).stat().st_size
    FeatureCache(tmp_path, 1).shard("new", NAMES, lambda: make(side=64))
    for age, file in enumerate(tmp_path.glob("*.maps")):
        os.utime(file, (age + 1, age + 1))
    FeatureCache(tmp_path, 1).shard("old", NAMES, never)  # used now
    FeatureCache(tmp_path, 2.6 * size / 1e9).shard("newest", NAMES, lambda: make(side=64))
    assert len(list(tmp_path.glob("*.maps"))) == 2
    FeatureCache(tmp_path, 1).shard("old", NAMES, never)
    FeatureCache(tmp_path, 1).shard("newest", NAMES, never)


def test_a_pool_beyond_the_limit_is_an_error_that_names_the_option(tmp_path) -> None:
    cache = FeatureCache(tmp_path, 300e-6)
    cache.shard("key", NAMES, lambda: make(side=64))
    with pytest.raises(DataError, match=r"limited to 0\.0003 GB .* --cache_gb"):
        cache.shard("key", ["d", "e", "f"], lambda: make(side=128))
    assert cache.shard("key", NAMES, never)


def test_a_full_disk_is_an_error_that_says_how_much_is_free(tmp_path, monkeypatch) -> None:
    cache = FeatureCache(tmp_path, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 1000))
    with pytest.raises(DataError, match=r"is full: 0\.00 GB are free"):
        cache.shard("key", NAMES, make)
    assert not list(tmp_path.iterdir())


def test_a_failing_write_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    def fail(content, path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    cache = FeatureCache(tmp_path, 1)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(DataError, match="No space left"):
        cache.shard("key", NAMES, make)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/cache cannot be made"):
        FeatureCache(tmp_path / "file" / "cache", 1)


def test_the_digest_tells_weights_buffers_and_settings_apart() -> None:
    torch.manual_seed(0)
    network = nn.BatchNorm1d(3)
    digests = [weights_digest(network, "bf16"), weights_digest(network, "float32")]
    network.running_mean[1] += 1e-6
    digests.append(weights_digest(network, "bf16"))
    assert len(set(digests)) == 3
    network.running_mean[1] -= network.running_mean[1]
    assert weights_digest(network, "bf16") == digests[0]


def test_the_identity_of_a_picture_changes_with_its_file(tmp_path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    first = file_identity(file, "box 1")
    assert first == file_identity(file, "box 1") != file_identity(file, "box 2")
    os.utime(file, (1, 1))
    changed = file_identity(file, "box 1")
    file.unlink()
    assert len({first, changed, file_identity(file, "box 1")}) == 3
