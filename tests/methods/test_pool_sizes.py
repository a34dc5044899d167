"""Pools of none, one, seven and very many pictures."""

import csv
import gc
import shutil
from pathlib import Path

import pytest
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.training.schedule import EMSchedule

EM = EMSchedule(rounds=2, epochs_per_round=1)


@pytest.fixture
def with_pool(folder, tmp_path):
    """``with_pool(count) -> folder``: four labelled pictures and a pool of links to ten pictures, again and again."""

    def make(count: int) -> Path:
        root = tmp_path / f"pool_{count}"
        shutil.copytree(folder, root)
        with (root / "labels.csv").open(newline="") as file:
            head, *rows = csv.reader(file)
        listed = set((root / "labelled.txt").read_text().split())
        free = [row for row in rows if row[0] not in listed and row[-1] == "train"]
        kept = [row for row in rows if row not in free]
        for number in range(count):
            row = free[number % len(free)]
            name = f"pool_{number:05d}.png"
            (root / name).symlink_to(root / row[0])
            kept.append([name, *row[1:]])
        with (root / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *kept])
        return root

    return make


def test_an_empty_pool_is_refused_with_remedies(make_method, make_data, make_trainer, with_pool) -> None:
    with pytest.raises(DataError, match=r"pool of .* is empty.*or train with labels only \(method NeMo\)"):
        make_trainer(EM).fit(make_method(), make_data(with_pool(0)))


@pytest.mark.parametrize("count", [1, 7])
def test_a_small_pool_is_used(make_method, make_data, make_trainer, with_pool, count) -> None:
    method, data = make_method(selection=SelectionSettings(ring_deg=180.0)), make_data(with_pool(count))
    make_trainer(EM).fit(method, data)
    assert data.round == 1 and 1 <= len(data.pseudo_labels[0]) <= count


@pytest.mark.parametrize("count", [1, 7])
def test_a_small_pool_that_no_gate_lets_pass_says_what_to_do(
    make_method, make_data, make_trainer, with_pool, count
) -> None:
    method = make_method(selection=SelectionSettings(min_score=2.0))
    with pytest.raises(DataError, match=rf"no picture of the pool of {count} passed the gates.*Widen model.selection"):
        make_trainer(EM).fit(method, make_data(with_pool(count)))


def held() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()  # the solver's optimiser lies in a cycle
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor and thing.layout is torch.strided:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_what_an_e_step_holds_does_not_grow_with_the_pool(make_method, make_data, make_trainer, with_pool) -> None:
    most, crops = {}, {}
    for count in (16, 80):
        method = make_method(selection=SelectionSettings(ring_deg=180.0))
        data = make_data(with_pool(count), keep_crops=1)  # room for 72 crops of 13,824 bytes
        match, seen = method.match, []

        def watched(batch, match=match, seen=seen, last=count // 4):
            rows = match(batch)
            seen.append(held() if len(seen) + 1 == last else 0)
            return rows

        method.match = watched
        make_trainer(EMSchedule(1, 1), 1).fit(method, data)
        most[count], crops[count] = seen[count // 4 - 1], len(data._crops["train"]._kept)
    assert (crops[16], crops[80]) == (4 + 16, 72)
    # Beyond the crops that found room: a row of the table and a record, under 500 bytes a picture; a feature map would
    # be 4,608 and a crop 13,824.
    grown = most[80] - most[16] - (crops[80] - crops[16]) * 3 * 48 * 96
    assert grown < 64 * 500
