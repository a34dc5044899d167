"""``nvsm bench occlusion``: methods at several numbers of labels, tested behind occluders of growing size."""

import argparse
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nvsm_lightning.bench import jobs
from nvsm_lightning.bench.few_shot import add_variants, plan
from nvsm_lightning.bench.finished import Condition, given_runs, run_tests
from nvsm_lightning.bench.localise import localise
from nvsm_lightning.bench.options import common, parser, run_folders
from nvsm_lightning.bench.published import OCCLUSION
from nvsm_lightning.bench.sheets import Line, Sheet, csv_text
from nvsm_lightning.bench.split_tables import (
    MEAN,
    SplitRow,
    common_notes,
    published_row,
    split_row,
    wide_sheet,
    write_split,
)
from nvsm_lightning.bench.statistics import Source
from nvsm_lightning.bench.study import Check, Collected, Study, read_predictions
from nvsm_lightning.data.occlude import parse_level
from nvsm_lightning.data.pose_csv import OCCLUSION_FILE, read_table
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.report.results import write_text

CLEAN = "L0"
LEVELS = ("L1", "L2", "L3")
USAGE = "[--config FILE ...] [--out DIR] [options] [further options of nvsm fit]"
TEXT = """\
Fits every method with every number of labels and label draw, and tests it on the test part as it is (L0) and behind
pasted occluders that hide 20-40 % (L1), 40-60 % (L2) and 60-80 % (L3) of the object. They lie in --occluded;
levels that are not there are made by `nvsm prepare occluded` from --occluders, the same for the same data set. With
--release they are those of Occluded-PASCAL3D+. The table has accuracies and medians by level and their mean over the
levels, the IoU of the occlusion map with the occluder (methods that have one), and the published rows, of other data.

Fits that are there are kept: in --out, and below --runs wherever method, number of labels and seed are those wanted
(such as a few-shot bench of the same data).

  nvsm bench occlusion --config configs/car_7shot.yaml --config configs/datasets/stanford_cars.yaml \\
    --data.root STANFORD --occluders COCO --mesh CAD/car.mat --labels 7,20,50 --seeds 1 --out runs/occlusion
"""
Localised = dict[tuple[str, int, int, str], dict[str, float] | None]  # by variant's folder, seed, fold, level


def run(words: Sequence[str], check: Check | None = None) -> int:
    """Run the bench; ``check`` parses arguments of ``nvsm fit`` and tells their whole configuration."""
    options, further = _parser().parse_known_args(list(words))
    shared = common(options, further)
    study = Study(plan(options, shared.arguments), shared.seeds, shared.folds)
    levels = [word.strip() for word in options.levels.split(",") if word.strip()]
    for level in levels if not options.release else ():  # before the first fit
        parse_level(level)
        if len(study.folds) > 1 and not (level_folder(level, shared.out, options) / OCCLUSION_FILE).is_file():
            raise ConfigError("Occluded pictures are made for one fold only; make them yourself and give --occluded.")
    conditions = [condition(level, shared.out, options) for level in levels]
    given = given_runs(study, run_folders(options.runs))
    for level in levels if not options.release else ():  # before the fits: what is wrong with them is said now
        make_level(level, level_folder(level, shared.out, options), options, study, check)
    collected = study.run(shared.out, shared.parallel, check, given)
    errors, localised = tested(study, collected, conditions, shared.out, shared.parallel)
    if not options.release:
        check_sources(errors, levels, partial(level_folder, out=shared.out, options=options))
    write(study, collected, errors, localised, levels, shared.tables)
    return 0


def _parser() -> argparse.ArgumentParser:
    made = parser("occlusion", USAGE, TEXT)
    add_variants(made, "nemo,nvsm,res50_general,starmap,nearest")
    made.add_argument(
        "--levels",
        default=",".join(LEVELS),
        help="Besides L0: L1, L2, L3 or FGL1_BGL1 ... FGL3_BGL3 (default: %(default)s).",
    )
    made.add_argument("--runs", default=None, help="Folders of finished fits, comma between, that are not made again.")
    made.add_argument("--occluded", default=None, help="Folder of L1/, L2/, ...; default: OUT/occluded.")
    made.add_argument("--occluders", default=None, help="For levels that must be made: see `nvsm prepare occluded`.")
    made.add_argument("--mesh", default="", help="CAD models that say where the object is: see `prepare occluded`.")
    made.add_argument("--release", default=None, help="Folder of Occluded-PASCAL3D+, instead of --occluded.")
    return made


