"""``nvsm bench speed``: what every hot path costs on this machine, beside what it is compared with."""

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nvsm_lightning import __version__
from nvsm_lightning.bench.speed_rows import Row, measurers
from nvsm_lightning.bench.speed_tables import markdown, plot
from nvsm_lightning.errors import ConfigError

TEXT = """Measure the speed of rasterising, pose search, matching, training (also in two
processes) and prediction on this machine.

Rivals are measured in turns in one process, as medians of CPU time with quartiles, so that a busy machine harms all
alike; one thread unless --threads says otherwise. Pictures and features are synthetic.

example:
  nvsm bench speed --out runs/speed --parts raster,pose --budget 30"""


def run(argv: Sequence[str], check: Callable[[Sequence[str]], None]) -> int:
    """Measure, print the tables and write ``speed.json``, ``speed.md`` and ``speed.png``. ``check`` is not used."""
    options = _parser().parse_args(list(argv))
    known = measurers()
    chosen = options.parts.split(",") if options.parts else list(known)
    if unknown := [part for part in chosen if part not in known]:
        raise ConfigError(f"--parts: there is no part {unknown[0]!r}. Choose among {', '.join(known)}.")
    if options.threads < 1 or not options.budget > 0:
        raise ConfigError("--threads and --budget must be positive.")
    torch.set_num_threads(options.threads)
    before = machine()
    rows: dict[str, list[Row]] = {}
    for part in chosen:
        print(f"measuring {part} ...", flush=True)
        rows[part] = known[part](options.budget)
        write(Path(options.out).expanduser(), rows, before)  # what is measured is kept if a later part fails
    print(markdown(rows, before))
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="nvsm bench speed", description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("--out", required=True, help="Folder for speed.json, speed.md and speed.png.")
    made.add_argument("--parts", default="", help="Parts between commas instead of all: raster,pose,...")
    made.add_argument("--budget", type=float, default=60.0, help="CPU seconds a part, about (default 60).")
    made.add_argument("--threads", type=int, default=1, help="Threads (default 1).")
    return made


def machine() -> dict[str, Any]:
    """The machine and the versions that were measured."""
    import numba

    cpu, cores = platform.processor() or platform.machine(), os.cpu_count()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
        facts = {key.strip(): value.strip() for key, value in lines}
        family = "/".join(facts.get(key, "?") for key in ("cpu family", "model"))
        cpu = f"{facts.get('model name', cpu)} (family/model {family})"
    return {
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load at the start": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numba": numba.__version__,
        "nvsm_lightning": __version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(folder: Path, rows: Mapping[str, Sequence[Row]], about: Mapping[str, Any]) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {part: [_plain(row) for row in each] for part, each in rows.items()}
    text = json.dumps({"machine": dict(about), "rows": plain}, indent=1, allow_nan=False)
    (folder / "speed.json").write_text(text + "\n", encoding="utf-8")
    (folder / "speed.md").write_text(markdown(rows, about), encoding="utf-8")
    plot(rows, folder / "speed.png")


def _plain(row: Row) -> dict[str, Any]:
    """A row for JSON, which has no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(row).items()
    }
