"""The result table: on the terminal with rich, as CSV and as Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

LEGACY = ("acc_pi_6_legacy_sqrt2", "acc_pi_18_legacy_sqrt2", "med_err_deg_legacy_sqrt2")
HEADERS = ("method", "labels", "seed", "pictures", "ACC pi/6", "ACC pi/18", "median", "mean", ">150 deg")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        method: what made the predictions.
        labels: number of labelled pictures it used.
        seed: of the label draw and the training; None for the guessing rows, which are exact expectations.
        metrics: as :func:`nvsm_lightning.report.results.measure` returns them.
    """

    method: str
    labels: int
    seed: int | None
    metrics: Mapping[str, Any]

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of :data:`HEADERS`: accuracies in per cent, errors in degrees."""
        values, intervals = self.metrics, self.metrics.get("interval", {})

        def with_interval(key: str, digits: int = 1) -> str:
            """A number, and its interval where there is one."""
            text = f"{values[key]:.{digits}f}"
            return (
                f"{text} [{intervals[key][0]:.{digits}f}, {intervals[key][1]:.{digits}f}]" if key in intervals else text
            )

        return (
            self.method,
            str(self.labels),
            "-" if self.seed is None else str(self.seed),
            str(values["n_images"]),
            with_interval("acc_pi_6"),
            with_interval("acc_pi_18"),
            with_interval("med_err_deg"),
            f"{values['mean_err_deg']:.1f}",
            f"{100 * values['flip_180_rate']:.1f} %",
        )


def rich_table(rows: Sequence[Row], title: str, caption: str = "") -> Table:
    """The table for a terminal, with a rule between the method and the guessing rows."""
    table = Table(
        title=escape(title),
        caption=escape(caption) or None,
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.cells(), style="bold" if row.seed is not None else "dim")
    return table


def csv_table(rows: Sequence[Row]) -> str:
    """The table as CSV with plain numbers: one column a metric and two an interval; at the end those of
    :func:`nvsm_lightning.metrics.pose.legacy_sqrt2_metrics`, where they were measured.
    """
    keys = ("acc_pi_6", "acc_pi_18", "med_err_deg", "mean_err_deg", "flip_180_rate")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    bounds = [name for key in keys for name in (key, f"{key}_low", f"{key}_high")]
    writer.writerow(["method", "n_labels", "seed", "n_images", *bounds, *LEGACY])
    for row in rows:
        numbers = []
        for key in keys:
            interval = row.metrics.get("interval", {}).get(key, ("", ""))
            numbers += [row.metrics[key], *interval]
        legacy = [row.metrics.get(name, "") for name in LEGACY]
        seed = "" if row.seed is None else row.seed
        writer.writerow([row.method, row.labels, seed, row.metrics["n_images"], *numbers, *legacy])
    return file.getvalue()


def markdown_table(rows: Sequence[Row]) -> str:
    """The table as GitHub Markdown."""
    lines = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"
