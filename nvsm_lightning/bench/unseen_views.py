"""``nvsm bench unseen-views``: labels from some azimuths only, test pictures of those and of the others apart."""

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from nvsm_lightning.bench.few_shot import method_file
from nvsm_lightning.bench.localise import data_of
from nvsm_lightning.bench.options import OWN, common, parser
from nvsm_lightning.bench.published import UNSEEN_VIEWS
from nvsm_lightning.bench.split_tables import common_notes, published_row, split_row, wide_sheet, write_split
from nvsm_lightning.bench.statistics import Source
from nvsm_lightning.bench.study import Check, Collected, Study, Variant
from nvsm_lightning.data.labels import write_label_list
from nvsm_lightning.data.parts import assign_parts, existing
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError, DataError

SEEN = "TFFTTFFT"  # of eight bins of 45 degrees from azimuth 0: fronts and rears (the split of NeMo's code)
PARTS = ("seen", "unseen")
USAGE = "[--config FILE ...] [--out DIR] [options] [further options of nvsm fit]"
TEXT = """\
NeMo's protocol of unseen views: all labelled pictures show the front or the rear of the object (azimuths 315-45 and
135-225 degrees), and test pictures of these views are reported apart from the side views, which no label shows. All
pictures of the train part whose azimuth is seen are labelled.

NVSM's pool is then the rest of the train part, side views included but without their labels: it gets more than the
protocol gives, and the table says so. The lists of labels lie in OUT/labels.

  nvsm bench unseen-views --config configs/car_7shot.yaml --config configs/datasets/stanford_cars.yaml \\
    --data.root STANFORD --methods nemo,res50_general,starmap,nearest --seeds 1 --out runs/unseen_views
"""


def run(words: Sequence[str], check: Check | None = None) -> int:
    """Run the bench; ``check`` parses arguments of ``nvsm fit`` and tells their whole configuration."""
    options, further = _parser().parse_known_args(list(words))
    shared = common(options, further, (*OWN, "--data.label_list", "--data.anchors"))
    files = {path.stem: path for path in map(method_file, options.methods.split(","))}
    if check is None:
        raise ConfigError("nvsm bench unseen-views needs the configuration of its fits.")
    seen = options.seen.upper()
    lists = [write_lists(shared.out / "labels", check((*shared.arguments, *fold)), seen, n)
             for n, fold in enumerate(shared.folds)]  # fmt: skip
    folds = tuple(
        (*fold, "--data.anchors", "spread", "--data.label_list", str(file), "--data.labels", str(count))
        for fold, (file, count) in zip(shared.folds, lists, strict=True)
    )
    group = " ".join(str(count) for _, count in lists)
    variants = (Variant(name, group, name, (*shared.arguments, "--config", str(file))) for name, file in files.items())
    study = Study(tuple(variants), shared.seeds, folds)
    collected = study.run(shared.out, shared.parallel, check)
    write(study, collected, seen, shared.tables)
    return 0


def _parser() -> argparse.ArgumentParser:
    made = parser("unseen-views", USAGE, TEXT)
    made.add_argument(
        "--methods", default="nemo,res50_general,starmap,nearest", help="As for few-shot (default: %(default)s)."
    )
    made.add_argument("--seen", default=SEEN, help="T or F for each of eight bins of 45 degrees from azimuth 0.")
    return made


def is_seen(azimuth: float, seen: str = SEEN) -> bool | None:
    """Whether an azimuth in degrees lies in a bin marked T; None on the edge between two bins, which is in neither."""
    place, rest = divmod(azimuth % 360.0, 360.0 / len(seen))
    return None if rest == 0 else seen[int(place)] == "T"


def write_lists(folder: Path, configuration: str, seen: str, fold: int) -> tuple[Path, int]:
    """Write the keys of the train pictures of seen views as a label list; returns it and how many there are.

    Raises:
        ConfigError: ``seen`` is no mask.
        DataError: no labelled picture of the train part is of a seen view.
    """
    if len(seen) != len(SEEN) or not set(seen) <= {"T", "F"} or len(set(seen)) < 2:
        raise ConfigError(f"--seen {seen}: expected eight letters T or F, both of them, such as {SEEN}.")
    data = data_of(yaml.safe_load(configuration))
    records = assign_parts(data.read(existing(data.root, "--data.root")))
    chosen = [record for record in records if record.part == "train" and _shows(record, seen)]
    if not chosen:
        raise DataError(f"No labelled picture of the train part of {data.root} is of a seen view ({seen}).")
    file = folder / f"seen_{seen}_fold_{fold + 1}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_label_list(file, chosen)
    return file, len(chosen)


def _shows(record: Record, seen: str) -> bool:
    return record.viewpoint is not None and is_seen(math.degrees(record.viewpoint[0]), seen) is True


def split_errors(one: Collected, seen: str) -> dict[str, dict[Source, float]]:
    """Errors in degrees of seen and unseen test pictures; those on an edge are in neither."""
    errors: dict[str, dict[Source, float]] = {part: {} for part in PARTS}
    for (seed, fold), run_folder in one.runs.items():
        with (run_folder / "tables" / "predictions.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                where = is_seen(float(row["true_azimuth_deg"]), seen) if row["error_deg"] else None
                if where is not None:
                    errors[PARTS[not where]][seed, fold, row["key"]] = float(row["error_deg"])
    return errors


def write(study: Study, collected: Sequence[Collected], seen: str, folder: Path) -> None:
    """``table.*`` in the shape of NeMo's."""
    rows = [split_row(one.variant.group, one.variant.name, split_errors(one, seen), study.seeds) for one in collected]
    if seen == SEEN:
        rows += [
            published_row("all", name, {"acc_pi_6": six, "acc_pi_18": eighteen}, PARTS)
            for name, (six, eighteen) in UNSEEN_VIEWS.items()
        ]
    first = collected[0].one
    title = f"Unseen views: {first['dataset']}" + (", rendered" if first["synthetic"] else "")
    notes = common_notes(rows, study.seeds, [result for one in collected for result in one.results.values()])
    notes += [
        f"Labels are of the azimuth bins {seen} (eight of 45 degrees from 0 = front; T = seen)"
        + (": fronts and rears." if seen == SEEN else ".")
        + " A pool, where a method uses one, holds unlabelled pictures of all views, more than the protocol gives.",
        "Published rows: NeMo (ICLR 2021), PASCAL3D+, 12 categories: other data, not comparable.",
    ]
    write_split(wide_sheet(title, "labels", PARTS, rows, notes), rows, "labels", PARTS, folder)
