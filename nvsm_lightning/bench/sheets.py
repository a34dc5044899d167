"""A table of text cells in every form: terminal, Markdown, LaTeX, PNG; and plain numbers as CSV."""

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from nvsm_lightning.bench.statistics import Cell
from nvsm_lightning.report.results import write_text

# of rows: a method, a difference, a guess without looking, a row from elsewhere
COLOURS = {"method": "#ffffff", "difference": "#e8f1fa", "guess": "#f2f2f2", "published": "#fdf3e1"}
STYLES = {"method": "bold", "difference": "", "guess": "dim", "published": "dim italic"}
ESCAPES = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", ">": "$>$", "−": "$-$"}


@dataclass(frozen=True)
class Line:
    """A row: its kind (a key of :data:`COLOURS`), its group (a rule stands between groups) and its cells."""

    kind: str
    group: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        title: above it.
        heads: of the columns; the first ``words`` of them are left-aligned text, the others numbers.
        lines: the rows.
        notes: below it.
        words: number of text columns.
    """

    title: str
    heads: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    words: int = 3

    def write(self, stem: Path) -> list[Path]:
        """``<stem>.md``, ``<stem>.tex`` and ``<stem>.png``; returns the paths."""
        paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("md", "tex", "png")]
        write_text(paths[0], self.markdown())
        write_text(paths[1], self.latex())
        self.picture(paths[2])
        return paths

    def markdown(self) -> str:
        """GitHub Markdown."""
        marks = ["---"] * self.words + ["---:"] * (len(self.heads) - self.words)
        rows = [self.heads, marks, *(line.cells for line in self.lines)]
        table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{table}\n\n{notes}\n"

    def latex(self) -> str:
        """A ``table`` with ``tabular`` for the package booktabs."""
        columns = "l" * self.words + "r" * (len(self.heads) - self.words)
        lines = [
            r"% \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex(self.title)}. {latex(' '.join(self.notes))}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(latex(head) for head in self.heads) + r" \\",
        ]
        group = None
        for line in self.lines:
            lines += [r"\midrule"] if line.group != group else []
            group = line.group
            lines.append(" & ".join(latex(cell) for cell in line.cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"

    def rich(self) -> Table:
        """For a terminal, intervals on a second line."""
        table = Table(
            title=escape(self.title), caption=escape("\n".join(self.notes)), box=SIMPLE_HEAD, title_justify="left",
            caption_justify="left",
        )  # fmt: skip
        for number, head in enumerate(self.heads):
            if number < self.words:  # names are broken between words only
                longest = max(len(word) for cell in [head, *(line.cells[number] for line in self.lines)]
                              for word in cell.split() or [""])  # fmt: skip
                table.add_column(head, min_width=longest)
            else:
                table.add_column(head, justify="right", overflow="fold")
        for line, after in zip(self.lines, [*self.lines[1:], None], strict=True):
            last = after is not None and after.group != line.group
            table.add_row(*(escape(_broken(cell)) for cell in line.cells), style=STYLES[line.kind], end_section=last)
        return table

    def picture(self, path: Path, size: float = 8.0) -> None:
        """The table drawn as PNG, ``size`` in points; intervals on a second line."""
        rows = [tuple(_broken(head) for head in self.heads), *(tuple(map(_broken, line.cells)) for line in self.lines)]
        widths = [
            max(len(part) for row in rows for part in row[column].split("\n")) + 3 for column in range(len(rows[0]))
        ]
        heights = [max(cell.count("\n") + 1 for cell in row) + 0.7 for row in rows]
        em, line = 0.60 * size / 72, 1.25 * size / 72  # inches a character and a line of text take
        width = max(sum(widths) * em, 7.0)
        notes = [part for note in self.notes for part in _wrapped(note, int(width / em))]
        height = (sum(heights) + len(notes) + 3.5) * line
        figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width / em), ylim=(height / line, 0))
        axes.axis("off")
        text: dict[str, Any] = {"family": "monospace", "fontsize": size, "linespacing": 1.15}
        axes.text(1, 1.2, self.title, va="center", weight="bold", family="monospace", fontsize=size + 1)
        top = 2.2
        for row, (cells, tall) in enumerate(zip(rows, heights, strict=True)):
            kind = self.lines[row - 1].kind if row else "method"
            axes.axhspan(top, top + tall, color=COLOURS[kind], lw=0)
            if row < 2 or self.lines[row - 1].group != self.lines[row - 2].group:
                axes.axhline(top, color="black", lw=0.8)
            left = 0
            for column, (cell, wide) in enumerate(zip(cells, widths, strict=True)):
                word = column < self.words
                at, side = (left + 1.5, "left") if word else (left + wide - 1.5, "right")
                weight = "bold" if row == 0 else "normal"
                axes.text(at, top + tall / 2, cell, ha=side, va="center", multialignment=side, weight=weight, **text)
                left += wide
            top += tall
        axes.axhline(top, color="black", lw=0.8)
        for number, note in enumerate(notes):
            axes.text(1, top + 1 + number, note, va="center", family="monospace", fontsize=size - 1, color="#444444")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def cell_text(cell: Cell | None, signed: bool = False) -> str:
    """``mean ± std (worst) [low, high]`` as far as it is known."""
    if cell is None:
        return "-"
    plus = "+" if signed else ""
    text = f"{cell.mean:{plus}.1f}"
    text += f" ± {cell.std:.1f}" if cell.std is not None else ""
    text += f" ({cell.worst:{plus}.1f})" if cell.worst is not None and cell.std is not None else ""
    return text + (f" [{cell.low:{plus}.1f}, {cell.high:{plus}.1f}]" if cell.low is not None else "")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV with a heading; None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    return file.getvalue()


def latex(text: str) -> str:
    """Text with the characters that LaTeX reads as commands escaped."""
    return "".join(ESCAPES.get(letter, letter) for letter in text)


def _broken(cell: str) -> str:
    return cell.replace(" [", "\n[")


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width - 4) or [""]
