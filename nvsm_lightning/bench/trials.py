"""Run a sweep file on this machine: one fit a trial, and a table sorted by the metric on the validation part."""

import csv
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from nvsm_lightning.bench.jobs import Job, finished, run_jobs
from nvsm_lightning.bench.sheets import Line, Sheet, csv_text
from nvsm_lightning.bench.statistics import Cell, spread
from nvsm_lightning.bench.study import Check
from nvsm_lightning.bench.sweep_file import Sweep, Trial
from nvsm_lightning.errors import ConfigError, NVSMError
from nvsm_lightning.report.results import write_text

SEED = "seed_everything"  # trials that differ in it alone are one row of the table
# The test pictures are not even decoded: the final table of each fit is measured on the validation part as well.
VALIDATION = ("--data.test_on", "val")
# logged name: (heading, factor); beside the metric, as far as they are logged
BESIDE = {
    "val/acc_pi_6": ("ACC pi/6, %", 1.0),
    "val/acc_pi_18": ("ACC pi/18, %", 1.0),
    "val/med_err_deg": ("median, deg", 1.0),
    "val/flip_180_rate": (">150 deg, %", 100.0),
    "em/kept": ("kept share of the matched, %", 100.0),
}
SAMPLES = 12  # fits whose arguments are parsed before the first one begins


@dataclass
class Row:
    """Trials that differ in their seed alone.

    Attributes:
        parameters: without the seed.
        runs: names of the fits.
        late: those whose metric was not measured after the last epoch.
        values: for each logged name its last value in each fit.
    """

    parameters: Trial
    runs: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def cell(self, name: str, factor: float = 1.0) -> Cell:
        """Mean and spread over the fits, times ``factor``."""
        return spread([factor * value for value in self.values[name]], True)


def run_sweep(
    sweep: Sweep,
    trials: Sequence[Trial],
    folder: Path,
    parallel: int = 1,
    further: Sequence[str] = (),
    check: Check | None = None,
) -> None:
    """Run what is missing of the trials and write ``sweep.csv`` and ``sweep.md``; print the table.

    Args:
        sweep: the file.
        trials: values of its parameters.
        folder: of the tables; the runs lie in ``fits`` below it.
        parallel: fits at a time.
        further: options for every fit.
        check: called with arguments of a few fits, in which many values occur, before the first of them begins.

    Raises:
        ConfigError: an option is set twice, or the metric is not logged.
        NVSMError: some fits failed; the table of the others has been written.
    """
    fixed = {word.split("=")[0] for word in (*sweep.before, *sweep.after, *further) if word.startswith("--")}
    if both := [name for name in sweep.parameters if f"--{name}" in fixed]:
        raise ConfigError(f"--{both[0]} is swept; it cannot be set for all fits as well.")
    fits = folder / "fits"
    jobs = {trial_name(trial): (trial, job(sweep, trial, further)) for trial in trials}
    if check is not None and not all(finished(one, fits) for _, one in jobs.values()):
        for words in samples(sweep, trials, further):
            check(words)
    failure = None
    try:
        run_jobs([one for _, one in jobs.values()], fits, parallel)
    except ConfigError:
        raise
    except NVSMError as error:  # some fits failed: the others are worth a table
        failure = error
    there = {name: trial for name, (trial, one) in jobs.items() if finished(one, fits)}
    if there:
        write_table(sweep, rows_of(there, fits, sweep.metric), folder, len(jobs) - len(there))
    if failure is not None:
        raise failure


def job(sweep: Sweep, trial: Trial, further: Sequence[str]) -> Job:
    """The fit of a trial."""
    return Job(trial_name(trial), (*sweep.arguments(trial, further), *VALIDATION))


def trial_name(trial: Trial) -> str:
    """Name of a trial's run folder, from its parameters: the same when the file gets further values."""
    text = "_".join(f"{name.rsplit('.', 1)[-1]}={_short(value)}" for name, value in trial.items())
    mark = f"{zlib.crc32(json.dumps(trial, default=str).encode()):08x}"
    return f"{re.sub(r'[^A-Za-z0-9=._-]+', '-', text)[:80]}_{mark}"


def samples(sweep: Sweep, trials: Sequence[Trial], further: Sequence[str]) -> list[tuple[str, ...]]:
    """Arguments of the first trials that hold a value which none before them held."""
    seen, chosen = set[tuple[str, str]](), list[tuple[str, ...]]()
    for trial in trials:
        values = {(name, str(value)) for name, value in trial.items()}
        if values - seen and len(chosen) < SAMPLES:
            seen |= values
            chosen.append(job(sweep, trial, further).arguments)
    return chosen


