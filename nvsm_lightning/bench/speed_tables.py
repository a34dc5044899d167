"""Table and plot of ``nvsm bench speed``."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvsm_lightning.bench.speed_rows import Row

HEAD = """# Speed

Medians of CPU time (all threads together) with quartiles, rivals measured in turns in one process; `x` is how many
times better than the baseline. Made by `nvsm bench speed`; pictures and features are synthetic.
"""


def number(value: float | None) -> str:
    """Three significant digits, no exponent."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    if round(value, digits) == 100 and value < 100:  # 99.998 % is not 100 %
        digits = 4
    return f"{value:,.{digits}f}"


def markdown(rows: Mapping[str, Sequence[Row]], machine: Mapping[str, Any]) -> str:
    """One table a part."""
    lines = [HEAD, *(f"- {key}: {value}" for key, value in machine.items())]
    for part, each in rows.items():
        lines += ["", f"## {part}", "", "| path | value | unit | quartiles | x | of | measured on | note |"]
        lines.append("|---|---:|---|---|---:|---|---|---|")
        for row in each:
            spread = f"{number(row.spread[0])} to {number(row.spread[1])}" if row.spread else ""
            ratio = number(row.ratio) if row.ratio is not None else ""
            cells = (row.name, number(row.value), row.unit, spread, ratio, row.baseline, row.what, row.note)
            lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Bars of all ratios on a logarithmic axis, one panel a part; nothing where no row has a ratio."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    panels = {part: [row for row in each if row.ratio] for part, each in rows.items()}
    panels = {part: each for part, each in panels.items() if each}
    if not panels:
        return
    heights = [len(each) + 1.5 for each in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(11, 0.3 * sum(heights) + 1), squeeze=False, height_ratios=heights, layout="constrained"
    )
    for axis, (part, each) in zip(axes[:, 0], panels.items(), strict=True):
        names = [f"{row.name}  [{number(row.value)} {row.unit}]" for row in each]
        ratios = [row.ratio or 1.0 for row in each]
        bars = axis.barh(range(len(each)), ratios, color="#3b6ea5")
        axis.bar_label(bars, [f" {number(ratio)}x" for ratio in ratios], fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_yticks(range(len(each)), names, fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_xlim(min(0.5, 0.6 * min(ratios)), max(2.0, 2.5 * max(ratios)))  # room for the numbers
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        baselines = sorted({row.baseline for row in each})
        of = baselines[0] if len(baselines) == 1 else "their baselines (see the table)"
        axis.set_title(f"{part}: times better than {of}", fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
