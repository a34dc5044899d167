"""The few-shot bench over stand-in fits, and once over real ones."""

import argparse
import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from nvsm_lightning.bench import ablation, few_shot, study
from nvsm_lightning.bench.published import published
from nvsm_lightning.bench.sheets import Line, Sheet
from nvsm_lightning.bench.study import read_folds, read_variants
from nvsm_lightning.cli import bench, lightning_cli
from nvsm_lightning.cli.main import main
from nvsm_lightning.errors import ConfigError
from nvsm_lightning.toy.dataset import make_toy

sys.path.insert(0, str(Path(__file__).parent))
from fake_runs import fake_fit  # noqa: F401

WORDS = ["--labels", "7", "--seeds", "2", "--config", "configs/car_7shot.yaml", "--data.root", "somewhere"]


@pytest.fixture(autouse=True)
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


def rows_of(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_bench_writes_every_form_of_its_tables_and_a_second_call_fits_nothing(fake_fit, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    words = [*WORDS, "--folds", "configs/folds/epfl_cars.yaml", "--parallel", "2", "--out", str(out)]
    assert few_shot.run(words) == 0
    rows = rows_of(out / "table.csv")
    kinds = [row["kind"] for row in rows]
    assert kinds == ["method"] * 2 + ["difference"] + ["guess"] * 2 + ["published"] * 5
    nemo, nvsm, difference, prior, *_ = rows
    assert [row["method"] for row in rows[:3]] == ["nemo", "nvsm", "nvsm − nemo"]
    assert nemo["pictures"] == "400", "ten cars, those of two folds once"
    gain = float(nvsm["acc_pi_6_mean"]) - float(nemo["acc_pi_6_mean"])
    assert float(difference["acc_pi_6_mean"]) == pytest.approx(gain, abs=1e-3)
    assert float(prior["acc_pi_6_mean"]) == pytest.approx(17.0)  # 16.5 and 17.5
    assert float(prior["flip_180_rate_mean"]) == pytest.approx(16.0)
    assert all("published, PASCAL3D+ (not comparable)" == row["data"] for row in rows if row["kind"] == "published")
    draws = rows_of(out / "draws.csv")
    assert [(row["method"], row["seed"]) for row in draws] == [
        ("nemo", "0"),
        ("nemo", "1"),
        ("nvsm", "0"),
        ("nvsm", "1"),
    ]

    objects = [row for row in rows_of(out / "by_object.csv") if row["metric"] == "flip_180_rate"]
    own = [row for row in objects if row["method"] == "nvsm" and row["part"] != "mean"]
    assert [row["part"] for row in own] == ["fully visible", "largely occluded", "partly occluded"]
    weighed = sum(float(row["mean"]) * int(row["pictures"]) for row in own) / 400
    assert weighed == pytest.approx(float(nvsm["flip_180_rate_mean"]), abs=1e-3)
    assert "| >150 deg | nvsm |" in (out / "by_object.md").read_text()

    text = (out / "table.md").read_text()
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "share a weight of one (80 such)" in text
    latex = (out / "table.tex").read_text()
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {9}
    assert not any(re.search(r"(?<!\\)[_#%]", line) for line in body), "these would be read as commands"
    assert all(min(Image.open(out / f"{name}.png").size) > 200 for name in ("table", "pseudo_labels"))

    second = rows_of(out / "pseudo_labels.csv")
    assert [(row["method"], row["round"], row["runs"]) for row in second] == [("nvsm", "1", "8"), ("nvsm", "2", "8")]
    assert [float(row["kept_mean"]) for row in second] == [50.0, 35.0]  # as logged; 70 of a pool of 200
    assert [float(row["pool_acc_30_mean"]) for row in second] == [80.0, 90.0], "a repeated round counts as logged last"

    before = {path: path.read_text() for path in (out / "table.csv", out / "pseudo_labels.csv", out / "draws.csv")}
    (out / "table.csv").unlink()
    few_shot.run([*words, "--tables", str(tmp_path / "kept")])
    assert {path: (tmp_path / "kept" / path.name).read_text() for path in before} == before
    assert {path.read_text() for path in out.rglob("count.txt")} == {"1"}


def test_precision_is_that_of_the_kept_labels(fake_fit, tmp_path):  # noqa: F811
    few_shot.run([*WORDS, "--methods", "nvsm", "--out", str(tmp_path)])
    errors = [
        [float(row["error_deg"]) for row in rows_of(path)] for path in sorted(tmp_path.rglob("matches_round_00.csv"))
    ]
    row = rows_of(tmp_path / "pseudo_labels.csv")[0]
    for name, right in (
        ("precision_10", lambda error: error < 10),
        ("precision_30", lambda error: error < 30),
        ("flip_180_rate", lambda error: error > 150),
    ):
        shares = [100 * sum(map(right, run)) / len(run) for run in errors]
        assert float(row[f"{name}_mean"]) == pytest.approx(sum(shares) / 2, abs=1e-3) and 0 < sum(shares) < 200


def test_each_fit_gets_its_own_options_and_all_fits_the_further_ones(tmp_path):
    options = argparse.Namespace(labels="7,20", methods="nemo,nvsm", without="")
    variants = few_shot.plan(options, ("--config", "a.yaml", "--data.root", "x"))
    plan = study.Study(variants, (0, 4), (("--data.val_sequences=[1]",), ("--data.val_sequences=[2]",)))
    jobs = plan.jobs()
    assert len({job.name for job in jobs}) == len(jobs) == 2 * 2 * 2 * 2
    job = next(job for job in jobs if job.name == "labels_20/nvsm/seed_4/fold_2")
    files = ("--config", "a.yaml", "--data.root", "x", "--config", "configs/methods/nvsm.yaml")
    assert job.arguments == (*files, "--data.labels", "20", "--data.val_sequences=[2]", "--seed_everything", "4")
    assert [job.name.split("/")[-2] for job in jobs[:8]] == ["seed_0"] * 8, "a whole draw before the next one"


def test_an_option_may_name_the_fit_that_it_is_given(tmp_path):
    options = argparse.Namespace(labels="7", methods="nvsm", without="")
    variants = few_shot.plan(options, ("--trainer.em.teacher", "runs/first/fits/{fit}"))
    jobs = study.Study(variants, (0, 4), (("--a=[1]",), ("--a=[2]",))).jobs()
    assert all(f"runs/first/fits/{job.name}" in job.arguments for job in jobs)


def test_what_is_left_out_is_not_fitted():
    options = argparse.Namespace(labels="7,2600", methods="nemo,nvsm", without="2600/nvsm")
    names = [variant.folder for variant in few_shot.plan(options, ())]
    assert names == ["labels_07/nemo", "labels_07/nvsm", "labels_2600/nemo"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "nemo,nvms", "--out", "x"], "Did you mean 'nvsm'"),
        (["--method", "nemo", "--out", "x"], "--method is no option of this bench. Did you mean --methods"),
        (["--labels", "7", "--without", "20/nvsm", "--out", "x"], "--without 20/nvsm: expected labels/method"),
        (["--labels", "7,many", "--out", "x"], "--labels 7,many: expected"),
        (["--labels", "7", "--methods", "nemo", "--without", "7/nemo", "--out", "x"], "--without leaves nothing"),
        (["--methods", "nemo,configs/../configs/methods/nemo.yaml", "--out", "x"], "two files of one name"),
        (["--seeds", "0", "--out", "x"], "--seeds 0: expected"),
        (["--seeds", "-1", "--out", "x"], "--seeds -1: expected"),
        (["--data.labels", "3", "--out", "x"], "--data.labels is set by the bench"),
        (["--folds", "gone.yaml", "--out", "x"], "no file gone.yaml"),
        (["--folds", "configs/methods/nemo.yaml", "--out", "x"], "expected a list of folds"),
    ],
)
def test_wrong_options_are_named(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        few_shot.run(words)


def test_a_file_that_fixes_the_draw_of_labels_is_refused(tmp_path):
    (tmp_path / "set.yaml").write_text("data: {init_args: {label_seed: 3}}\n")
    with pytest.raises(ConfigError, match=r"set\.yaml sets label_seed: every draw would have the same labels"):
        few_shot.run(["--config", str(tmp_path / "set.yaml"), "--out", str(tmp_path / "out")])


def test_without_files_it_is_about_the_main_job(fake_fit, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    words = ["--labels", "7,20", "--seeds", "2", "--methods", "nemo,nvsm"]
    with pytest.raises(ConfigError, match=r"FILE.*car_7shot\.yaml is taken, which is not in this folder"):
        few_shot.run(words)
    for file in ("car_7shot.yaml", "methods/nemo.yaml", "methods/nvsm.yaml"):
        (tmp_path / "configs" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "configs" / file).touch()
    assert few_shot.run(words) == 0
    logs = list((tmp_path / "runs" / "few-shot" / "fits").rglob("log.txt"))
    assert len(logs) == 8 and all("--config configs/car_7shot.yaml" in log.read_text() for log in logs)


def test_a_setting_that_no_fit_knows_ends_the_bench_before_its_first_fit(fake_fit, tmp_path, capsys):  # noqa: F811
    words = ["bench", "few-shot", *WORDS, "--out", str(tmp_path / "out"), "--data.rot", "x"]
    assert main(words) == 2
    assert "Did you mean" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("log.txt"))


def test_help_is_there_for_each_bench(capsys):
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in bench.BENCHES)
    assert main(["bench", "fewshot"]) == 2
    assert "Did you mean 'few-shot'" in capsys.readouterr().err
    for name in bench.BENCHES:
        with pytest.raises(SystemExit, match="0"):
            main(["bench", name, "--help"])
        assert f"nvsm bench {name}" in capsys.readouterr().out


