"""The second table of a bench: what the pseudo labels of each round were worth, where the pool's truth is known."""

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from nvsm_lightning.bench.sheets import Line, Sheet, cell_text
from nvsm_lightning.bench.statistics import Cell, spread
from nvsm_lightning.bench.study import Collected

# name: (heading, whether more is better)
COLUMNS = {
    "kept": ("kept share of the matched, %", True),
    "precision_10": ("within 10 deg, %", True),
    "precision_30": ("within 30 deg, %", True),
    "flip_180_rate": (">150 deg, %", False),
    "pool_acc_10": ("all matched within 10 deg, %", True),
    "pool_acc_30": ("all matched within 30 deg, %", True),
}


def rounds_of(run: Path, pool: int) -> dict[int, dict[str, float]]:
    """Numbers in per cent of each round of a run, from 0: the share of the matched pictures kept, and where the truth
    is known the share of kept labels within 10 and 30 degrees and above 150, and that of all matched within 10 and 30.

    From ``tables/matches_round_XX.csv``; those of all matched from ``metrics.csv`` if there is one (without it the
    share kept is that of the pool).
    """
    rounds: dict[int, dict[str, float]] = {}
    for path in sorted((run / "tables").glob("matches_round_*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        errors = [float(row["error_deg"]) for row in rows if row["error_deg"]]
        numbers = {"kept": 100 * len(rows) / max(1, pool)}
        if errors:
            share = 100 / len(errors)
            numbers["precision_10"] = share * sum(error < 10 for error in errors)
            numbers["precision_30"] = share * sum(error < 30 for error in errors)
            numbers["flip_180_rate"] = share * sum(error > 150 for error in errors)
        rounds[int(path.stem.rsplit("_", 1)[1])] = numbers
    for number, logged in _logged(run / "metrics.csv").items():
        rounds.get(number, {}).update(logged)
    return rounds


def _logged(path: Path) -> dict[int, dict[str, float]]:
    """``em/kept`` and ``em/pool_acc_*`` by round in per cent; of a round that was repeated after an interruption the
    last."""
    if not path.is_file():
        return {}
    logged: dict[int, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.get("em/round"):
                continue
            values = {name: row.get(f"em/{name}") or "nan" for name in ("kept", "pool_acc_10", "pool_acc_30")}
            numbers = {name: 100 * float(value) for name, value in values.items()}
            logged[int(float(row["em/round"]))] = {k: v for k, v in numbers.items() if not math.isnan(v)}
    return logged


def pseudo_rows(collected: Sequence[Collected]) -> list[tuple[str, str, int, int, dict[str, Cell]]]:
    """(group, variant, round from 1, runs, cells) of everything with an E-step; spread over all runs."""
    rows = []
    for one in collected:
        values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for key, run in one.runs.items():
            for number, numbers in rounds_of(run, one.results[key].get("n_pool", 0)).items():
                for name, value in numbers.items():
                    values[number][name].append(value)
        for number, found in sorted(values.items()):
            cells = {name: spread(found[name], COLUMNS[name][1]) for name in COLUMNS if found.get(name)}
            rows.append((one.variant.group, one.variant.name, number + 1, len(found["kept"]), cells))
    return rows


def pseudo_sheet(collected: Sequence[Collected], heading: str) -> tuple[Sheet, list[dict]] | None:
    """The table and its plain numbers; None if no run has an E-step. ``heading`` names the groups."""
    rows = pseudo_rows(collected)
    if not rows:
        return None
    lines = tuple(
        Line(
            "method",
            f"{group} {name}",
            (group, name, str(number), str(runs), *(cell_text(cells.get(c)) for c in COLUMNS)),
        )
        for group, name, number, runs, cells in rows
    )
    notes = (
        "mean ± standard deviation (worst) over the runs: label draws, and folds if there are any.",
        "The truth of the pool is hidden from every fit; it serves this table alone. - where it is not known.",
    )
    heads = (heading, "method", "round", "runs", *(head for head, _ in COLUMNS.values()))
    numbers = [
        {heading: group, "method": name, "round": number, "runs": runs}
        | {
            f"{c}_{part}": getattr(cells[c], part) if c in cells else None
            for c in COLUMNS
            for part in ("mean", "std", "worst")
        }
        for group, name, number, runs, cells in rows
    ]
    return Sheet("Pseudo labels of each round", heads, lines, notes, words=2), numbers