def condition(level: str, out: Path, options: argparse.Namespace) -> Condition:
    """The test on a level."""
    if options.release:
        # the class alone: what else the fit's configuration says, such as crops, still holds
        words = ("--data", "OccludedPascal3D", "--data.occluded_root", options.release, "--data.level", level)
        return Condition(level, words)
    folder = level_folder(level, out, options)
    if not (folder / OCCLUSION_FILE).is_file() and not options.occluders:
        raise ConfigError(f"{folder} holds no occluded pictures; give --occluders, and they are made there.")
    inputs = (str(folder / OCCLUSION_FILE), str(folder / "labels.csv"))
    return Condition(level, ("--data.test_root", str(folder)), inputs=inputs)


def level_folder(level: str, out: Path, options: argparse.Namespace) -> Path:
    """Where the occluded pictures of a level lie."""
    return (Path(options.occluded).expanduser() if options.occluded else out / "occluded") / level


# ---------------------------------------------------------------------- occluded pictures


def make_level(level: str, folder: Path, options: argparse.Namespace, study: Study, check: Check | None) -> None:
    """Make the occluded pictures of a level by ``nvsm prepare occluded``, if they are not there."""
    if (folder / OCCLUSION_FILE).is_file():
        return
    assert check is not None  # of a command, which has one
    file = folder.with_name(f"{folder.name}_data.yaml")
    write_text(file, check(study.samples()[0]))  # the very data of the fits: sequences, lists, units of length
    words = ["prepare", "occluded", "--config", str(file)]
    words += ["--level", level, "--occluders", options.occluders, "--out", str(folder)]
    words += ["--mesh", options.mesh] if options.mesh else []
    if nvsm(words):
        raise DataError(f"The occluded pictures could not be made: nvsm {' '.join(words)}")


def nvsm(words: Sequence[str]) -> int:
    """Exit status of a command in a process of its own."""
    return subprocess.run([*jobs.COMMAND, *words], check=False).returncode


def check_sources(
    errors: Mapping[tuple[str, str], Mapping[Source, float]], levels: Sequence[str], folder: Callable[[str], Path]
) -> None:
    """The occluded pictures must be those of the test part; raises DataError if one is not."""
    clean = {key for (_, level), found in errors.items() if level == CLEAN for _, _, key in found}
    for level in levels:
        file = folder(level) / "labels.csv"
        other = [row["source"] for _, row in read_table(file, ("file", "source")) if row["source"] not in clean]
        if other:
            raise DataError(
                f"{file}: {other[0]} is not in the test part of these fits; make the level from their data."
            )


# ---------------------------------------------------------------------- tests


def tested(
    study: Study, collected: Sequence[Collected], conditions: Sequence[Condition], out: Path, parallel: int
) -> tuple[dict[tuple[str, str], dict[Source, float]], Localised]:
    """Errors by (variant's folder, level), and what the occlusion maps are worth."""
    names = {
        study.name(one.variant, seed, fold): (one, seed, fold) for one in collected for seed, fold in sorted(one.runs)
    }
    runs = {name: one.runs[seed, fold] for name, (one, seed, fold) in names.items()}
    # a fit ends with the test of L0, unless it was made on the validation part
    clean = {name: run for name, run in runs.items() if names[name][0].results[names[name][1:]]["part"] != "test"}
    tests = run_tests(runs, conditions, out, parallel)
    tests |= run_tests(clean, [Condition(CLEAN, ())], out, parallel) if clean else {}
    errors: dict[tuple[str, str], dict[Source, float]] = {}
    localised: Localised = {}
    for name, (one, seed, fold) in names.items():
        for level in (CLEAN, *(each.name for each in conditions)):
            folder = tests.get((name, level), runs[name])
            found = errors.setdefault((one.variant.folder, level), {})
            found |= {(seed, fold, row["key"]): float(row["error_deg"]) for row in read_predictions(folder)}
            if level != CLEAN:
                localised[one.variant.folder, seed, fold, level] = localise(runs[name], folder)
    return errors, localised


