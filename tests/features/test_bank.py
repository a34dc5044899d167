import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import normalize

from nvsm_lightning.features.bank import FeatureBank


def unit(*rows: tuple[float, float]) -> Tensor:
    return normalize(torch.tensor(rows), dim=-1)


def golden_bank(legacy: bool) -> FeatureBank:
    bank = FeatureBank(3, 2, clutter_size=4, momentum=0.9, legacy_update=legacy)
    bank.vertex.copy_(unit((1, 0.1), (0.5, 0.9), (-0.2, 1)))
    features = unit((1, 0), (0.6, 0.8), (0, 1)).expand(2, 3, 2)
    bank.update(features, torch.tensor([[True, True, False], [True, False, False]]), torch.zeros(0, 2))
    return bank


@pytest.mark.parametrize(("legacy", "second"), [(True, (0.491890, 0.870658)), (False, (0.497495, 0.867467))])
def test_golden_update_of_both_rules(legacy, second) -> None:
    expected = torch.tensor([(0.995978, 0.089593), second, (-0.196116, 0.980581)])
    assert torch.allclose(golden_bank(legacy).vertex, expected, atol=1e-5)


@pytest.mark.parametrize("seen", [1, 2, 4])
def test_the_legacy_rule_slows_vertices_down_by_how_seldom_they_are_seen(seen) -> None:
    share, weights = seen / 4, {}
    for legacy in (True, False):
        bank = FeatureBank(1, 2, clutter_size=1, momentum=0.9, legacy_update=legacy)
        bank.vertex.copy_(torch.tensor([[1.0, 0.0]]))
        visible = (torch.arange(4) < seen)[:, None]
        bank.update(torch.tensor([0.0, 1.0]).expand(4, 1, 2), visible, torch.zeros(0, 2))
        old, new = bank.vertex[0].tolist()
        weights[legacy] = new / (old + new)  # the effective weight
    assert weights[True] == pytest.approx(0.1 * share / (0.9 + 0.1 * share), abs=1e-6)
    assert weights[False] == pytest.approx(0.1, abs=1e-6)


def test_vertices_that_no_picture_shows_stay_and_all_rows_have_unit_length() -> None:
    bank = FeatureBank(6, 8, clutter_size=10)
    before = bank.vertex.clone()
    visible = torch.zeros(3, 6, dtype=torch.bool)
    visible[:, :2] = True
    bank.update(normalize(torch.randn(3, 6, 8), dim=-1), visible, torch.randn(4, 8))
    assert torch.equal(bank.vertex[2:], before[2:]) and not torch.equal(bank.vertex[:2], before[:2])
    for rows in (bank.vertex, bank.clutter):
        assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)), atol=1e-6)


def test_every_slot_of_the_clutter_ring_is_used() -> None:
    """NeMo's block of 540 in a ring of 2560 left 400 rows at their random start for ever."""
    bank = FeatureBank(1, 4, clutter_size=5 * 512)
    start = bank.clutter.clone()
    for block in range(5):
        bank.push_clutter(torch.randn(108 * 5, 4, generator=torch.Generator().manual_seed(block)))
    assert len(bank.clutter) == 2560 and not (bank.clutter == start).all(1).any()
    assert int(bank.clutter_filled) == 2560 and int(bank.clutter_next) == 5 * 540 - 2560


def test_the_oldest_clutter_goes_first() -> None:
    bank = FeatureBank(1, 2, clutter_size=4)
    for number in range(1, 7):
        bank.push_clutter(torch.tensor([[math.cos(number), math.sin(number)]]))
    angles = torch.atan2(bank.clutter[:, 1], bank.clutter[:, 0]) % (2 * math.pi)
    assert torch.allclose(angles, torch.tensor([5.0, 6.0, 3.0, 4.0]), atol=1e-5)
    angle = torch.arange(10.0, 19.0)
    bank.push_clutter(torch.stack((angle.cos(), angle.sin()), 1))  # more than the ring holds: the newest four stay
    found = torch.atan2(bank.clutter[:, 1], bank.clutter[:, 0]) % (2 * math.pi)
    assert int(bank.clutter_filled) == 4
    torch.testing.assert_close(found.sort().values, (angle[-4:] % (2 * math.pi)).sort().values, atol=1e-5, rtol=0)


def test_the_clutter_feature_is_the_mean_of_what_was_written() -> None:
    bank = FeatureBank(1, 2, clutter_size=8)
    assert torch.equal(bank.clutter_mean, torch.zeros(2))  # the random start says nothing about the background
    bank.push_clutter(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    assert torch.allclose(bank.clutter_mean, torch.full((2,), 0.5).sqrt(), atol=1e-6)


def test_setting_the_means_from_a_pass_keeps_unseen_vertices() -> None:
    bank = FeatureBank(2, 2)
    before = bank.vertex.clone()
    bank.set_vertices(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([0.0, 10.0]))
    assert torch.equal(bank.vertex[0], before[0])
    assert torch.allclose(bank.vertex[1], torch.tensor([0.6, 0.8]))


def test_the_state_holds_the_place_in_the_ring() -> None:
    bank = FeatureBank(2, 3, clutter_size=5)
    bank.push_clutter(torch.randn(7, 3)[:4])
    other = FeatureBank(2, 3, clutter_size=5)
    other.load_state_dict(bank.state_dict())
    for either in (bank, other):
        either.push_clutter(torch.ones(2, 3))
    assert torch.equal(bank.clutter, other.clutter) and int(other.clutter_next) == 1


def test_the_update_is_exact_under_autocast() -> None:
    results = []
    for enabled in (False, True):
        bank = FeatureBank(20, 16)
        bank.vertex.copy_(normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(0)), dim=-1))
        features = normalize(torch.randn(4, 20, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            bank.update(features, torch.ones(4, 20, dtype=torch.bool), torch.zeros(0, 16))
        results.append(bank.vertex)
    assert torch.allclose(*results, atol=1e-6)


def batch_of_four() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    features = normalize(torch.randn(4, 6, 3, generator=generator), dim=-1)
    visible = torch.rand(4, 6, generator=generator) < 0.5
    return features, visible, torch.randn(4, 2, 3, generator=generator)


def seeded_bank(legacy: bool) -> FeatureBank:
    torch.manual_seed(3)
    return FeatureBank(6, 3, clutter_size=20, legacy_update=legacy)


def update_in_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    features, visible, noise = (part[rank::2] for part in batch_of_four())
    for legacy in (False, True):
        bank = seeded_bank(legacy)
        bank.update(features, visible, noise.flatten(0, 1))
        torch.save(bank.state_dict(), f"{folder}/bank{rank}_{legacy}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_update_as_one(tmp_path: Path) -> None:
    mp.spawn(update_in_process, args=(str(tmp_path),), nprocs=2)
    for legacy in (False, True):
        alone = seeded_bank(legacy)
        features, visible, noise = batch_of_four()
        alone.update(features, visible, noise.flatten(0, 1))
        first, second = (torch.load(tmp_path / f"bank{rank}_{legacy}.pt") for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert torch.allclose(first["vertex"], alone.vertex, atol=1e-6)
        # The ring's order differs (process after process), its content does not.
        for rows in (first["clutter"][:8], alone.clutter[:8]):
            assert rows.shape == (8, 3)
        distance = torch.cdist(first["clutter"][:8], alone.clutter[:8])
        assert (distance.amin(0) < 1e-5).all() and (distance.amin(1) < 1e-5).all()
        assert int(first["clutter_filled"]) == int(alone.clutter_filled) == 8
