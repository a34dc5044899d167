import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from nvsm_lightning.geometry.cameras import canonical_camera
from nvsm_lightning.geometry.meshes import cuboid
from nvsm_lightning.report import em_panels
from nvsm_lightning.report.em_panels import EMPanels
from nvsm_lightning.report.em_plots import BINS, confusion, round_numbers

POOL = 12
GATES = ["round_00_features", "round_00_gates", "round_00_matches"]


class Pictures(torch.utils.data.Dataset):
    """Picture k is as bright as k tells."""

    def __len__(self) -> int:
        return POOL

    def __getitem__(self, index: int) -> dict:
        return {"image": torch.full((3, 32, 64), index / POOL), "camera": canonical_camera(32, 64, 40.0)}


class Recorder:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.pictures = []

    def log_image(self, key, images, step):
        self.pictures.append((key, images[0].rsplit("/", 1)[1], step))


class Method(torch.nn.Module):
    """Maps pictures to eight features and has matched the pool: picture 3 was skipped, even ones were kept."""

    device = torch.device("cpu")

    def __init__(self, kept=range(0, POOL, 2)):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 8, 8, 8)
        self.mesh = cuboid((-0.2, -0.4, -0.1), (0.2, 0.4, 0.1), 50)
        viewpoint = torch.zeros(POOL, 3)
        viewpoint[:, 0] = torch.linspace(0, 6, POOL)
        score = torch.linspace(0.1, 0.9, POOL)
        viewpoint[3], score[3] = torch.nan, torch.nan
        mask = torch.zeros(POOL, dtype=torch.bool).index_fill(0, torch.tensor(kept, dtype=torch.long), True)
        self.matches = {"viewpoint": viewpoint, "score": score, "margin": score / 10, "rank": score**2, "kept": mask}

    def forward(self, image):
        return torch.nn.functional.normalize(self.net(image), dim=1)


def draw(folder, truth, method=None, rank_zero=True, loggers=None, **settings):
    """Let the callback see one E-step; returns the names of the files in media/, the callback and the logger."""
    data = SimpleNamespace(
        pool_truth=lambda: truth,
        pool_dataloader=lambda: SimpleNamespace(dataset=torch.utils.data.Subset(Pictures(), range(POOL))),
    )
    loggers = [Recorder(), SimpleNamespace()] if loggers is None else loggers
    trainer = SimpleNamespace(
        datamodule=data, default_root_dir=str(folder), is_global_zero=rank_zero, loggers=loggers, global_step=7,
        em=SimpleNamespace(rounds=3),
    )  # fmt: skip
    panels = EMPanels(**({"matches": 2, "maps": 3, "width": 64} | settings))
    with torch.no_grad():
        panels.on_e_step_end(trainer, method or Method(), 0)
    return sorted(path.stem for path in (folder / "media").glob("*.png")), panels, loggers


def test_every_panel_is_written_and_handed_to_the_loggers_that_take_pictures(tmp_path):
    truth = Method().matches["viewpoint"] + torch.tensor([0.1, 0, 0])
    truth[3] = 0.0
    names, panels, loggers = draw(tmp_path, truth)
    assert names == sorted([*GATES, "round_00_azimuth"])
    assert sorted(loggers[0].pictures) == [(f"em/{name[9:]}", f"{name}.png", 7) for name in names]
    assert panels.rounds[0] == {
        "seen": 11, "kept": 6 / 11, "count": 6, "precision_10": 1.0, "precision_30": 1.0, "flip_180": 0.0
    }  # fmt: skip


def test_without_a_known_truth_nothing_is_said_of_precision(tmp_path):
    names, panels, _ = draw(tmp_path, torch.full((POOL, 3), torch.nan), loggers=[])
    assert names == GATES
    assert set(panels.rounds[0]) == {"seen", "kept", "count"}


def test_where_only_azimuths_are_measured_only_they_are_compared(tmp_path):
    truth = Method().matches["viewpoint"].nan_to_num() + torch.tensor([0.0, 1.0, 1.0])
    azimuths = torch.cat((truth[:, :1], torch.full_like(truth[:, 1:], torch.nan)), 1)
    shares = [draw(tmp_path, known)[1].rounds[0]["precision_30"] for known in (truth, azimuths)]
    assert shares == [0.0, 1.0]


@pytest.mark.parametrize(
    ("rank_zero", "settings", "expected"),
    [
        (False, {}, []),
        (True, {"enabled": False}, []),
        (True, {"matches": 0, "maps": 0}, ["round_00_gates"]),
    ],
)
def test_switches(tmp_path, rank_zero, settings, expected):
    assert draw(tmp_path, torch.full((POOL, 3), torch.nan), None, rank_zero, **settings)[0] == expected


def test_a_method_that_keeps_no_matches_is_left_alone(tmp_path):
    method = Method()
    del method.matches
    assert draw(tmp_path, torch.zeros(POOL, 3), method)[0] == []


def test_the_gallery_shows_the_best_and_the_worst_of_those_kept(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(em_panels, "captioned", lambda picture, lines: shown.append(lines) or picture)
    truth = torch.zeros(POOL, 3)
    draw(tmp_path, truth, Method(kept=[1, 4, 9, 11]), matches=1)
    scores = Method().matches["score"]
    assert [lines[0].split(",")[0] for lines in shown] == [
        f"{name}: score {scores[k]:.3f}" for name, k in (("best", 11), ("median", 9), ("worst kept", 1))
    ]
    assert shown[0][1] == "azimuth 344, error 16 degrees"  # 6 radians against 0


def test_one_kept_picture_and_a_pool_of_one_kind_can_be_drawn(tmp_path):
    method = Method(kept=[5])
    method.matches["score"][:], method.matches["margin"][:] = 0.5, 0.0
    assert draw(tmp_path, torch.zeros(POOL, 3), method)[0] == sorted([*GATES, "round_00_azimuth"])
    with Image.open(tmp_path / "media" / "round_00_gates.png") as picture:
        assert picture.size == (1300, 380)


def test_earlier_rounds_survive_a_resume():
    before, after = EMPanels(), EMPanels()
    before.rounds = {0: {"kept": 0.5}}
    after.load_state_dict(before.state_dict())
    assert after.rounds == before.rounds


def test_confusion_counts_by_bin_and_the_first_bin_lies_around_the_front():
    degrees = torch.tensor([[359.0, 2.0], [90.0, 270.0], [181.0, 180.0]]).deg2rad()
    counts = confusion(degrees[:, 0], degrees[:, 1])
    assert counts.sum() == 3
    assert counts[0, 0] == counts[BINS // 4, 3 * BINS // 4] == counts[BINS // 2, BINS // 2] == 1


def test_numbers_of_a_round_leave_out_what_is_unknown_or_not_kept():
    error = torch.tensor([5.0, 20.0, 170.0, math.nan, 100.0]).deg2rad()
    kept = torch.tensor([True, True, True, True, False])
    numbers = round_numbers(kept, error, torch.tensor([1.0, 1.0, 1.0, 1.0, math.nan]))
    assert (numbers["seen"], numbers["count"], numbers["kept"]) == (4, 4, 1.0)  # of those that were matched
    assert numbers["precision_10"] == numbers["flip_180"] == pytest.approx(1 / 3)
    assert numbers["precision_30"] == pytest.approx(2 / 3)
