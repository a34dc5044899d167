"""Which pictures are labelled: the ways of ``anchors``."""

from types import SimpleNamespace

import pytest
import torch
from layouts import pose_rows
from lightning.pytorch.trainer.states import TrainerFn

from nvsm_lightning.data import CropSpec, PoseCSV
from nvsm_lightning.data.anchors import central, centred
from nvsm_lightning.data.labels import draw_views
from nvsm_lightning.data.record import viewpoints
from nvsm_lightning.errors import ConfigError, DataError

SPEC = CropSpec(32, 64, 50.0)


@pytest.fixture
def folder(write_csv):
    """24 train, 4 val, 5 test pictures with labels."""
    return write_csv(pose_rows(24, "train") + pose_rows(4, "val", 24) + pose_rows(5, "test", 28))


def describe(batch) -> torch.Tensor:
    """Six views, by position in the list of candidates."""
    assert batch["viewpoint"].isnan().all()  # no label is shown
    return torch.nn.functional.one_hot(batch["index"] % 6, 6).float() + 0.001 * batch["index"][:, None]


def make(folder, anchors: str, stage: str = "fit", resumed: str | None = None, **changes) -> PoseCSV:
    settings = {"labels": 6, "label_seed": 0, "crop": SPEC, "batch_size": 4, "epoch_images": 16}
    data = PoseCSV(str(folder), anchors=anchors, **(settings | changes))
    state = SimpleNamespace(fn=TrainerFn(stage))
    model = SimpleNamespace(describe=describe, training=True, eval=lambda: None, train=lambda mode: None)
    data.trainer = SimpleNamespace(
        lightning_module=model, global_rank=0, world_size=1, state=state, default_root_dir=str(folder),
        resumed_from=resumed,
    )  # fmt: skip
    data.setup(stage)
    return data


def keys(data: PoseCSV) -> list[str]:
    return [record.key for record in data.labelled]


def test_k_means_takes_one_picture_of_every_view(folder) -> None:
    data = make(folder, "kmeans")
    position = {record.key: number for number, record in enumerate(data._everything) if record.part == "train"}
    assert sorted(position[key] % 6 for key in keys(data)) == list(range(6))
    assert keys(make(folder, "kmeans")) == keys(data) and len(data.pool) == 18


def test_the_order_of_the_table_changes_nothing_for_k_means(folder, write_csv) -> None:
    rows = pose_rows(24, "train") + pose_rows(4, "val", 24) + pose_rows(5, "test", 28)
    turned = write_csv(rows[::-1], name="turned")
    assert keys(make(turned, "kmeans")) == keys(make(folder, "kmeans"))


def test_views_are_drawn_over_whole_viewpoints(write_csv) -> None:
    rows = [row | {"elevation_deg": 80 * (number % 2)} for number, row in enumerate(pose_rows(24, "train"))]
    folder = write_csv(rows + pose_rows(2, "test", 24))
    data = make(folder, "views")
    train = [record for record in data._everything if record.part == "train"]

    def drawn(mirror: bool) -> list[str]:
        chosen = draw_views(viewpoints(train), 6, 0, [record.group for record in train], mirror)
        return [train[index].key for index in chosen.tolist()]

    assert keys(data) == drawn(True) != keys(make(folder, "spread"))
    assert keys(make(folder, "views", mirror=False)) == drawn(False) != drawn(True)


def test_centres_are_found_whatever_the_scale_and_the_largest_cluster_comes_first() -> None:
    generator = torch.Generator().manual_seed(0)
    for dim in (3, 200):  # fewer and more than pictures
        view = torch.tensor([0] * 10 + [1] * 30 + [2] * 20)
        features = 5 * torch.eye(dim)[view] + 0.1 * torch.randn(60, dim, generator=generator)
        chosen = central(features, 3, seed=1)
        assert view[chosen].tolist() == [1, 2, 0] and central(features, 3, seed=1).equal(chosen)
        middle = features[10:40].mean(0)
        assert (features[chosen[0]] - middle).norm() == (features[10:40] - middle).norm(dim=1).amin()


def test_features_are_centred_by_group() -> None:
    features = torch.arange(40.0)[:, None]
    group = ["a"] * 16 + ["b"] * 16 + ["c"] * 4 + ["d"] * 4
    rows = centred(features, group)
    assert all(rows[part].mean() == 0 for part in (slice(0, 16), slice(16, 32), slice(32, 40)))
    assert rows[0] == rows[16] == -7.5 and rows[32] == -3.5


def test_random_labels_follow_the_seed(folder) -> None:
    first, again, other = (make(folder, "random", label_seed=seed) for seed in (0, 0, 1))
    assert keys(first) == keys(again) != keys(other) and len(set(keys(first))) == 6
    assert keys(first) != keys(make(folder, "spread"))


def test_a_list_is_a_list(folder, tmp_path) -> None:
    data = make(folder, "random")
    data.write_label_list(tmp_path / "labels.txt")
    assert keys(make(folder, f"manual:{tmp_path / 'labels.txt'}")) == keys(data)
    assert keys(make(folder, "spread", label_list=str(tmp_path / "labels.txt"))) == keys(data)


