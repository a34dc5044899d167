"""Sweeps over a stand-in for `nvsm fit`: what is run, what is kept, and what the table says."""

import csv
import sys

import pytest

from nvsm_lightning.bench import jobs
from nvsm_lightning.bench.sweep_file import Sweep
from nvsm_lightning.bench.trials import VALIDATION, run_sweep, samples, trial_name
from nvsm_lightning.errors import ConfigError, NVSMError

FIT = """
import json, sys
from pathlib import Path
words = sys.argv[2:]  # the first is the command
value = lambda name: next((word.split("=")[1] for word in words if word.startswith(f"--{name}=")), "0")
run = Path(words[words.index("--run_dir") + 1])
gate, share, seed = value("model.gate"), float(value("model.share")), int(value("seed_everything"))
if gate == "bad":
    sys.exit("nothing passed the gates")
count = run / "count.txt"
count.write_text(str(1 + int(count.read_text()) if count.exists() else 1))
accuracy = 100 * share + (10 if gate == "margin" else 0) + seed
last = 2 if "--short" not in words else 3
lines = ["epoch,em/kept,step,test/acc_pi_6,train/loss,val/acc_pi_6,val/med_err_deg", "0,,1,,3.0,,", "0,,1,,,99.5,1",
         ",0.25,2,,,,", f"2,,3,,,{accuracy},20", f"{last},,3,,2.0,,", f",,3,{100 - accuracy},,,"]
(run / "metrics.csv").write_text("\\n".join(lines))
(run / "config.yaml").write_text("{}")
(run / "results.json").write_text("{}")
"""
PARAMETERS = {
    "model.gate": {"distribution": "categorical", "values": ["margin", "product"]},
    "model.share": {"distribution": "categorical", "values": [0.2, 0.5]},
}


@pytest.fixture(autouse=True)
def fake_fit(tmp_path, monkeypatch):
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-S", str(script)))


def sweep_of(parameters=PARAMETERS, maximize=True, metric="val/acc_pi_6"):
    return Sweep("gates", "grid", parameters, ("--config", "a.yaml"), (), metric, maximize)


def table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_sorted_by_the_last_validation_value_of_each_fit(tmp_path, capsys):
    sweep = sweep_of()
    run_sweep(sweep, sweep.trials(), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [(row["model.gate"], row["model.share"], float(row["val/acc_pi_6"])) for row in rows] == [
        ("margin", "0.5", 60), ("product", "0.5", 50), ("margin", "0.2", 30), ("product", "0.2", 20),
    ]  # fmt: skip
    assert {row["em/kept"] for row in rows} == {"0.25"}
    assert (tmp_path / "out" / "fits" / rows[0]["folders"] / "results.json").is_file()
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert text.splitlines()[2].split(" | ")[:4] == ["| gate", "share", "runs", "ACC pi/6, %"]
    assert text.splitlines()[4].startswith("| margin | 0.5 | 1 | 60.0 | 20.0 | 25.0 |")
    assert "The test part was not looked at" in text and "not measured" not in text
    assert "Sweep gates" in capsys.readouterr().out


def test_every_fit_leaves_the_test_part_alone(tmp_path):
    sweep = sweep_of()
    for trial in sweep.trials():
        words = sweep.arguments(trial)
        assert words[:2] == ("--config", "a.yaml") and "--model.gate=" in words[2]
    run_sweep(sweep, sweep.trials(1), tmp_path, further=["--data.root", "X"])
    log = next((tmp_path / "fits").glob("*/log.txt")).read_text().splitlines()[0]
    assert f"--config a.yaml --data.root X --model.gate=margin --model.share=0.2 {' '.join(VALIDATION)}" in log


def test_the_same_command_goes_on_and_a_wider_file_costs_its_new_trials_only(tmp_path):
    narrow = sweep_of({**PARAMETERS, "model.share": {"distribution": "categorical", "values": [0.2]}})
    run_sweep(narrow, narrow.trials(), tmp_path)
    asked = []
    wide = sweep_of()
    for _ in range(2):
        run_sweep(wide, wide.trials(), tmp_path, check=asked.append)
    assert [path.read_text() for path in (tmp_path / "fits").glob("*/count.txt")] == ["1"] * 4
    assert len(asked) == 3  # parsed once, before the first fit: two gates at one share, and the other share


def test_seeds_of_one_trial_are_one_row_with_spread(tmp_path):
    seeds = {"seed_everything": {"distribution": "categorical", "values": [0, 2, 4]}}
    sweep = sweep_of({**PARAMETERS, **seeds})
    run_sweep(sweep, sweep.trials(), tmp_path, parallel=2)
    rows = table(tmp_path)
    assert len(rows) == 4 and "seed_everything" not in rows[0]
    assert (float(rows[0]["val/acc_pi_6"]), float(rows[0]["val/acc_pi_6_std"]), rows[0]["runs"]) == (62, 2, "3")
    assert "| 62.0 ± 2.0 |" in (tmp_path / "sweep.md").read_text()


def test_less_may_be_better(tmp_path):
    sweep = sweep_of(maximize=False)
    run_sweep(sweep, sweep.trials(), tmp_path)
    assert [float(row["val/acc_pi_6"]) for row in table(tmp_path)] == [20, 30, 50, 60]


def test_fits_that_fail_are_named_and_the_others_get_their_table(tmp_path):
    sweep = sweep_of({"model.gate": {"distribution": "categorical", "values": ["margin", "bad"]}})
    with pytest.raises(NVSMError, match=r"1 of 2 fits failed(.|\n)*nothing passed the gates"):
        run_sweep(sweep, sweep.trials(), tmp_path)
    assert [row["model.gate"] for row in table(tmp_path)] == ["margin"]
    assert "1 fits failed and are not in the table" in (tmp_path / "sweep.md").read_text()


def test_a_metric_of_an_earlier_epoch_is_told(tmp_path):
    sweep = sweep_of()
    run_sweep(sweep, sweep.trials(2), tmp_path, further=["--short"])
    assert "2 fits were not measured after their last epoch" in (tmp_path / "sweep.md").read_text()


def test_a_metric_that_no_fit_logs(tmp_path):
    sweep = sweep_of(metric="val/accuracy")
    with pytest.raises(ConfigError, match=r"holds no val/accuracy; .* val/acc_pi_6, val/med_err_deg"):
        run_sweep(sweep, sweep.trials(1), tmp_path)


def test_what_is_swept_cannot_be_set_as_well(tmp_path):
    sweep = sweep_of()
    with pytest.raises(ConfigError, match=r"--model\.gate is swept"):
        run_sweep(sweep, sweep.trials(), tmp_path, further=["--model.gate=margin"])


def test_names_of_trials_differ_and_can_be_folders():
    values = [0.1, "0.1", "a/b", "a b", [1, 2], None, "x" * 200]
    names = [trial_name({"model.x": value}) for value in values]
    assert len(set(names)) == len(values)
    assert all(len(name) < 100 and not set(name) & set("/ []'\"") for name in names)


def test_samples_hold_every_value_once():
    sweep = sweep_of()
    words = [word for one in samples(sweep, sweep.trials(), ()) for word in one]
    assert {word for word in words if word.startswith("--model")} == {
        "--model.gate=margin", "--model.gate=product", "--model.share=0.2", "--model.share=0.5",
    }  # fmt: skip
