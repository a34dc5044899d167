import csv
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger

from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.geometry.cameras import mirror_camera
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.matching.calibration import calibrate
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.matching.pseudo import PseudoLabels
from nvsm_lightning.matching.selection import SelectionSettings, gate_rank
from nvsm_lightning.methods import NVSM, NeMo
from nvsm_lightning.methods.neural_mesh import BankSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.averaging import MovingAverage
from nvsm_lightning.training.schedule import EMSchedule

EM = EMSchedule(rounds=2, epochs_per_round=1)


def same(one: LightningModule, other: LightningModule) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_rounds_it_is_nemo_bit_for_bit(make_method, make_data, make_trainer) -> None:
    methods = {kind: make_method(kind) for kind in (NeMo, NVSM)}
    start = {name: value.clone() for name, value in methods[NeMo].state_dict().items()}
    for method in methods.values():
        make_trainer(EMSchedule(rounds=0)).fit(method, make_data())
    assert same(methods[NeMo], methods[NVSM])
    after = methods[NeMo].state_dict()
    assert not any(torch.equal(start[name], after[name]) for name in start if name.endswith("weight"))


def test_rounds_label_the_pool_and_train_on_it(make_method, make_data, make_trainer, tmp_path, azimuths) -> None:
    method, data = make_method(), make_data()
    make_trainer(EM).fit(method, data)
    index, viewpoint, weight = data.pseudo_labels
    assert data.round == 1 and len(index) >= 6 and viewpoint.isfinite().all() and (weight == 1).all()
    for round in range(2):
        with (tmp_path / "tables" / f"matches_round_{round:02d}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows and all(int(row["round"]) == round and 0 <= int(row["anchor"]) < 8 for row in rows)
        for row in rows:  # the error that is told is that of the pose that is told
            told = torch.tensor([float(row[f"{name}_deg"]) for name in ("azimuth", "elevation", "theta")])
            truth = torch.tensor([azimuths[int(row["key"][:2])], 10.0, 0.0])
            error = viewpoint_error(told.deg2rad(), truth.deg2rad()).rad2deg()
            assert float(row["error_deg"]) == pytest.approx(error.item(), abs=0.1)
    assert [rows[k]["key"] for k in range(len(rows))] == [data.pool[int(k)].key for k in index]


def test_a_round_may_look_at_a_part_of_the_pool(make_method, make_data, make_trainer, tmp_path) -> None:
    method, data = make_method(), make_data()
    looked = []
    keep = type(method).finish_matching

    class Watching(NVSM):
        def finish_matching(self, round, rows, data) -> None:
            looked.append(rows.isfinite().all(1).nonzero()[:, 0].tolist())
            keep(self, round, rows, data)

    method.__class__ = Watching
    schedule, logger = EMSchedule(rounds=2, epochs_per_round=1, pool_per_round=5), CSVLogger(tmp_path)
    make_trainer(schedule, logger=logger).fit(method, data)
    assert [len(part) for part in looked] == [5, 5] and sorted(looked[0] + looked[1]) == list(range(10))
    assert set(data.pseudo_labels[0].tolist()) <= set(looked[-1])
    with Path(logger.log_dir, "metrics.csv").open(newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["em/round"]]
    assert float(logged[-1]["em/kept"]) == len(data.pseudo_labels[0]) / 5
    rows = list(csv.DictReader((tmp_path / "tables" / "matches_round_01.csv").read_text().splitlines()))
    turned = [float(row["error_deg"]) > 150 for row in rows]
    assert float(logged[-1]["em/flip_180"]) == pytest.approx(sum(turned) / len(turned))


def test_what_was_found_for_the_whole_pool_stays_for_reports(make_method, make_data, make_trainer) -> None:
    method, data = make_method(), make_data()
    make_trainer(EM).fit(method, data)
    index, viewpoint, _ = data.pseudo_labels
    matches = method.matches
    assert {name: tuple(value.shape) for name, value in matches.items()} == {
        "viewpoint": (10, 3), "score": (10,), "margin": (10,), "rank": (10,), "kept": (10,),
    }  # fmt: skip
    assert matches["kept"].nonzero()[:, 0].tolist() == index.tolist() and 0 < len(index) < 10
    assert torch.equal(matches["viewpoint"][matches["kept"]], viewpoint)
    assert torch.equal(matches["rank"], gate_rank(matches["score"], matches["margin"], "product"))


def test_a_rounds_share_bounds_its_labels(make_method, make_data, make_trainer) -> None:
    gates = SelectionSettings(ring_deg=180.0, first_share=0.3, last_share=0.6, bin_floor=0.0, min_score=-10.0)
    data = make_data()
    make_trainer(EM).fit(make_method(selection=gates), data)
    assert len(data.pseudo_labels[0]) == 6  # of ten


CHOICES = {  # of the E-step, most options at once in the last
    "bank": (MatchSettings(steps=2), {}, {}),
    "anchors": (MatchSettings(source="anchors", steps=2), {}, {}),
    "all": (
        MatchSettings("bank", steps=2, mirror=True, calibration="robust", calibration_rounds=1,
                      later_calibration="balanced", final_calibration="robust"),
        {"agree_deg": 100.0, "weight": "soft", "gate": "ranks", "score_quantile": 0.1},
        {"restarts": [1], "pool_per_round": 9},
    ),
}  # fmt: skip


@pytest.mark.parametrize("choices", CHOICES)
def test_the_hidden_truth_of_the_pool_changes_nothing(
    make_method, make_data, make_trainer, folder, write_table, tmp_path, azimuths, choices
) -> None:
    methods, labels = [], []
    match, gates, em = CHOICES[choices]
    schedule = EMSchedule(rounds=2, epochs_per_round=1, **em)
    for name, shift in (("true", 0), ("shuffled", 3)):
        root = tmp_path / name
        shutil.copytree(folder, root)
        hidden = [k for k in range(14) if f"{k:02d}.png" not in (folder / "labelled.txt").read_text()]
        shuffled = list(azimuths)
        for position, k in enumerate(hidden):
            shuffled[k] = azimuths[hidden[(position + shift) % len(hidden)]]
        write_table(root, shuffled)
        selection = SelectionSettings(ring_deg=180.0, min_score=-1.0, **gates)
        method, data = make_method(match=match, selection=selection), make_data(root)
        make_trainer(schedule, 3).fit(method, data)
        methods.append(method)
        labels.append(data)
    assert not torch.equal(labels[0].pool_truth(), labels[1].pool_truth())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*(data.pseudo_labels for data in labels), strict=True))
    assert len(labels[0].pseudo_labels[0]) > 0 and same(*methods)
    if choices == "all":
        assert torch.equal(*(method.model.null for method in methods))
        assert len(labels[0].pseudo_labels[2].unique()) > 1  # soft weights reach the training set