# ---------------------------------------------------------------------- table


def last_values(run: Path, metric: str) -> tuple[dict[str, float], bool]:
    """The last value of each number in ``metrics.csv`` of a run, and whether that of ``metric`` is of the last epoch.

    Raises:
        ConfigError: there is no such file, or the metric is not in it.
    """
    path = run / "metrics.csv"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: a sweep reads it; do not leave RunCSVLogger out of trainer.logger.")
    values, epochs, measured = dict[str, float](), [-1.0], -1.0
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            values |= {name: float(value) for name, value in line.items() if value}
            epochs += [float(line["epoch"])] if line.get("epoch") else []
            measured = epochs[-1] if line.get(metric) else measured
    if metric not in values:
        known = ", ".join(sorted(name for name in values if name.startswith("val/"))) or "nothing"
        raise ConfigError(
            f"{path} holds no {metric}; of the validation part it holds {known}. Is there a validation part, and does "
            "trainer.check_val_every_n_epoch fall on the last epoch?"
        )
    return values, measured == max(epochs)


def rows_of(trials: dict[str, Trial], fits: Path, metric: str) -> list[Row]:
    """Rows in the order of the trials, those of several seeds joined."""
    groups: dict[str, Row] = {}
    for name, trial in trials.items():
        parameters = {key: value for key, value in trial.items() if key != SEED}
        row = groups.setdefault(json.dumps(parameters, default=str), Row(parameters))
        values, last = last_values(fits / name, metric)
        row.runs.append(name)
        row.late.extend([] if last else [name])
        for logged, value in values.items():
            row.values.setdefault(logged, []).append(value)
    return list(groups.values())


def write_table(sweep: Sweep, rows: Sequence[Row], folder: Path, failed: int = 0) -> None:
    """Write and print the rows, the best first."""
    sign = -1 if sweep.maximize else 1
    rows = sorted(rows, key=lambda row: _place(row.cell(sweep.metric).mean, sign))
    columns = [sweep.metric, *(name for name in BESIDE if name != sweep.metric)]
    columns = [name for name in columns if any(name in row.values for row in rows)]
    swept = [name for name in sweep.parameters if name != SEED]
    notes = [
        f"Sorted by {sweep.metric}, {'largest' if sweep.maximize else 'smallest'} first: its last value in each fit, "
        "on the validation part. The test part was not looked at."
    ]
    if any(len(row.runs) > 1 for row in rows):
        notes.append("mean ± standard deviation over seeds")
    if late := [name for row in rows for name in row.late]:
        notes.append(f"{len(late)} fits were not measured after their last epoch (trainer.check_val_every_n_epoch)")
    if failed:
        notes.append(f"{failed} fits failed and are not in the table")
    heads = [name.rsplit(".", 1)[-1] for name in swept] + ["runs"]
    heads += [BESIDE[name][0] if name in BESIDE else name for name in columns]
    lines = [Line("method", "", tuple(_texts(row, swept, columns))) for row in rows]
    sheet = Sheet(f"Sweep {sweep.name}", tuple(heads), tuple(lines), tuple(notes), words=len(swept))
    write_text(folder / "sweep.csv", csv_text([_numbers(row, swept, columns) for row in rows]))
    write_text(folder / "sweep.md", sheet.markdown())
    console = Console(width=max(Console().width, 140))
    console.print(sheet.rich(), highlight=False)
    console.print(f"written to {folder / 'sweep.csv'} and {folder / 'sweep.md'}", highlight=False, soft_wrap=True)


def _texts(row: Row, swept: Sequence[str], columns: Sequence[str]) -> list[str]:
    cells = [row.cell(name, BESIDE.get(name, ("", 1.0))[1]) if name in row.values else None for name in columns]
    texts = [
        "-" if cell is None else f"{cell.mean:.1f}" + ("" if cell.std is None else f" ± {cell.std:.1f}")
        for cell in cells
    ]
    return [*(_short(row.parameters[name]) for name in swept), str(len(row.runs)), *texts]


def _numbers(row: Row, swept: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    numbers: dict[str, Any] = {**{name: row.parameters[name] for name in swept}, "runs": len(row.runs)}
    for name in columns:
        cell = row.cell(name) if name in row.values else None
        numbers |= {name: cell and cell.mean, f"{name}_std": cell and cell.std}
    return numbers | {"folders": " ".join(row.runs)}


def _place(value: float, sign: int) -> tuple[bool, float]:
    return value != value, sign * value  # NaN last


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
