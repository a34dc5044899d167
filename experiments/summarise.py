"""Gather finished runs into one Markdown table: one row for each data set, method and number of labels, over all seeds.

    python experiments/summarise.py runs/*/results.json

The columns give the mean over the seeds and, in brackets, the values of the seeds in order: with few label draws the
spread says more than an interval over pictures does.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

COLUMNS = (
    ("ACC pi/6", "acc_pi_6", 1.0),
    ("ACC pi/18", "acc_pi_18", 1.0),
    ("median", "med_err_deg", 1.0),
    ("mean", "mean_err_deg", 1.0),
    (">150 deg, %", "flip_180_rate", 100.0),
)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown rows, sorted by data set, part, category, labels and method."""
    groups: dict[tuple[str, str, str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        part, category = result.get("part", "test"), str(result.get("category", ""))
        groups[(result["dataset"], part, category, result["n_labels"], result["method"])].append(result)
    heads = ["data, part (pictures)", "labels", "method", *(name for name, _, _ in COLUMNS), "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (dataset, part, category, labels, method), runs in sorted(groups.items()):
        runs.sort(key=lambda run: run["seed"])
        cells = [f"{dataset} {category}, {part} ({runs[0]['n_images']})", str(labels), method]
        for _, key, factor in COLUMNS:
            values = [factor * run[key] for run in runs]
            each = " ".join(f"{value:.1f}" for value in values)
            cells.append(f"{sum(values) / len(values):.1f} ({each})")
        cells.append(" ".join(str(run["seed"]) for run in runs))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(table([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]))
