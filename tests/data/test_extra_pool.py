from pathlib import Path

import pytest
import torch
from layouts import pose_rows
from published_layouts import write_kitti

from nvsm_lightning.data import KITTI, CropSpec, EPFLCars, PoseCSV
from nvsm_lightning.errors import ConfigError, DataError

SPEC = CropSpec(32, 64, 50.0)
CAMERA = {"distance": 2.0, "focal_px": 100.0, "px": 30.0, "py": 20.0}


@pytest.fixture
def folder(write_csv):
    """12 train, 3 val and 3 test pictures."""
    return write_csv(pose_rows(12, "train") + pose_rows(3, "val", 12) + pose_rows(3, "test", 15))


@pytest.fixture
def other(write_csv):
    """8 train pictures with a camera, two of them without a label, and 4 test pictures; names as in ``folder``."""
    rows = pose_rows(6, "train") + pose_rows(2, None, 6, labelled=False) + pose_rows(4, "test", 8)
    return write_csv([row | CAMERA for row in rows], name="other")


def make(folder, *sources, stage="fit", **kwargs) -> PoseCSV:
    settings = {"label_seed": 0, "labels": 4, "crop": SPEC, "batch_size": 4, "epoch_images": 16, **kwargs}
    data = PoseCSV(str(folder), extra_pool=list(sources), **settings)
    data.setup(stage)
    return data


def indices(loader) -> list[int]:
    return [index for batch in loader for index in batch["index"].tolist()]


def test_the_train_parts_of_others_follow_the_own_pool(folder, other) -> None:
    plain, data = make(folder), make(folder, PoseCSV(str(other)), PoseCSV(str(other), pool_limit=3))
    assert [record.key for record in data.labelled] == [record.key for record in plain.labelled]
    assert data.pool[:8] == plain.pool and data.val == plain.val and data.test == plain.test
    assert [record.source for record in data.pool] == [""] * 8 + ["csv"] * 8 + ["csv_2"] * 3
    assert data.pool[8].key == "csv:000.jpg" and len({record.key for record in data.pool}) == 19
    assert not any("008" in record.key for record in data.pool[8:])  # its test part
    limited = make(folder, PoseCSV(str(other)), pool_limit=2).pool
    assert [record.source for record in limited] == [""] * 2 + ["csv"] * 8
    assert make(folder, PoseCSV(str(other)), stage="test").pool == plain.pool  # a finished model needs none


@pytest.mark.parametrize(("share", "drawn"), [(None, 0.75), (0.5, 0.5), (0.0, 0.0)])
def test_training_draws_their_share(folder, other, share, drawn) -> None:
    """One own picture and three of the other set, all with one label."""
    data = make(folder, PoseCSV(str(other)), extra_share=share, labelled_share=0.0, epoch_images=2000)
    data.accept(0, torch.tensor([1, 8, 9, 15]), torch.zeros(4, 3), torch.ones(4))
    sampler = data.train_dataloader().sampler
    sampler.set_epoch(0)
    assert sum(entry > len(data.labelled) for entry, _ in sampler) / 2000 == pytest.approx(drawn, abs=0.05)


def test_their_labels_are_hidden_from_every_loader_and_known_to_reports(folder, other) -> None:
    data = make(folder, PoseCSV(str(other)))
    assert all(batch["viewpoint"].isnan().all() for batch in data.pool_dataloader())
    assert data.pool_truth()[8:].isfinite().all(1).tolist() == [True] * 6 + [False] * 2
    index = torch.tensor([1, 8, 15])
    data.accept(0, index, torch.full((3, 3), 0.25), torch.ones(3))
    shown = list(data.labelled_and_pseudo_dataloader(mirrored=False))
    assert indices(shown) == [0, 1, 2, 3, 4 + 1, 4 + 8, 4 + 15]
    assert (torch.cat([batch["viewpoint"] for batch in shown])[4:] == 0.25).all()


def test_they_are_cut_as_the_labelled_pictures_are(folder, other, write_csv) -> None:
    boxed = make(folder, PoseCSV(str(other)))
    half = SPEC.pixels_per_unit * SPEC.box_unit / 2  # the whole picture of 64 x 48 pixels is the box
    assert not any(record.has_camera for record in boxed.pool)
    camera = list(boxed.pool_dataloader())[-1]["camera"]
    assert torch.allclose(camera.box[-1], torch.tensor([32 - half * 4 / 3, 16 - half, 32 + half * 4 / 3, 16 + half]))
    assert camera.distance[-1] == pytest.approx(SPEC.box_distance)
    rows = [row | CAMERA for row in pose_rows(12, "train") + pose_rows(3, "val", 12) + pose_rows(3, "test", 15)]
    own = make(write_csv(rows, name="own"), PoseCSV(str(other)))
    camera = list(own.pool_dataloader())[-1]["camera"]
    assert camera.box.isnan().all() and camera.distance[-1] == 2.0
    assert camera.focal[-1] == pytest.approx(2.0 * SPEC.pixels_per_unit)


def test_one_labelled_picture_with_a_camera_is_enough_to_keep_theirs(other, write_csv) -> None:
    rows = pose_rows(5, "train") + pose_rows(3, "val", 5) + pose_rows(3, "test", 8)
    mixed = write_csv([row | (CAMERA if number == 2 else {}) for number, row in enumerate(rows)], name="mixed")
    data = make(mixed, PoseCSV(str(other)), labels=5)
    assert [record.has_camera for record in data.labelled].count(True) == 1
    assert all(record.has_camera and record.distance == 2.0 for record in data.pool)


