import math
from pathlib import Path

import pytest
import torch

from nvsm_lightning.data.labels import draw_labels, draw_views, read_label_list, write_label_list
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error


def gaps(azimuth: torch.Tensor) -> torch.Tensor:
    ordered = azimuth.sort().values
    return torch.cat((ordered[1:], ordered[:1] + 2 * math.pi)) - ordered


@pytest.mark.parametrize("seed", range(5))
def test_draws_are_nested_distinct_and_repeatable(seed) -> None:
    azimuth = torch.rand(400, generator=torch.Generator().manual_seed(9)) * 2 * math.pi
    seven, twenty, fifty = (draw_labels(azimuth, count, seed) for count in (7, 20, 50))
    assert fifty[:20].equal(twenty) and twenty[:7].equal(seven)
    assert len(fifty.unique()) == 50
    assert draw_labels(azimuth, 7, seed).equal(seven)
    assert not draw_labels(azimuth, 7, seed + 1).equal(seven)


@pytest.mark.parametrize("seed", range(5))
def test_draws_spread_even_where_the_data_do_not(seed) -> None:
    azimuth = torch.rand(1000, generator=torch.Generator().manual_seed(seed)) ** 3 * 2 * math.pi  # crowded at the front
    for count, widest_deg in ((7, 70), (20, 40), (50, 20)):
        assert gaps(azimuth[draw_labels(azimuth, count, seed)]).max() < math.radians(widest_deg)


@pytest.mark.parametrize("seed", range(5))
def test_fewer_than_seven_labels_are_spread_too(seed) -> None:
    azimuth = torch.arange(720) / 720 * 2 * math.pi
    widest = [gaps(azimuth[draw_labels(azimuth, count, seed)]).max().rad2deg().item() for count in (2, 3, 5)]
    assert widest[0] < 210 and widest[1] < 160 and widest[2] < 110


@pytest.mark.parametrize("seed", range(5))
def test_each_further_label_lies_near_the_middle_of_the_widest_gap(seed) -> None:
    azimuth = torch.arange(7200) / 7200 * 2 * math.pi
    order = draw_labels(azimuth, 12, seed)
    for count in range(7, 12):
        ordered = azimuth[order[:count]].sort().values
        gap = gaps(ordered)
        share = (azimuth[order[count]] - ordered[gap.argmax()]) % (2 * math.pi) / gap.max()
        assert 0.24 < share < 0.76


def test_the_first_label_may_show_any_side() -> None:
    azimuth = torch.arange(720) / 720 * 2 * math.pi
    first = torch.cat([azimuth[draw_labels(azimuth, 1, seed)] for seed in range(30)])
    assert gaps(first).max() < math.radians(90)


def test_labels_come_from_many_cars() -> None:
    azimuth = torch.arange(600) % 60 / 60 * 2 * math.pi  # ten cars with the same sixty views
    group = [str(index // 60) for index in range(600)]
    for seed in range(10):
        chosen = draw_labels(azimuth, 7, seed, group).tolist()
        assert len({group[index] for index in chosen}) >= 4


def test_all_pictures_can_be_drawn_but_not_more() -> None:
    azimuth = torch.linspace(0, 6, 6)
    assert sorted(draw_labels(azimuth, 6, 0).tolist()) == list(range(6))
    with pytest.raises(DataError, match="7 labels were asked for, but the train part has only 6"):
        draw_labels(azimuth, 7, 0)


def test_list_files_round_trip(tmp_path) -> None:
    records = [Record(Path(f"{k}.jpg"), f"images/{k} x.jpg", "car", "train", (0.0, 0.0, 0.0)) for k in range(8)]
    path = tmp_path / "tables" / "labels.txt"
    write_label_list(path, [records[index] for index in (5, 2, 7, 0)])
    assert read_label_list(path, records, 4).tolist() == [5, 2, 7, 0]
    path.write_bytes(b"# made by hand\r\n\r\n" + path.read_bytes().replace(b"\n", b" # why\r\n"))
    assert read_label_list(path, records, 3).tolist() == [5, 2, 7]
    with pytest.raises(DataError, match="lists 4 pictures, but 7 labels"):
        read_label_list(path, records, 7)
    path.write_text("images/0 x.jpg\nimages/9 x.jpg\n")
    with pytest.raises(DataError, match=r"labels.txt:2: 'images/9 x.jpg' is no labelled picture"):
        read_label_list(path, records, 2)
    path.write_text("images/0 x.jpg\nimages/0 x.jpg\n")
    with pytest.raises(DataError, match=r"labels.txt:2: .* listed twice"):
        read_label_list(path, records, 2)
    with pytest.raises(DataError, match="does not exist"):
        read_label_list(tmp_path / "none.txt", records, 1)


def test_a_hash_inside_of_a_key_is_no_comment(tmp_path):
    """Keys of KITTI are like that, and names of files may have a blank before it."""
    keys = ("training/image_2/000007#0.png", "training/image_2/000007#2.png", "picture #1.jpg")
    records = [Record(tmp_path / key, key, "car", "train", (0.0, 0.0, 0.0)) for key in keys]
    write_label_list(tmp_path / "labels.txt", records[1:])
    assert read_label_list(tmp_path / "labels.txt", records, 2).tolist() == [1, 2]


def hemisphere() -> tuple[torch.Tensor, list[str]]:
    """Five objects, each seen from 8 azimuths at 4 elevations."""
    views = [(azimuth, elevation) for elevation in (0, 30, 60, 90) for azimuth in range(0, 360, 45)]
    rows = [(math.radians(azimuth), math.radians(elevation), 0.0) for _ in range(5) for azimuth, elevation in views]
    return torch.tensor(rows), [f"object {number}" for number in range(5) for _ in views]


@pytest.mark.parametrize("seed", range(4))
def test_views_are_spread_over_elevations_and_objects_and_nested(seed) -> None:
    viewpoint, group = hemisphere()
    drawn = draw_views(viewpoint, 20, seed, group, True)
    assert len(set(drawn.tolist())) == 20
    assert torch.equal(draw_views(viewpoint, 7, seed, group, True), drawn[:7])
    seven = viewpoint[drawn[:7]]
    both = torch.cat((seven, mirror_viewpoint(seven)))
    furthest = viewpoint_error(viewpoint[:, None], both[None]).amin(1).max()
    over_azimuth = viewpoint[draw_labels(viewpoint[:, 0], 7, seed, group)]
    both = torch.cat((over_azimuth, mirror_viewpoint(over_azimuth)))
    assert furthest < viewpoint_error(viewpoint[:, None], both[None]).amin(1).max()
    assert len({group[index] for index in drawn[:5].tolist()}) == 5
    with pytest.raises(DataError, match="only 160"):
        draw_views(viewpoint, 161, seed, group, True)
