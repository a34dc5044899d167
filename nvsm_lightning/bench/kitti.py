"""``nvsm bench kitti``: finished fits tested on KITTI's cars, by occlusion level, in the shape of NVSM's table."""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvsm_lightning.bench.finished import Condition, find_runs, run_tests
from nvsm_lightning.bench.jobs import read_results
from nvsm_lightning.bench.options import run_folders
from nvsm_lightning.bench.published import KITTI, LABELS
from nvsm_lightning.bench.sheets import Line, Sheet
from nvsm_lightning.bench.split_tables import SHORT, SHOWN, WEIGHTED, SplitRow, common_notes, split_row, write_split
from nvsm_lightning.bench.statistics import Source
from nvsm_lightning.bench.study import Check
from nvsm_lightning.data.kitti import OCCLUSION
from nvsm_lightning.errors import ConfigError, DataError

LEVELS = OCCLUSION[:3]
SETTINGS = Path("configs") / "datasets" / "kitti.yaml"
USAGE = "--runs DIR --data.root KITTI --out DIR [further options of nvsm test]"
TEXT = """\
Tests finished fits of cars on KITTI and writes accuracies and medians of fully visible, partly and largely occluded
cars by number of labels, with the mean over the levels weighted by pictures, as NVSM's table has it, and its published
rows (fits on KITTI itself, not comparable with fits on other data). Fits on KITTI are made by `nvsm bench few-shot
--config configs/datasets/kitti.yaml`; their own test counts. Options this bench does not know go to `nvsm test`.

  nvsm bench kitti --runs runs/few_shot --data.root KITTI --out runs/kitti
  nvsm bench kitti --runs runs/cars --data.root KITTI --data.train_list "" --data.test_list trainval --out runs/kitti
"""
Row = tuple[str, str]  # method with the data it was fitted on, number of labels


def run(words: Sequence[str], check: Check | None = None) -> int:
    """Run the bench; it fits nothing, so there is nothing to ``check``."""
    options, further = _parser().parse_known_args(list(words))
    out = Path(options.out).expanduser()
    runs = {run.resolve(): results for run, results in find_runs(run_folders(",".join(options.runs)))}
    if not runs:
        raise ConfigError(f"--runs: no finished fit lies below {', '.join(options.runs)}.")
    names = run_names(list(runs))
    others_settings = [word for word in further if word.startswith("--") and word.split("=")[0] != "--data.root"]
    own = {
        names[run]: run for run, results in runs.items()
        if (results["dataset"], results["part"]) == ("kitti", "test") and not others_settings
    }  # fmt: skip
    others = {names[run]: run for run in runs if names[run] not in own}
    tests = run_tests(others, [Condition("kitti", tuple(further), (str(SETTINGS),))], out, options.parallel)
    folders = {**own, **{name: folder for (name, _), folder in tests.items()}}
    rows, seeds = level_rows({folders[names[run]]: results for run, results in runs.items()})
    write(rows, seeds, [read_results(folder) for folder in folders.values()], out)
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="nvsm bench kitti", usage=f"nvsm bench kitti {USAGE}", description=TEXT, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument(
        "--runs", action="append", required=True, help="Finished fits: folders, comma between; may be repeated."
    )
    made.add_argument("--parallel", type=int, default=1, help="Tests at a time; the cores are divided among them.")
    made.add_argument("--out", required=True, help="Folder of the tests and tables. The same command goes on in it.")
    return made


def run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """A name for each run: what follows the folder that all have in common."""
    common = [run.parts for run in set(runs)]
    shared = 0
    while common and all(len(parts) > shared + 1 and parts[shared] == common[0][shared] for parts in common):
        shared += 1
    return {run: "/".join(run.parts[shared:]) for run in runs}