def test_pictures_cut_by_their_boxes_are_not_turned(folder, tmp_path) -> None:
    """A turn goes with the camera that looks straight at the object; the box is of the stored picture."""
    kitti = KITTI(str(write_kitti(tmp_path / "kitti")), min_side=20.0, rectify=True)
    with pytest.warns(UserWarning, match="left out"):  # what the lists of the tiny set name for other tests
        train = [record for record in kitti.read(Path(kitti.root)) if record.part == "train"]
        theirs = make(folder, kitti).pool[8:]
    assert [record.box for record in theirs] == [record.box for record in train]
    assert all(record.warp for record in train) and not any(record.warp for record in theirs)


def test_the_label_seed_draws_the_limited_part_of_another_set(folder, other) -> None:
    def drawn(seed: int) -> list[str]:
        pool = make(folder, PoseCSV(str(other), pool_limit=3), label_seed=seed).pool
        return [record.key for record in pool if record.source]

    draws = [drawn(seed) for seed in range(4)]
    assert draws[1] == drawn(1) and len({*map(tuple, draws)}) > 1
    assert all(len(keys) == 3 and keys == sorted(keys) for keys in draws)


def test_of_a_set_that_knows_azimuths_alone_reports_are_told_no_more(folder, other) -> None:
    source = PoseCSV(str(other))
    source.azimuth_only = True
    known = make(folder, source).pool_truth().isfinite()
    assert known[:8].all() and known[8:].tolist() == [[True, False, False]] * 6 + [[False] * 3] * 2


def test_processes_share_it_and_damaged_pictures_are_skipped(folder, other) -> None:
    (other / "003.jpg").write_bytes(b"no picture at all")
    data = make(folder, PoseCSV(str(other)))
    with pytest.warns(UserWarning, match="1 of 16 pool pictures are damaged and skipped"):
        alone = indices(data.pool_dataloader())
    assert alone == [place for place in range(16) if place != 11]
    assert [key for key, _ in data.skipped] == ["csv:003.jpg"]
    assert [indices(data.pool_dataloader(rank, 2)) for rank in range(2)] == [alone[0::2], alone[1::2]]


def test_a_round_may_look_at_the_own_pool_alone(folder, other) -> None:
    data = make(folder, PoseCSV(str(other)))
    own = indices(data.pool_dataloader(own=True))
    assert own == [place for place, record in enumerate(data.pool) if not record.source] and 0 < len(own) < 16
    assert [indices(data.pool_dataloader(rank, 2, own=True)) for rank in range(2)] == [own[0::2], own[1::2]]
    bare = make(folder, PoseCSV(str(other)))
    bare.pool = [record for record in bare.pool if record.source]  # as where every own picture is labelled
    with pytest.raises(DataError, match="extra_pool_from 0"):
        bare.pool_dataloader(own=True)


def test_a_fit_goes_on_with_the_same_further_pool_only(folder, other) -> None:
    state = make(folder, PoseCSV(str(other))).state_dict()
    make(folder, PoseCSV(str(other))).load_state_dict(state)
    for sources in ((), (PoseCSV(str(other), pool_limit=3),)):
        with pytest.raises(DataError, match="another pool"):
            make(folder, *sources).load_state_dict(state)


def test_sets_that_cannot_join_are_refused(folder, other, write_csv) -> None:
    with pytest.raises(ConfigError, match="pictures of 'bus', but the fit is of 'car'"):
        make(folder, PoseCSV(str(other), category="bus"))
    with pytest.raises(ConfigError, match=r"extra_share \(0\.5\) .* names 0 data sets"):
        make(folder, extra_share=0.5)
    with pytest.raises(ConfigError, match=r"extra_share \(1\.5\) is in 0\.\.1"):
        make(folder, PoseCSV(str(other)), extra_share=1.5)
    with pytest.raises(ConfigError, match="csv has an extra_pool itself"):
        make(folder, PoseCSV(str(other), extra_pool=[PoseCSV(str(other))]))
    with pytest.raises(DataError, match=r"'nowhere' does not exist.*the root of csv in --data.extra_pool"):
        make(folder, PoseCSV("nowhere"))
    tests_only = write_csv(pose_rows(3, "test"), name="tests_only")
    with pytest.raises(DataError, match=r"csv has no train part for --data\.extra_pool"):
        make(folder, PoseCSV(str(tests_only)))
    with pytest.raises(DataError, match="test pictures are also used for training"):
        make(folder, PoseCSV(str(other)), test_root=str(other))


def test_another_reader_joins(folder, epfl) -> None:
    cars = EPFLCars(str(epfl), train_sequences=[1, 2], val_sequences=[3], test_sequences=[4])
    data = make(folder, cars)
    pool = data.pool
    assert len(pool) == 8 + 24 and pool[8].key == "epfl_cars:tripod-seq/tripod_seq_01_001.jpg"
    assert pool[8].box == (8.5, 10.25, 52.5, 40.25) and pool[8].group == "epfl_cars sequence 01"
    known = data.pool_truth().isfinite()
    assert known[:8].all() and known[8:].any(0).tolist() == [True, False, False]  # its reader assumes the rest