# ---------------------------------------------------------------------- tables


def write(
    study: Study,
    collected: Sequence[Collected],
    errors: Mapping[tuple[str, str], Mapping[Source, float]],
    localised: Localised,
    levels: Sequence[str],
    folder: Path,
) -> None:
    """``table.*`` in the shape of NeMo's, and ``occluders.*`` about the occlusion maps."""
    places = (CLEAN, *levels)
    rows, lines = [], []
    for one in collected:
        name = one.variant.folder
        maps = {level: _mean(localised, name, level) for level in levels}
        ious = {f"IoU {level}": f"{100 * found['occluder_iou']:.1f}" for level, found in maps.items() if found}
        by_level = {level: errors[name, level] for level in places}
        rows.append(split_row(one.variant.group, one.variant.name, by_level, study.seeds, ious))
        lines += [{"labels": one.variant.group, "method": one.variant.name, "level": level, **found}
                  for level, found in maps.items() if found]  # fmt: skip
    rows = [*rows, *published_rows(levels)]
    results = [result for one in collected for result in one.results.values()]
    first = collected[0].one
    title = f"Occlusion bench: {first['dataset']}, pasted occluders" + (", rendered" if first["synthetic"] else "")
    notes = common_notes(rows, study.seeds, results)
    notes += [
        "mean: over the levels. IoU: of the cells that the occlusion map calls hidden with the hidden cells of the "
        "object, per cent, mean over the pictures; see occluders.md for what guessing reaches.",
        "Published rows: NeMo (ICLR 2021), PASCAL3D+ and Occluded-PASCAL3D+, 12 categories, all labels: other data, "
        "not comparable. Their mean over the levels is ours.",
    ]
    parts = (*places, MEAN)
    write_split(wide_sheet(title, "labels", parts, rows, notes), rows, "labels", parts, folder)
    if lines:
        sheet = occluder_sheet(lines)
        sheet.write(folder / "occluders")
        write_text(folder / "occluders.csv", csv_text(lines))


def published_rows(levels: Sequence[str]) -> list[SplitRow]:
    """The published rows, as far as their levels are in the table."""
    places = (CLEAN, *LEVELS)
    rows = []
    for name, (six, eighteen) in OCCLUSION.items():
        row = published_row("all", name, {"acc_pi_6": six, "acc_pi_18": eighteen}, places)
        if tuple(levels) != LEVELS:
            kept = {key: cell for key, cell in row.cells.items() if key[1] in (CLEAN, *levels)}
            row = replace(row, cells=kept)
        rows.append(row)
    return rows


def occluder_sheet(lines: Sequence[Mapping[str, object]]) -> Sheet:
    """What the occlusion maps are worth, a line a method and level."""
    heads = ("labels", "method", "level", "IoU, %", "IoU if all is called hidden, %", "hidden called hidden, %",
             "visible called hidden, %", "pictures")  # fmt: skip

    def line(row: Mapping[str, object]) -> Line:
        """One method at one level."""
        shares = [100 * float(str(row[key])) for key in ("occluder_iou", "occluder_iou_all_hidden")]
        shares += [float(str(row[key])) for key in ("hidden_as_hidden", "seen_as_hidden")]
        words = (str(row["labels"]), str(row["method"]), str(row["level"]))
        count = f"{float(str(row['n_occluded'])):.0f}"
        return Line("method", words[0], (*words, *(f"{share:.1f}" for share in shares), count))

    notes = (
        "At the estimated poses, in cells of 8 x 8 pixels. The IoU means something where it beats that of calling the "
        "whole mesh hidden. The last shares are of cells that the mesh covers, over all pictures together.",
    )
    return Sheet("Occluder localisation", heads, tuple(map(line, lines)), notes, words=3)


def _mean(localised: Localised, name: str, level: str) -> dict[str, float] | None:
    found = [value for (folder, _, _, at), value in localised.items() if (folder, at) == (name, level) and value]
    return {key: sum(one[key] for one in found) / len(found) for key in found[0]} if found else None