def test_kmeans_does_not_look_at_damaged_pictures(folder) -> None:
    (folder / "003.jpg").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="1 of 24 pictures that --data.anchors kmeans may choose are damaged"):
        data = make(folder, "kmeans")
    assert len(data.labelled) == 6 and "003.jpg" not in keys(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchors": "clever"}, "one of spread, views, random, kmeans, manual:FILE; got 'clever'"),
        ({"anchors": "manual:"}, "got 'manual:'"),
        ({"anchors": "kmeans", "label_list": "x.txt"}, "label_list fixes the labelled pictures"),
    ],
)
def test_senseless_choices_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        PoseCSV("anywhere", **settings)


def test_a_choice_without_labels_asks_for_them(write_csv) -> None:
    folder = write_csv(pose_rows(8, None, labelled=False) + pose_rows(2, "val", 8) + pose_rows(2, "test", 10))
    with pytest.raises(DataError, match=r"asks for the poses of 6 pictures that have none: .*Label them") as error:
        make(folder, "kmeans")
    asked = (folder / "tables" / "labels.txt").read_text().split()
    assert len(asked) == 6 and f"--data.anchors manual:{folder}/tables/labels.txt" in str(error.value)
    labelled = [row | {"azimuth_deg": 10, "elevation_deg": 0, "theta_deg": 0} if row["file"] in asked else row
                for row in pose_rows(8, None, labelled=False)]  # fmt: skip
    write_csv(labelled + pose_rows(2, "val", 8) + pose_rows(2, "test", 10))
    assert keys(make(folder, f"manual:{folder}/tables/labels.txt")) == asked
    data = PoseCSV(str(folder), anchors="kmeans", crop=SPEC)
    with pytest.raises(ConfigError, match="needs a method that describes pictures"):
        data.setup("fit")


def test_a_resumed_fit_chooses_nothing(folder) -> None:
    """Where the pictures that k-means asked for are the only ones with labels, another choice could not be trained."""
    fitted = make(folder, "kmeans")
    later = make(folder, "kmeans", resumed="last.ckpt", label_seed=3)
    assert later.labelled == []
    later.load_state_dict(fitted.state_dict())
    assert keys(later) == keys(fitted) and later.pool == fitted.pool


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_the_labels_of_a_checkpoint_are_taken_over_not_chosen_again(folder, stage) -> None:
    fitted = make(folder, "kmeans")
    later = make(folder, "kmeans", stage, label_seed=3)
    assert len(later.labelled) == (6 if stage == "fit" else 0) and keys(later) != keys(fitted)
    with pytest.raises(DataError, match="other labelled pictures"):
        make(folder, "kmeans", labels=5).load_state_dict(fitted.state_dict())
    later.load_state_dict(fitted.state_dict())
    assert keys(later) == keys(fitted) and later.pool == fitted.pool and later.test == fitted.test


@pytest.mark.parametrize("anchors", ["spread", "manual"])
def test_a_model_of_one_set_tested_on_another_has_the_labels_that_it_was_trained_with(
    write_csv, folder, tmp_path, anchors
) -> None:
    """Another set's pictures have other names, and its poses have taught nothing."""
    fitted = make(folder, "spread")
    fitted.write_label_list(tmp_path / "labels.txt")
    other = write_csv([row | {"azimuth_deg": 10.0} for row in pose_rows(5, "test", 40)])
    later = make(other, f"manual:{tmp_path / 'labels.txt'}" if anchors == "manual" else anchors, "test", labels=6)
    assert len(later.test) == 5 and later.labelled == []
    later.load_state_dict(fitted.state_dict())
    assert torch.equal(later.label_viewpoints, viewpoints(fitted.labelled)) and later.labelled == []
    state = fitted.state_dict()
    del state["labelled_viewpoint"]  # of a checkpoint of earlier versions
    later.load_state_dict(state)
    assert later.label_viewpoints.shape == (6, 3) and later.label_viewpoints.isnan().all()


def test_a_list_wins_over_the_way_that_a_data_sets_file_names(folder, tmp_path) -> None:
    data = make(folder, "random")
    data.write_label_list(tmp_path / "labels.txt")
    assert keys(make(folder, "views", label_list=str(tmp_path / "labels.txt"))) == keys(data)


def test_no_picture_that_taught_a_model_is_in_its_test(write_csv) -> None:
    """Without ``split`` another draw of labels (another seed, or rows labelled since) leaves the labelled ones over."""
    folder = write_csv(pose_rows(30, None) + pose_rows(30, None, 30, labelled=False))
    fitted = make(folder, "spread", label_seed=1)
    for stage in ("test", "validate"):
        later = make(folder, "spread", stage, label_seed=0)
        before = {record.key for record in (*later.val, *later.test)}
        assert before & set(keys(fitted))
        later.load_state_dict(fitted.state_dict())
        assert keys(later) == keys(fitted) and later.test == fitted.test and later.val == fitted.val
        assert torch.equal(later.label_viewpoints, viewpoints(fitted.labelled))
