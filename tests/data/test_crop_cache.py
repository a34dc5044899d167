import errno
import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from layouts import pose_rows, write_picture

from nvsm_lightning.data import CropSpec, PoseCSV
from nvsm_lightning.data.crop_cache import CropCache
from nvsm_lightning.data.crops import canonical_crop
from nvsm_lightning.data.datasets import CropMemory, Crops
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError

SPEC = CropSpec(32, 64, 50.0)


@pytest.fixture
def records(tmp_path) -> list[Record]:
    """One picture with a camera, one with a box."""
    write_picture(tmp_path / "a.png", (90, 60))
    write_picture(tmp_path / "b.png", (80, 70))
    camera = {"distance": 4.0, "focal_px": 200.0, "principal": (44.0, 31.0)}
    return [
        Record(tmp_path / "a.png", "a", "car", "train", (0.1, 0.2, 0.0), **camera),
        Record(tmp_path / "b.png", "b", "car", "train", box=(10.0, 12.0, 60.0, 50.0)),
    ]


def equal(first, second) -> bool:
    pairs = zip(first[1].tensors(), second[1].tensors(), strict=True)
    same = all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) and a.dtype == b.dtype for a, b in pairs)
    return same and torch.equal(first[0], second[0]) and first[0].is_contiguous() == second[0].is_contiguous()


def through(cache: CropCache, records: list[Record]) -> list:
    """The crops by way of the cache, with no memory."""
    crops = Crops(records, SPEC, CropMemory(0, cache))
    return [crops[index] for index in range(len(records))]


def forbidden(*arguments):
    raise AssertionError("a picture was decoded that the cache holds")


def test_kept_crops_are_those_of_the_pictures_bit_for_bit(tmp_path, records, monkeypatch) -> None:
    expected = [canonical_crop(record.image, record, SPEC) for record in records]
    cache = CropCache(tmp_path / "cache")
    assert all(equal(*each) for each in zip(through(cache, records), expected, strict=True))
    assert len(list(cache.folder.glob("*/*.npy"))) == 2 and not list(cache.folder.glob("*/*.part"))
    monkeypatch.setattr("nvsm_lightning.data.datasets.canonical_crop", forbidden)
    found = through(CropCache(tmp_path / "cache"), records)
    assert all(equal(*each) for each in zip(found, expected, strict=True))


def test_another_picture_label_or_setting_has_another_name(tmp_path, records) -> None:
    cache, record = CropCache(tmp_path / "cache"), records[0]
    names = {cache.path(record, SPEC), cache.path(replace(record, turned=True), SPEC)}
    names |= {cache.path(replace(record, distance=4.5), SPEC), cache.path(record, CropSpec(32, 64, 51.0))}
    names |= {cache.path(record, CropSpec(32, 64, 50.0, camera="canonical")), cache.path(records[1], SPEC)}
    before = record.image.stat()
    os.utime(record.image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    names.add(cache.path(record, SPEC))
    assert len(names) == 7
    assert cache.path(replace(record, viewpoint=None, key="c", part="test"), SPEC) in names  # the crop is the same
    record.image.unlink()
    assert cache.path(record, SPEC) is None


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "other array", "pickle"])
def test_a_broken_entry_is_written_anew(tmp_path, records, harm) -> None:
    cache = CropCache(tmp_path / "cache")
    expected = through(cache, records)
    path = cache.path(records[0], SPEC)
    content = bytearray(path.read_bytes())
    if harm == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content[: {"cut": len(content) - 9, "empty": 0}.get(harm, None)]))
    if harm == "other array":
        np.save(path, np.zeros(7))
    if harm == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert cache.read(path, SPEC) is None
    assert equal(through(CropCache(tmp_path / "cache"), records)[0], expected[0])
    assert equal(cache.read(path, SPEC), expected[0])


def test_it_grows_to_its_bound_and_says_so_once(tmp_path, records) -> None:
    size = 3 * 32 * 64 + 52
    for _ in range(2):  # the second finds what the first has left
        cache = CropCache(tmp_path / "cache", 1.5 * size / 1e6)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            through(cache, [*records, records[1]])
        assert len(list(cache.folder.glob("*/*.npy"))) == 1
        assert [str(each.message) for each in caught if "No further crops are kept" in str(each.message)] != []
        assert sum("it is full" in str(each.message) for each in caught) == 1


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path, records, monkeypatch) -> None:
    cache = CropCache(tmp_path / "cache")

    def full(file, content):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No further crops are kept in .*No space left"):
        found = through(cache, records)
    assert all(equal(*each) for each in zip(found, [canonical_crop(r.image, r, SPEC) for r in records], strict=True))
    assert not [file for file in cache.folder.rglob("*") if file.is_file()]


def test_a_folder_that_cannot_be_made_is_said(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--data\.crop_cache .* cannot be made"):
        CropCache(tmp_path / "file" / "cache")


def test_a_data_set_shows_the_same_with_and_without(write_csv, tmp_path) -> None:
    folder = write_csv(pose_rows(9, "train") + pose_rows(3, "test", 9))
    batches = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        data = PoseCSV(
            str(folder), label_seed=0, crop=SPEC, batch_size=4, epoch_images=8, keep_crops=False,
            crop_cache=None if cache is None else str(cache),
        )  # fmt: skip
        data.setup("fit")
        batches.append([*data.train_dataloader(), *data.test_dataloader()])
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) >= 10
    for other in batches[1:]:
        for first, second in zip(batches[0], other, strict=True):
            assert equal((first["image"], first["camera"]), (second["image"], second["camera"]))