def test_published_rows_are_those_of_the_paper():
    rows = dict(published(50))
    assert rows["NeMo"]["acc_pi_6"].mean == 69.3 > rows["NVSM"]["acc_pi_6"].mean == 65.6
    assert "flip_180_rate" not in rows["NVSM"]
    assert not list(published(10))


def test_the_epfl_folds_test_every_car_and_share_none_within_a_fold(repository):
    tested = set()
    for fold in read_folds(str(repository / "configs/folds/epfl_cars.yaml")):
        parts = {word.split("=")[0].removeprefix("--data."): yaml.safe_load(word.split("=")[1]) for word in fold}
        assert {name: len(cars) for name, cars in parts.items()} == {
            "train_sequences": 5, "val_sequences": 2, "test_sequences": 3,
        }  # fmt: skip
        assert sorted(car for cars in parts.values() for car in cars) == list(range(1, 11))
        tested |= set(parts["test_sequences"])
    assert tested == set(range(1, 11))


def test_a_bench_over_real_fits(tmp_path, monkeypatch):
    """Embedded pictures, a random network; the fits run in this process to save the time of importing."""
    make_toy(tmp_path / "toy", train=16, test=4, size=(70, 100), progress=False)
    (tmp_path / "small.yaml").write_text(
        "data: {init_args: {epoch_images: 8, batch_size: 4, pool_limit: 8,"
        " crop: {height: 64, width: 128, pixels_per_unit: 100}}}\n"
        "model: {init_args: {backbone: {name: small, weights: none, frozen: [], dim: 16}, mesh: {vertices: 60},"
        " space: {azimuths: 8}, solver: {steps: 1}}}\n"
        "trainer: {max_epochs: 1, precision: 32-true, accelerator: cpu, em: {epochs_per_round: 1, warmup_epochs: 0},"
        " logger: [{class_path: nvsm_lightning.report.trackers.RunCSVLogger, init_args: {save_dir: .}}]}\n"
        "report: {overlays: 0}\n"
    )
    (tmp_path / "open.yaml").write_text(
        "model: {class_path: NVSM, init_args: {selection: {ring_deg: 180}}}\ntrainer: {em: {rounds: 1}}\n"
    )

    def run_here(jobs, folder, parallel):
        for job in jobs:
            lightning_cli.run(["fit", *job.arguments, "--run_dir", str(folder / job.name)])
        return {job.name: json.loads((folder / job.name / "results.json").read_text()) for job in jobs}

    monkeypatch.setattr(study, "run_jobs", run_here)
    words = ["--config", "configs/car_7shot.yaml", "--config", str(tmp_path / "small.yaml"), "--seeds", "1"]
    words += ["--data.root", str(tmp_path / "toy"), "--out", str(tmp_path / "out")]
    few_shot.run([*words, "--labels", "3", "--methods", str(tmp_path / "open.yaml")])
    rows = rows_of(tmp_path / "out" / "table.csv")
    assert [row["method"] for row in rows] == ["open", "prior only", "random"]
    assert {row["data"] for row in rows} == {"toy_cars test, rendered"}
    result = json.loads((tmp_path / "out" / "fits" / "labels_03" / "open" / "seed_0" / "results.json").read_text())
    assert (result["n_labels"], result["part"], result["n_images"]) == (3, "test", 4)
    for key in ("acc_pi_6", "med_err_deg", "mean_err_deg"):
        assert float(rows[0][f"{key}_mean"]) == pytest.approx(result[key], abs=1e-3)
    assert len(rows_of(tmp_path / "out" / "pseudo_labels.csv")) == 1

    (tmp_path / "variants.yaml").write_text("base: []\nlonger: [--trainer.max_epochs=2]\n")
    words[-1] = str(tmp_path / "ablation")
    ablation.run([str(tmp_path / "variants.yaml"), *words, "--config", "configs/methods/nemo.yaml"])
    rows = rows_of(tmp_path / "ablation" / "table.csv")
    assert {row["data"] for row in rows} == {"toy_cars val, rendered"}
    run = tmp_path / "ablation" / "fits" / "longer" / "seed_0"
    predictions = rows_of(run / "tables" / "predictions.csv")
    held_out = (tmp_path / "toy" / "Image_sets" / "car_imagenet_val.txt").read_text().split()
    assert predictions
    assert not {Path(row["key"]).stem for row in predictions} & set(held_out), "the test pictures are not looked at"


