"""From the runs of a study to its tables: rows of methods, differences, guesses, published rows; and their files."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nvsm_lightning.bench.pseudo import pseudo_sheet
from nvsm_lightning.bench.published import WHERE, published
from nvsm_lightning.bench.sheets import Line, Sheet, cell_text, csv_text
from nvsm_lightning.bench.statistics import (
    METRICS,
    Cell,
    Pictures,
    better_draws,
    difference_cells,
    draw_values,
    row_cells,
    spread,
)
from nvsm_lightning.bench.study import Collected, Study
from nvsm_lightning.report.results import write_text

GUESSES = {"prior_only": "prior only", "random": "random"}


@dataclass(frozen=True)
class BenchRow:
    """A row with its numbers; ``better`` is the number of draws in which a difference is to the better."""

    kind: str
    group: str
    data: str
    name: str
    draws: int | None
    pictures: int | None
    cells: dict[str, Cell]
    better: int | None = None

    def line(self) -> Line:
        """As text."""
        draws = "-" if self.draws is None else str(self.draws)
        if self.better is not None:
            draws += f" ({self.better} better)"
        pictures = "-" if self.pictures is None else str(self.pictures)
        numbers = (cell_text(self.cells.get(key), self.kind == "difference") for key in METRICS)
        return Line(self.kind, self.group, (self.group, self.name, self.data, draws, pictures, *numbers))

    def numbers(self, heading: str) -> dict[str, Any]:
        """As plain numbers."""
        head = {
            "kind": self.kind, heading: self.group, "method": self.name, "data": self.data, "draws": self.draws,
            "pictures": self.pictures, "better_draws": self.better,
        }  # fmt: skip
        empty = {part.name: None for part in fields(Cell)}
        cells = {key: asdict(self.cells[key]) if key in self.cells else empty for key in METRICS}
        return head | {f"{key}_{part}": value for key, cell in cells.items() for part, value in cell.items()}


def bench_rows(study: Study, collected: Sequence[Collected], with_published: bool = False) -> list[BenchRow]:
    """All rows, group by group: methods, their differences to the first, guesses, published."""
    pictures = Pictures.of([one.errors for one in collected])
    rows = []
    for group in dict.fromkeys(one.variant.group for one in collected):
        members = [one for one in collected if one.variant.group == group]
        base = members[0]
        errors = [pictures.errors(one.errors, study.seeds) for one in members]
        data = data_of(base)
        for one, error in zip(members, errors, strict=True):
            count = len({key for _, _, key in one.errors})
            rows.append(
                BenchRow("method", group, data, one.variant.name, len(study.seeds), count, row_cells(pictures, error))
            )
        for one, error in zip(members[1:], errors[1:], strict=True):
            both = error.isfinite() & errors[0].isfinite()
            ours, theirs = (
                draw_values(pictures, each.where(both, torch.nan))["acc_pi_6"] for each in (error, errors[0])
            )
            gains = [a - b for a, b in zip(ours, theirs, strict=True)]
            count = len(pictures.number[both.any(0)].unique())
            name = f"{one.variant.name} − {base.variant.name}"
            cells = difference_cells(pictures, error, errors[0])
            rows.append(BenchRow("difference", group, data, name, len(gains), count, cells, better_draws(gains)))
        rows += list(guess_rows(study, base, group, data))
        if with_published:
            rows += [
                BenchRow("published", group, WHERE, f"{name}, published", None, None, cells)
                for name, cells in published(int(group))
            ]
    return rows


def guess_rows(study: Study, one: Collected, group: str, data: str) -> Iterator[BenchRow]:
    """Prior-only and random rows of a variant: of each draw the mean over the folds, by their number of pictures."""
    for key, name in GUESSES.items():
        if not all(key in result.get("baselines", {}) for result in one.results.values()):
            continue
        cells = {}
        for metric, (_, more_is_better) in METRICS.items():
            factor = 100 if metric == "flip_180_rate" else 1
            values = []
            for seed in study.seeds:
                found = [one.results[seed, fold]["baselines"][key] for fold in range(len(study.folds))]
                total = sum(guess["n_images"] for guess in found)
                values.append(factor * sum(guess[metric] * guess["n_images"] for guess in found) / total)
            cells[metric] = spread(values, more_is_better)
        count = len({picture for _, _, picture in one.errors})
        yield BenchRow("guess", group, data, name, len(study.seeds), count, cells)


def data_of(one: Collected) -> str:
    """What the pictures of a row are, as the table must say it."""
    kind = "rendered" if one.one.get("synthetic") else "photographs"
    return f"{one.one['dataset']} {one.one.get('part', 'test')}, {kind}" + (
        ", azimuth only" if one.one.get("azimuth_only") else ""
    )


def notes(study: Study, collected: Sequence[Collected], rows: Sequence[BenchRow]) -> tuple[str, ...]:
    """What a reader must know of the numbers."""
    texts = [
        "mean ± standard deviation (worst) over the label draws, in which labels, training and pool order change "
        f"together (seeds {' '.join(map(str, study.seeds))}); [95 % bootstrap interval of that mean over the test "
        "pictures, which speaks of their choice only: pictures of one object are not independent].",
        "Differences pair each draw with the same draw and each picture with the same picture; `better` counts draws "
        "by ACC pi/6. Guesses are exact expectations; with folds they are means over the folds, by their pictures.",
    ]
    if len(study.folds) > 1:
        keys = [key for one in collected[:1] for seed, _, key in one.errors if seed == study.seeds[0]]
        repeated = len(keys) - len(set(keys))
        kind = "categories, each with a model of its own" if study.categories else "folds"
        text = f"Each draw pools the test pictures of {len(study.folds)} {kind}"
        text += (
            f"; the tests of a picture in several folds share a weight of one ({repeated} such)." if repeated else "."
        )
        texts.append(text)
    if any(row.kind == "published" for row in rows):
        texts.append(
            "Published rows: NVSM (NeurIPS 2021), means over 12 categories of PASCAL3D+ under its own protocol. Other "
            "pictures, categories and labels: not comparable with the rows above them."
        )
    commits = {str(result.get("git_commit")) for one in collected for result in one.results.values()} - {"None"}
    if commits:
        texts.append("Fits of commit " + ", ".join(sorted(commit[:12] + commit[40:] for commit in commits)) + ".")
    return tuple(texts)


def draw_rows(study: Study, collected: Sequence[Collected], heading: str) -> list[dict[str, Any]]:
    """The metrics of every single draw."""
    pictures = Pictures.of([one.errors for one in collected])
    rows = []
    for one in collected:
        values = draw_values(pictures, pictures.errors(one.errors, study.seeds))
        for number, seed in enumerate(study.seeds):
            head = {heading: one.variant.group, "method": one.variant.name, "seed": seed}
            rows.append(head | {key: values[key][number] for key in METRICS})
    return rows


def write_tables(
    study: Study,
    collected: Sequence[Collected],
    folder: Path,
    title: str,
    heading: str = "labels",
    with_published: bool = False,
) -> Sheet:
    """``table.*`` and, with an E-step, ``pseudo_labels.*`` (csv, md, tex, png) and ``draws.csv``; prints what it wrote.

    Args:
        study: what was run.
        collected: by ``study.run``.
        folder: for the files.
        title: of the table.
        heading: what the groups are.
        with_published: whether the published few-shot rows stand beside it; groups are numbers of labels then.
    """
    rows = bench_rows(study, collected, with_published)
    heads = (heading, "method", "data", "draws", "pictures", *(head for head, _ in METRICS.values()))
    sheet = Sheet(title, heads, tuple(row.line() for row in rows), notes(study, collected, rows))
    files = sheet.write(folder / "table")
    write_text(folder / "table.csv", csv_text([row.numbers(heading) for row in rows]))
    write_text(folder / "draws.csv", csv_text(draw_rows(study, collected, heading)))
    console = Console(width=max(Console().width, 140))
    console.print(sheet.rich(), highlight=False)
    second = pseudo_sheet(collected, heading)
    if second is not None:
        files += second[0].write(folder / "pseudo_labels")
        write_text(folder / "pseudo_labels.csv", csv_text(second[1]))
        console.print(second[0].rich(), highlight=False)
    names = ", ".join(sorted({f"{file.stem}.{{csv,md,tex,png}}" for file in files}))
    console.print(f"written to {folder}: {names}, draws.csv", highlight=False, soft_wrap=True)
    return sheet
