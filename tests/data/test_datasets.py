import math
from pathlib import Path

import torch
from layouts import truncate, write_picture

from nvsm_lightning.data.crops import CropSpec
from nvsm_lightning.data.datasets import CropMemory, Crops, PoseDataset, collate, with_mirrors
from nvsm_lightning.data.record import Record
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint

SPEC = CropSpec(48, 96, 80.0)


def records(folder: Path, count: int = 4) -> list[Record]:
    paths = [write_picture(folder / f"{index}.jpg", seed=index) for index in range(count)]
    return [
        Record(path, path.name, "car", "train", (0.5 + index, 0.1, 0.2), 2.0, 200.0, (30.0, 25.0))
        for index, path in enumerate(paths)
    ]


def test_crops_are_kept_unless_told_otherwise(tmp_path) -> None:
    rows = records(tmp_path, 1)
    kept, fresh = Crops(rows, SPEC), Crops(rows, SPEC, CropMemory(0))
    assert kept[0][0] is kept[0][0]
    assert fresh[0][0] is not fresh[0][0] and fresh[0][0].equal(kept[0][0])


def test_crops_of_all_parts_share_one_memory(tmp_path) -> None:
    rows, crop = records(tmp_path), 3 * 48 * 96
    memory = CropMemory(2.5 * crop / 1e6)
    first, second = Crops(rows, SPEC, memory), Crops(rows[2:], SPEC, memory)
    kept = [first[0], second[0]]
    assert first[0] is kept[0] and second[0] is kept[1]  # 2 x 13,824 bytes
    assert first[1] is not first[1] and second[1] is not second[1]  # no room for a third
    assert second[1][0].equal(Crops(rows, SPEC)[3][0])


def test_damaged_pictures_are_listed(tmp_path) -> None:
    rows = records(tmp_path)
    truncate(rows[2].image)
    damaged = Crops(rows, SPEC).damaged(range(4))
    assert list(damaged) == [2] and "2.jpg" in damaged[2]


def test_batches_and_mirror_images(tmp_path) -> None:
    rows = records(tmp_path)
    viewpoint = torch.tensor([row.viewpoint for row in rows])
    plain = PoseDataset(Crops(rows, SPEC), torch.arange(4), viewpoint)
    both = with_mirrors(plain, True)
    batch = collate([both[index] for index in range(8)])
    assert batch["index"].tolist() == [0, 1, 2, 3] * 2 and batch["mirrored"].tolist() == [False] * 4 + [True] * 4
    assert batch["image"].dtype == torch.float32 and 0 <= batch["image"].min() and batch["image"].max() <= 1
    torch.testing.assert_close(batch["image"][4:], batch["image"][:4].flip(-1))
    torch.testing.assert_close(batch["viewpoint"][4:], mirror_viewpoint(viewpoint))
    torch.testing.assert_close(batch["camera"].principal[4:, 0], 96 - batch["camera"].principal[:4, 0])
    assert batch["weight"].tolist() == [1.0] * 8 and not math.isnan(batch["camera"].focal.sum())
    assert with_mirrors(plain, False) is plain
