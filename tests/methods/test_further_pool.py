"""Fits whose pool has pictures of another data set."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from nvsm_lightning.data import PoseCSV
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.methods.nvsm import by_source
from nvsm_lightning.training.schedule import EMSchedule

EM = EMSchedule(rounds=2, epochs_per_round=1)
OPEN = SelectionSettings(ring_deg=180.0, first_share=1.0, last_share=1.0, min_score=-10.0)


@pytest.fixture
def other(folder, write_table, azimuths, tmp_path):
    """``other(shift)``: the same pictures as another data set, whose truth is moved on by ``shift`` pictures."""

    def make(shift: int = 0):
        root = tmp_path / f"other_{shift}"
        if not root.is_dir():
            shutil.copytree(folder, root)
            write_table(root, azimuths[shift:] + azimuths[:shift])
        return PoseCSV(str(root))

    return make


@pytest.mark.slow
def test_its_truth_changes_nothing_but_the_reports(make_method, make_data, make_trainer, other, tmp_path) -> None:
    runs = []
    for shift in (0, 5):
        method, data = make_method(selection=OPEN), make_data(extra_pool=[other(shift)])
        make_trainer(EM, default_root_dir=tmp_path / f"run_{shift}").fit(method, data)
        rows = list(csv.DictReader((tmp_path / f"run_{shift}" / "tables" / "matches_round_01.csv").open()))
        runs.append((method, data, rows))
    (first, data, rows), (second, _, moved) = runs
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    marked = [row["key"].startswith("csv:") for row in rows]
    assert len(rows) == 24 and sum(marked) == 14 and len(data.pool) == 24
    errors = [(row["error_deg"], other["error_deg"]) for row, other in zip(rows, moved, strict=True)]
    assert all((one != two) == mark for (one, two), mark in zip(errors, marked, strict=True))


@pytest.mark.slow
def test_it_may_join_in_the_last_round(make_method, make_data, make_trainer, other, tmp_path, monkeypatch) -> None:
    """Rounds before are those of the own pool alone; the last one and the end of the fit look at both."""
    runs, told = {}, []
    monkeypatch.setattr("nvsm_lightning.methods.nvsm.rank_zero_info", told.append)
    for name, sources, start in (("own", [], 0), ("last", [other()], -1)):
        method = make_method(selection=OPEN, match=MatchSettings(final_calibration="balanced"))
        trainer = make_trainer(replace(EM, extra_pool_from=start), 3, default_root_dir=tmp_path / name)
        seen, take = [], method.finish_matching
        method.finish_matching = lambda *what, seen=seen, take=take: (seen.append(what[1]), take(*what))
        trainer.fit(method, make_data(extra_pool=sources))
        runs[name] = (method, seen, [len(read(tmp_path / name, round)) for round in range(2)])
    (own, rows, kept), (last, joint, more) = runs["own"], runs["last"]
    assert kept == [10, 10] and more == [10, 24]
    assert torch.equal(joint[0][:10], rows[0]) and joint[0][10:].isnan().all() and joint[1].isfinite().all()
    assert not torch.equal(own.model.null, last.model.null)
    assert ["of csv" in line for line in told] == [False, False, False, True]  # nothing of pictures not looked at


def read(run: Path, round: int) -> list[dict[str, str]]:
    """The pseudo labels that a round has written down."""
    with (run / "tables" / f"matches_round_{round:02d}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_an_interrupted_fit_goes_on_to_the_same_weights(make_method, make_data, make_trainer, other, tmp_path) -> None:
    whole, resumed = make_method(selection=OPEN), make_method(selection=OPEN)
    first = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True)
    make_trainer(EM, enable_checkpointing=True, callbacks=[first]).fit(whole, make_data(extra_pool=[other()]))
    make_trainer(EM).fit(resumed, make_data(extra_pool=[other()]), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


def test_kept_share_and_precision_by_source() -> None:
    source = ["", "a", "b", "a", "c", "a", "a"]
    error = torch.tensor([1.0, 2.0, 3.0, 170.0, torch.nan])
    found = by_source(source, torch.tensor([0, 1, 2, 3, 5]), error)
    assert found["a"] == (0.75, 0.5) and found["b"] == (1.0, 1.0) and found["c"][0] == 0 and len(found) == 3
    assert by_source([""], torch.tensor([0]), torch.zeros(1)) == {}