@pytest.mark.parametrize("calibration", ["none", "zscore"])
def test_a_pose_on_which_the_two_sources_disagree_is_no_label(
    make_method, make_data, make_trainer, calibration
) -> None:
    """Both by their calibrated losses: what is asked about is the pose that would be the label."""
    settings = {"ring_deg": 180.0, "min_score": -10.0, "first_share": 1.0, "last_share": 1.0}
    counts = {}
    for degrees in (0.0, 31.0, 180.0):
        gates = SelectionSettings(agree_deg=degrees, **settings)
        match = MatchSettings("bank", steps=0, calibration=calibration)
        method, data = make_method(match=match, selection=gates), make_data()
        rows = []
        finish = method.finish_matching
        method.finish_matching = lambda round, found, data, finish=finish, rows=rows: (
            rows.append(found), finish(round, found, data)
        )  # fmt: skip
        make_trainer(EMSchedule(1, 1), 1).fit(method, data)
        counts[degrees] = len(data.pseudo_labels[0])
    apart = torch.arange(12)[:, None].sub(torch.arange(12)).abs().float()
    own, other = (calibrate(each, apart, calibration, 0.0).argmin(1) for each in (rows[0][:, :12], rows[0][:, 18:]))
    turn = (own - other).abs().remainder(12)  # of twelve azimuths
    agree = torch.minimum(turn, 12 - turn) <= 1
    assert counts[0.0] == counts[180.0] == 10 and counts[31.0] == int(agree.sum()) and 0 < counts[31.0] < 10