def test_variants_are_named_lists_of_options(tmp_path):
    assert len(read_variants("configs/ablations/e_step.yaml")) > 5
    (tmp_path / "one.yaml").write_text("base: []\n")
    with pytest.raises(ConfigError, match="at least two lines"):
        read_variants(str(tmp_path / "one.yaml"))


def test_names_that_look_like_markup_are_shown_as_they_are():
    lines = tuple(Line("method", "", (name,)) for name in ("free [sideways]", "[/x]"))
    sheet = Sheet("t", ("method",), lines, ("[b]",), 1)
    console = Console(width=80, file=io.StringIO())
    console.print(sheet.rich())
    assert all(text in console.file.getvalue() for text in ("[sideways]", "[/x]", "[b]"))


def test_some_variants_of_a_file_may_be_chosen():
    variants = {"base": (), "one": ("--a",), "two": ("--b",)}
    assert ablation.chosen(variants, None) == variants
    assert list(ablation.chosen(variants, "base, two").items()) == [("base", ()), ("two", ("--b",))]
    with pytest.raises(ConfigError, match="the file has no variant three"):
        ablation.chosen(variants, "base,three")
    with pytest.raises(ConfigError, match="give at least two variants, the base first"):
        ablation.chosen(variants, "base,base")
    with pytest.raises(ConfigError, match=r"Variant two: --data\.labels is the same for all"):
        ablation.plan({"base": (), "two": ("--data.labels=20",)}, ())
