"""Tables whose test pictures are split: by occlusion level, seen views, category; with both kinds of mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from nvsm_lightning.bench.sheets import Line, Sheet, cell_text, csv_text
from nvsm_lightning.bench.statistics import METRICS, Cell, Pictures, Source, draw_values, row_cells, spread
from nvsm_lightning.report.results import write_text

SHOWN = ("acc_pi_6", "acc_pi_18", "med_err_deg")  # in the sheets; the CSV has all
SHORT = {"acc_pi_6": "ACC pi/6", "acc_pi_18": "ACC pi/18", "med_err_deg": "median", "flip_180_rate": ">150 deg"}
MEAN, WEIGHTED = "mean", "weighted mean"
WIDE = 15  # columns that a terminal cannot hold


@dataclass(frozen=True)
class SplitRow:
    """A method, or a row from elsewhere.

    Attributes:
        kind: a key of ``sheets.COLOURS``.
        group: number of labels, for instance.
        name: of the method.
        cells: by metric and part; of the means as well.
        counts: test pictures of each part.
        further: columns after the metrics.
    """

    kind: str
    group: str
    name: str
    cells: Mapping[tuple[str, str], Cell]
    counts: Mapping[str, int] = field(default_factory=dict)
    further: Mapping[str, str] = field(default_factory=dict)

    def numbers(self, heading: str, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
        """One row of plain numbers a metric and part."""
        empty = {part.name: None for part in fields(Cell)}
        for metric in METRICS:
            for part in parts:
                cell = self.cells.get((metric, part))
                head: dict[str, Any] = {
                    "kind": self.kind,
                    heading: self.group,
                    "method": self.name,
                    "metric": metric,
                    "part": part,
                }
                head |= {"pictures": self.counts.get(part)}
                yield head | (asdict(cell) if cell else empty)


def split_row(
    group: str,
    name: str,
    errors: Mapping[str, Mapping[Source, float]],
    seeds: Sequence[int],
    further: Mapping[str, str] | None = None,
) -> SplitRow:
    """The row of a method from its errors in degrees, by part.

    ``mean`` weighs the parts equally; ``weighted mean`` by their pictures, as NeMo and NVSM do (of medians it is the
    weighted mean of the parts' medians, not the median of all).

    Args:
        group: of the row.
        name: of the method.
        errors: of each part by (draw, fold, picture); parts without pictures are left out of the means.
        seeds: the draws.
        further: columns after the metrics.
    """
    cells: dict[tuple[str, str], Cell] = {}
    counts, values = {}, {}
    for part, found in errors.items():
        if not found or not set(seeds) <= {draw for draw, _, _ in found}:
            continue  # not in every draw, where the test part depends on it
        pictures = Pictures.of([found])
        error = pictures.errors(found, seeds)
        counts[part] = pictures.count
        values[part] = draw_values(pictures, error)
        cells |= {(metric, part): cell for metric, cell in row_cells(pictures, error).items()}
    for mean, weights in ((MEAN, dict.fromkeys(counts, 1)), (WEIGHTED, counts)) if counts else ():
        total = sum(weights.values())
        for metric, (_, more_is_better) in METRICS.items():
            draws = [
                sum(weight * values[part][metric][number] for part, weight in weights.items()) / total
                for number in range(len(seeds))
            ]
            cells[metric, mean] = spread(draws, more_is_better)
    return SplitRow("method", group, name, cells, counts, further or {})


def published_row(group: str, name: str, values: Mapping[str, Sequence[float]], parts: Sequence[str]) -> SplitRow:
    """A row of published values, {metric: one a part}; their plain mean is ours."""
    cells: dict[tuple[str, str], Cell] = {}
    for metric, row in values.items():
        cells |= {(metric, part): Cell(value) for part, value in zip(parts, row, strict=True)}
        cells[metric, MEAN] = Cell(sum(row) / len(row))
    return SplitRow("published", group, f"{name}, published", cells)


def wide_sheet(title: str, heading: str, parts: Sequence[str], rows: Sequence[SplitRow], notes: Sequence[str]) -> Sheet:
    """One line a method: every metric by part, as in the tables of NeMo."""
    further = list(dict.fromkeys(name for row in rows for name in row.further))
    heads = [f"{SHORT[metric]} {part}" for metric in SHOWN for part in parts]
    lines = []
    for row in rows:
        texts = [_text(row.cells.get((metric, part))) for metric in SHOWN for part in parts]
        lines.append(
            Line(row.kind, row.group, (row.group, row.name, *texts, *(row.further.get(name, "-") for name in further)))
        )
    return Sheet(title, (heading, "method", *heads, *further), tuple(lines), tuple(notes), words=2)


def long_sheet(
    title: str,
    heading: str,
    parts: Sequence[str],
    rows: Sequence[SplitRow],
    notes: Sequence[str],
    shown: Sequence[str] = SHOWN,
) -> Sheet:
    """One line a metric and method, parts beside one another; narrow enough for a terminal."""
    further = list(dict.fromkeys(name for row in rows for name in row.further))
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        for metric in shown:
            for row in (row for row in rows if row.group == group and any(key[0] == metric for key in row.cells)):
                texts = [_text(row.cells.get((metric, part))) for part in parts]
                more = [row.further.get(name, "-") if metric == shown[0] else "" for name in further]
                lines.append(Line(row.kind, f"{metric} {group}", (group, SHORT[metric], row.name, *texts, *more)))
    return Sheet(title, (heading, "metric", "method", *parts, *further), tuple(lines), tuple(notes), words=3)


def _text(cell: Cell | None) -> str:
    """Without intervals, which stand in the CSV: these tables are wide."""
    return "-" if cell is None else cell_text(Cell(cell.mean, cell.std))


def write_split(
    sheet: Sheet, rows: Sequence[SplitRow], heading: str, parts: Sequence[str], folder: Path, name: str = "table"
) -> None:
    """``<name>.md``, ``.tex``, ``.png`` and ``.csv``; prints the table (a wide one in its long form) and what was
    written.
    """
    sheet.write(folder / name)
    text = csv_text([line for row in rows for line in row.numbers(heading, parts)])
    write_text(folder / f"{name}.csv", text)
    console = Console(width=max(Console().width, 160))
    wide = len(sheet.heads) > WIDE
    shown = long_sheet(sheet.title, heading, parts, rows, sheet.notes) if wide else sheet
    console.print(shown.rich(), highlight=False)
    console.print(f"written to {folder}: {name}.{{csv,md,tex,png}}", highlight=False, soft_wrap=True)


def common_notes(rows: Sequence[SplitRow], seeds: Sequence[int], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of every such table."""
    counts = next((row.counts for row in rows if row.counts), {})
    text = ", ".join(f"{part} {count}" for part, count in counts.items())
    notes = [f"Test pictures: {text}. ACC in per cent, medians in degrees. The CSV has bootstrap intervals."]
    if len(seeds) > 1:
        notes.append(f"mean ± standard deviation over the label draws (seeds {' '.join(map(str, seeds))}).")
    else:
        notes.append(f"One label draw (seed {seeds[0]}): differences of a few points mean nothing.")
    commits = {str(result.get("git_commit")) for result in results} - {"None"}
    if commits:
        notes.append("Runs of commit " + ", ".join(sorted(commit[:12] + commit[40:] for commit in commits)) + ".")
    return notes
