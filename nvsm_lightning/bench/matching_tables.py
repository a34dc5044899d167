"""Numbers of the matching experiment: CSV of every match, CSV of every shift, a table for people."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from nvsm_lightning.bench.matching import CHANCE, Matches, Matching
from nvsm_lightning.metrics.pose import FLIP
from nvsm_lightning.pose.space import ANGLES
from nvsm_lightning.report.callback import csv_text

DRAWS = 1000
HEADERS = (
    "features", "epochs", "angle", "shift_deg", "median_deg", "median_low_deg", "median_high_deg", "quartile_1_deg",
    "quartile_3_deg", "mean_deg", "within_30", "flip_180_rate", "matches", "anchors",
)  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """Errors of one contender at one shift, over anchors and matched pictures; degrees, shares from 0 to 1.

    ``median_low`` to ``median_high`` is a 95 % bootstrap interval over the anchors: pictures matched with one anchor
    stand and fall together.
    """

    features: str
    epochs: int | None
    angle: str
    shift: float
    median: float
    median_low: float
    median_high: float
    quartile_1: float
    quartile_3: float
    mean: float
    within_30: float
    flip_180_rate: float
    matches: int
    anchors: int

    def line(self) -> tuple:
        """In the order of :data:`HEADERS`, rounded."""
        numbers = [f"{value:.4g}" if isinstance(value, float) else value for value in list(vars(self).values())[3:]]
        return (self.features, "" if self.epochs is None else self.epochs, self.angle, *numbers)


def summarise(matches: Matches, shifts: Sequence[tuple[str, float]], merged: bool = False) -> list[Summary]:
    """One summary a shift; ``merged``: shifts of the same size and angle, to either side, in one."""
    size = abs if merged else float
    groups: dict[tuple[str, float], list[int]] = {}
    for row, (angle, degrees) in enumerate(shifts):
        groups.setdefault((angle, float(size(degrees))), []).append(row)
    order = sorted(groups, key=lambda key: (ANGLES.index(key[0]), key[1]))
    return [summary(matches, angle, shift, matches.error[:, groups[angle, shift]].flatten(1)) for angle, shift in order]


def summary(matches: Matches, angle: str, shift: float, error: Float[Tensor, "anchor match"]) -> Summary:
    """Of errors in radians; NaN (no match) is left out."""
    degrees = error.double().rad2deg()
    known = degrees[~degrees.isnan()]
    generator = torch.Generator().manual_seed(0)
    if matches.name == CHANCE:  # every picture of the pool: a thousand draws of it would say nothing new
        low = high = known.quantile(0.5)
    else:
        draws = torch.randint(len(degrees), (DRAWS, len(degrees)), generator=generator)
        low, high = degrees[draws].flatten(1).nanquantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975]).double())
    first, middle, third = known.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    return Summary(
        matches.name, matches.epochs, angle, shift, middle, float(low), float(high), first, third, float(known.mean()),
        float((known < 30).double().mean()), float((error[~error.isnan()] > FLIP).double().mean()), len(known),
        len(degrees),
    )  # fmt: skip


def summary_table(summaries: Sequence[Summary]) -> str:
    """CSV of summaries."""
    return csv_text([HEADERS, *(one.line() for one in summaries)])


def match_table(matches: Sequence[Matches], matching: Matching) -> str:
    """CSV, one line a match; angles in degrees, ``rank`` from 1."""
    pool, labelled = matching.data.pool, matching.data.labelled
    lines = []
    for found in matches:
        for anchor, shift, rank in (~found.error.isnan()).nonzero().tolist():
            angle, degrees = matching.shifts[shift]
            position = (anchor, shift, rank)
            picture = int(found.index[position])
            true = matching.truth[picture].rad2deg().tolist()
            pose = matching.poses[anchor, shift].rad2deg().tolist()
            lines.append((
                found.name, angle, f"{degrees:g}", labelled[anchor].key, rank + 1, pool[picture].key,
                f"{float(found.score[position]):.6f}", f"{float(found.error[position].rad2deg()):.3f}",
                *(f"{value:.3f}" for value in (pose[0] % 360, *pose[1:])),
                *("" if value != value else f"{value:.3f}" for value in true),
            ))  # fmt: skip
    names = ("azimuth_deg", "elevation_deg", "theta_deg")
    head = ("features", "angle", "shift_deg", "anchor", "rank", "picture", "score", "error_deg", *names)
    return csv_text([(*head, *(f"true_{name}" for name in names)), *lines])


def cells(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, one a contender: ``median [interval] flips %`` at every size of shift of one angle."""
    shifts = sorted({one.shift for one in summaries})
    rows: dict[str, list[str]] = {}
    for one in summaries:
        interval = "" if one.features == CHANCE else f" [{one.median_low:.0f}, {one.median_high:.0f}]"
        text = f"{one.median:.1f}{interval} {100 * one.flip_180_rate:.0f} %"
        rows.setdefault(one.features, []).append(text)
    header = ["features", *("0" if shift == 0 else f"±{shift:g}" for shift in shifts)]
    return header, [[name, *texts] for name, texts in rows.items()]


def rich_tables(summaries: Sequence[Summary], title: str, caption: str) -> list[Table]:
    """For a terminal, one table an angle that was shifted."""
    tables = []
    for angle in ANGLES:
        chosen = [one for one in summaries if one.angle == angle]
        if not chosen:
            continue
        header, rows = cells(chosen)
        table = Table(title=f"{title}: shift of {angle}, degrees", caption=caption, box=SIMPLE_HEAD)
        table.title_justify = table.caption_justify = "left"
        for name in header:
            table.add_column(name, justify="left" if name == "features" else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown(summaries: Sequence[Summary]) -> str:
    """The same tables as GitHub Markdown."""
    parts = []
    for angle in ANGLES:
        chosen = [one for one in summaries if one.angle == angle]
        if chosen:
            header, rows = cells(chosen)
            head = ["| " + " | ".join([f"{angle} shift", *header[1:]]) + " |", "|" + "---|" * len(header)]
            parts.append("\n".join([*head, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n")
    return "\n".join(parts)