def test_mirror_consistent_scores_are_those_of_the_picture_and_of_its_mirror_image(
    make_method, make_data, make_trainer
) -> None:
    """Of the pose and of the mirrored pose, in equal parts: turning the picture round changes nothing but the side."""
    method, data = make_method(match=MatchSettings("bank", mirror=True, steps=0)), make_data()
    make_trainer(EMSchedule(1, 1), 1).fit(method, data)
    method.eval()
    batch = next(iter(data.pool_dataloader()))
    turned = batch | {"image": batch["image"].flip(-1), "camera": mirror_camera(batch["camera"], 96)}
    with torch.no_grad():
        own, other = (method.match(each)[:, :12] for each in (batch, turned))
        method.mirrored = False
        alone = method.match(batch)[:, :12]
    twin = (-torch.arange(12)) % 12  # azimuth a and -a
    torch.testing.assert_close(own, other[:, twin], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(own, alone, atol=1e-3)


def test_matching_with_labelled_pictures_finds_poses_around_them(
    make_method, make_data, make_trainer, azimuths
) -> None:
    """With anchors a pose of the pool lies within the ring of a labelled picture or its mirror image, or is skipped."""
    gates = SelectionSettings(ring_deg=180.0, first_share=1.0, last_share=1.0, min_score=-10.0)
    method, data = (
        make_method(match=MatchSettings("anchors", anchor_ring_deg=40.0, steps=0), selection=gates),
        make_data(),
    )
    make_trainer(EMSchedule(1, 1), 1).fit(method, data)
    index, viewpoint, _ = data.pseudo_labels
    anchors = method.anchor_viewpoints
    turn = torch.rad2deg((viewpoint[:, None, 0] - anchors[None, :, 0]).abs())
    assert len(index) == 10 and (torch.minimum(turn, 360 - turn).amin(1) <= 40.5).all()


@pytest.mark.parametrize(("settings", "agree"), [({"source": "anchors", "engine": "products"}, 0.0), ({}, 60.0)])
def test_a_ring_around_the_anchors_that_holds_no_pose_is_refused(
    make_method, make_data, make_trainer, settings, agree
) -> None:
    gates = SelectionSettings(agree_deg=agree)
    above = PoseSpace(12, [40.0], [0.0])  # the labelled poses lie at 10
    method = make_method(match=MatchSettings(anchor_ring_deg=3.0, **settings), selection=gates, space=above)
    with pytest.raises(ConfigError, match=r"anchor_ring_deg 3\.0: no pose of the grid"):
        make_trainer(EMSchedule(1, 1), 1).fit(method, make_data())


def test_a_picture_that_no_anchor_reaches_agrees_with_nothing(make_method, make_data, make_trainer) -> None:
    """Its second source has no finite loss, which is not the first pose of the grid."""
    method = make_method(selection=SelectionSettings(agree_deg=179.0, ring_deg=180.0, min_score=-10.0, last_share=1.0))
    match = method.match

    def unreached(batch):
        rows = match(batch)
        rows[::2, -len(method.model.space.grid()) :] = torch.inf
        return rows

    method.match, data = unreached, make_data()
    make_trainer(EMSchedule(1, 1), 1).fit(method, data)
    batch = len(next(iter(data.pool_dataloader()))["index"])
    kept = set(data.pseudo_labels[0].tolist())
    assert kept and not any(index % batch % 2 == 0 for index in kept)


def test_a_round_whose_rings_are_too_narrow_is_passed_over(make_method, make_data, make_trainer) -> None:
    gates = SelectionSettings(ring_deg=10.0, min_score=-1.0)
    above = PoseSpace(12, [40.0], [0.0])  # the labelled poses lie at 10
    with (
        pytest.warns(UserWarning, match="Round 1: no picture of the pool of 10 passed.*The next one looks further"),
        pytest.raises(DataError, match="Round 2: no picture"),
    ):
        make_trainer(EM).fit(make_method(selection=gates, space=above, match=MatchSettings(steps=0)), make_data())


def test_a_pool_that_passes_no_gate_ends_the_fit(make_method, make_data, make_trainer) -> None:
    method = make_method(selection=SelectionSettings(min_score=2.0))
    with pytest.raises(DataError, match=r"Round 1: no picture of the pool of 10 passed the gates.*ring_deg, min_score"):
        make_trainer(EM).fit(method, make_data())


def test_a_later_round_in_which_nothing_passes_leaves_the_labels_of_the_one_before(
    make_method, make_data, make_trainer
) -> None:
    method, data, seen = make_method(), make_data(), []
    finish, refill = method.finish_matching, method.refill_bank

    def strict(number, rows, data) -> None:
        method.selection.min_score = -2.0 if number == 0 else 2.0
        finish(number, rows, data)

    method.finish_matching = strict
    method.refill_bank = lambda data: (seen.append((data.round, data.pseudo_labels)), refill(data))
    with pytest.warns(UserWarning, match=r"Round 2: no picture .* pseudo labels of the round before stay"):
        make_trainer(EM).fit(method, data)
    (first, before), (second, after) = seen
    assert (first, second) == (0, 1) and len(before[0])
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_damaged_pool_pictures_are_skipped_and_not_counted(
    make_method, make_data, make_trainer, folder, tmp_path, caplog
) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(folder, root)
    (root / "05.png").write_bytes((root / "05.png").read_bytes()[:200])
    gates = SelectionSettings(ring_deg=180.0, first_share=1.0, last_share=1.0, min_score=-10.0)
    method, data = make_method(selection=gates), make_data(root)
    taken = []
    method.finish_matching = lambda round, rows, data: (
        taken.append(rows),
        NVSM.finish_matching(method, round, rows, data),
    )
    with pytest.warns(UserWarning, match="1 of 10 pool pictures are damaged"):
        make_trainer(EMSchedule(1, 1), 1).fit(method, data)
    gone = [record.key for record in data.pool].index("05.png")
    assert taken[0][gone].isnan().all() and taken[0].isfinite().all(1).sum() == 9
    assert gone not in data.pseudo_labels[0].tolist() and len(data.pseudo_labels[0]) == 9
    assert "(all 9 that were matched: " in caplog.text


def test_reports_leave_skipped_pictures_out(make_method, make_data, make_trainer, azimuths) -> None:
    class Numbers:
        def log_metrics(self, numbers, step) -> None:
            self.numbers = numbers

    method, data, trainer, log = make_method(), make_data(), make_trainer(EM), Numbers()
    trainer.fit(method, data)
    truth = data.pool_truth()
    five = torch.arange(5)
    labels = PseudoLabels(1, five, truth[:5], torch.ones(5), torch.ones(5), five)
    viewpoint = truth.clone()
    viewpoint[5:] = torch.nan  # half of the pool could not be read
    trainer._loggers = [log]
    method._report(labels, viewpoint, data)
    assert log.numbers["em/precision_10"] == log.numbers["em/pool_acc_10"] == log.numbers["em/pool_acc_30"] == 1


def test_a_restart_forgets_all_but_the_pseudo_labels(make_method, make_data, make_trainer) -> None:
    method, data, seen = make_method(), make_data(), []
    start = {name: value.clone() for name, value in method.model.backbone.named_parameters()}
    step = method.training_step

    def watched(batch, batch_idx):
        if batch_idx == 0:
            moments = sum(len(optimizer.state) for optimizer in method.trainer.optimizers)
            weights = dict(method.model.backbone.named_parameters())
            seen.append((all(torch.equal(start[name], weights[name]) for name in start), moments > 0, data.round))
        return step(batch, batch_idx)

    method.training_step = watched
    make_trainer(EMSchedule(rounds=3, epochs_per_round=1, restarts=[-2]), 3).fit(method, data)
    assert seen == [(True, False, 0), (True, False, 1), (False, True, 2)]


def test_after_a_restart_features_are_centred_and_the_bank_is_of_the_present_labels(
    make_method, make_data, make_trainer
) -> None:
    method, sizes, centres = make_method(), [], []
    fill, step = method.fill_bank, method.training_step
    method.fill_bank = lambda loader: (sizes.append(len(loader.dataset)), fill(loader))

    def watched(batch, batch_idx):
        if batch_idx == 0:
            centres.append(method.model.backbone.center.clone())
        return step(batch, batch_idx)

    method.training_step = watched
    make_trainer(EMSchedule(2, 1, restarts=[-1]), 2).fit(method, make_data())
    # begun; first round; second round; begun again (eight labelled pictures and their mirror images), with its labels
    assert [size > 8 for size in sizes] == [False, True, True, False, True]
    assert centres[1].norm() > 0.1 and torch.equal(*centres)


def test_a_resumed_fit_restarts_from_the_weights_that_the_first_one_began_with(
    make_method, make_data, make_trainer, checkpointed, tmp_path
) -> None:
    """Whatever it is given itself, and the finished checkpoint is no larger for it."""
    em, last = EMSchedule(rounds=3, epochs_per_round=1, restarts=[1]), str(tmp_path / "last.ckpt")
    method, resumed = make_method(), make_method()
    start = {name: value.clone() for name, value in method.model.state_dict().items()}
    make_trainer(EMSchedule(rounds=1, epochs_per_round=1), 1).fit(resumed, make_data())  # other weights
    assert not all(torch.equal(start[name], value) for name, value in resumed.model.state_dict().items())
    trainer = make_trainer(em, 4, **checkpointed(tmp_path))
    trainer.fit_loop.max_epochs = 1  # as if it had been stopped there
    trainer.fit(method, make_data())
    assert "beginning" in torch.load(last)
    make_trainer(em, 4, **checkpointed(tmp_path)).fit(resumed, make_data(), ckpt_path=last)
    assert all(torch.equal(start[name], value) for name, value in resumed.beginning.items())
    assert "beginning" not in torch.load(last)


@pytest.mark.parametrize("crash", [(1, 1), (2, 0)])
def test_resuming_inside_the_rounds_is_exact(
    make_method, make_data, make_trainer, checkpointed, tmp_path, crash
) -> None:
    em = EMSchedule(rounds=2, epochs_per_round=2)
    whole, killed, resumed = make_method(), make_method(), make_method()
    make_trainer(em, 4).fit(whole, make_data())
    step, crashed = killed.training_step, []

    def crashing(batch, batch_idx):
        if (killed.current_epoch, batch_idx) == crash:
            crashed.append(crash)
            raise KeyboardInterrupt
        return step(batch, batch_idx)

    killed.training_step = crashing
    with pytest.raises(SystemExit):
        make_trainer(em, 4, **checkpointed(tmp_path / "c")).fit(killed, make_data())
    assert crashed == [crash]
    data = make_data()
    make_trainer(em, 4, **checkpointed(tmp_path / "c")).fit(resumed, data, ckpt_path=str(tmp_path / "c" / "last.ckpt"))
    assert same(whole, resumed)


class Recorded(NVSM):
    """Writes its weights at the end of the fit, and what is taken off its estimates."""

    def on_fit_end(self) -> None:
        file = Path(self.trainer.default_root_dir) / f"{self.trainer.world_size}_{self.global_rank}.pt"
        torch.save({**self.state_dict(), "null": self.model.null}, file)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "averaged"), [("32-true", False), ("bf16-mixed", False), ("bf16-mixed", True)])