def read_levels(test: Path) -> dict[str, dict[str, float]]:
    """{level: {key: error in degrees}} of a test on KITTI.

    Raises:
        DataError: it was written before predictions named their group, or is of other data.
    """
    found: dict[str, dict[str, float]] = {level: {} for level in LEVELS}
    with (test / "tables" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row.get("group") not in OCCLUSION:
                raise DataError(f"{test} does not tell the occlusion levels; remove it and test again.")
            if row["group"] in found and row["error_deg"]:
                found[row["group"]][row["key"]] = float(row["error_deg"])
    return found


def level_rows(tests: Mapping[Path, Mapping[str, Any]]) -> tuple[list[SplitRow], tuple[int, ...]]:
    """One row a method and number of labels, over the draws that all of them have.

    Args:
        tests: results.json of the fit by folder of its test.
    """
    errors: dict[Row, dict[str, dict[Source, float]]] = {}
    draws: dict[Row, set[int]] = {}
    for folder, results in tests.items():
        trained = "" if results["dataset"] == "kitti" else f", fitted on {results['dataset']}"
        row = (f"{results['method']}{trained}", str(results["n_labels"]))
        if results["seed"] in draws.setdefault(row, set()):
            raise ConfigError(f"--runs: two fits of {row[0]} with {row[1]} labels have seed {results['seed']}.")
        draws[row].add(results["seed"])
        by_level = errors.setdefault(row, {level: {} for level in LEVELS})
        for level, found in read_levels(folder).items():
            by_level[level] |= {(results["seed"], 0, key): error for key, error in found.items()}
    seeds = tuple(sorted(set.intersection(*draws.values())))
    if not seeds:
        raise ConfigError("--runs: no label draw (seed) is common to all methods and numbers of labels.")
    order = sorted(errors, key=lambda row: (row[0], int(row[1])))
    rows = [
        split_row(labels, name, {level: {key: error for key, error in found.items() if key[0] in seeds}
                                 for level, found in errors[name, labels].items()}, seeds)
        for name, labels in order
    ]  # fmt: skip
    return rows, seeds


def write(rows: Sequence[SplitRow], seeds: Sequence[int], results: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """``table.*``: a line a metric and method; levels by number of labels, then the mean over the levels and over the
    numbers of labels that all methods have.
    """
    labels = sorted({row.group for row in rows} | set(map(str, LABELS)), key=int)
    names = dict.fromkeys(row.name for row in rows)
    shared = set.intersection(*({row.group for row in rows if row.name == name} for name in names))
    heads = ("metric", "method", *(f"{_short(level)}, {count}" for level in LEVELS for count in labels), "mean")
    lines = []
    for number, metric in enumerate(SHOWN):
        for name in names:
            own = {row.group: row for row in rows if row.name == name}
            cells = [own[count].cells.get((metric, level)) if count in own else None
                     for level in LEVELS for count in labels]  # fmt: skip
            means = [own[count].cells[metric, WEIGHTED].mean for count in shared]
            texts = ["-" if cell is None else _number(cell.mean, cell.std) for cell in cells]
            average = f"{sum(means) / len(means):.1f}" if means else "-"
            lines.append(Line("method", metric, (SHORT[metric], name, *texts, average)))
        for name, tables in KITTI.items():
            *levels, mean = tables[number]
            texts = [f"{dict(zip(map(str, LABELS), row, strict=True))[count]:.1f}" if int(count) in LABELS else "-"
                     for row in levels for count in labels]  # fmt: skip
            lines.append(Line("published", metric, (SHORT[metric], f"{name}, published", *texts, f"{mean:.1f}")))
    notes = common_notes(rows, seeds, results)
    notes += [
        "Columns: occlusion level and number of labels. mean: over the levels, weighted by their pictures, then over "
        f"the numbers of labels that all have ({', '.join(sorted(shared, key=int)) or 'none'}; published: all).",
        "Published rows: NVSM (NeurIPS 2021), fitted on KITTI: about 415, 200 and 69 cars of a split of their own.",
    ]
    sheet = Sheet("KITTI, cars by occlusion level", heads, tuple(lines), tuple(notes), words=2)
    write_split(sheet, rows, "labels", (*LEVELS, WEIGHTED), folder)


def _short(level: str) -> str:
    return level.split()[0]


def _number(mean: float, std: float | None) -> str:
    return f"{mean:.1f}" + ("" if std is None else f" ± {std:.1f}")