def test_two_processes_train_the_model_that_one_trains(
    make_method, make_data, make_trainer, tmp_path, precision, averaged
) -> None:
    """To the last bit: anything less, two rounds of Adam and matching would turn into other pseudo labels."""
    backbone = BackboneSpec(name="small", dim=16, frozen=[], chunk=2)
    match = MatchSettings(final_calibration="balanced")
    for world, strategy in ((1, "auto"), (2, "ddp_spawn")):
        options = {"devices": world, "strategy": strategy, "num_sanity_val_steps": 0, "precision": precision}
        options["callbacks"] = [MovingAverage(0.8)] if averaged else []
        trainer = make_trainer(EMSchedule(2, 2, restarts=[1]), 4, **options)
        trainer.fit(make_method(Recorded, backbone=backbone, match=match), make_data(batch_size=4 // world))
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    start = make_method(backbone=backbone).state_dict()
    assert not all(torch.equal(value, alone[name]) for name, value in start.items())
    assert alone["null"].abs().amax() > 0
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], value), name


@pytest.mark.parametrize(("refill", "passes"), [("each_round", 3), ("once", 1)])
def test_the_bank_is_refilled_after_each_e_step_or_once(make_method, make_data, make_trainer, refill, passes) -> None:
    method, sizes = make_method(bank=BankSettings(clutter_size=64, refill=refill)), []
    fill = method.fill_bank
    method.fill_bank = lambda loader: (sizes.append(len(loader.dataset)), fill(loader))
    make_trainer(EM).fit(method, make_data())
    assert len(sizes) == passes and sizes[0] == 8 and all(size > 8 for size in sizes[1:])  # labelled pictures first
