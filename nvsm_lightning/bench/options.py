"""Options that benches share. What a bench does not know is an option of ``nvsm fit`` and goes to every fit."""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nvsm_lightning.bench.config_files import settings_in
from nvsm_lightning.bench.study import Options, read_folds
from nvsm_lightning.errors import ConfigError

CONFIG = "configs/car_7shot.yaml"  # the main job, on the embedded set

# set by the bench itself
OWN = (
    "--data.labels", "--data.label_seed", "--seed_everything", "--run_dir", "--ckpt_path", "--test_after_fit",
    "--trainer.default_root_dir",
)  # fmt: skip


@dataclass(frozen=True)
class Common:
    """The shared options: fit arguments of every row, seeds, folds, fits at a time, folders of runs and tables."""

    arguments: Options
    seeds: tuple[int, ...]
    folds: tuple[Options, ...]
    parallel: int
    out: Path
    tables: Path


def parser(name: str, usage: str, text: str) -> argparse.ArgumentParser:
    """A parser with the shared options; ``text`` explains the bench and ends with an example."""
    made = argparse.ArgumentParser(
        prog=f"nvsm bench {name}",
        usage=f"nvsm bench {name} {usage}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--seeds", default="5", help="Label draws: how many (0, 1, ...; default: %(default)s), or a list such as 0,3,4."
    )
    made.add_argument(
        "--config", "-c", action="append", default=[], help=f"As for `nvsm fit`; may be repeated. Without it {CONFIG}."
    )
    made.add_argument("--folds", default=None, help="YAML: a list of folds, each a list of fit options; or none.")
    made.add_argument("--parallel", type=int, default=1, help="Fits at a time; the cores are divided among them.")
    made.add_argument(
        "--out",
        default=f"runs/{name}",
        help="Folder of the runs and tables (default: %(default)s). The same command goes on in it.",
    )
    made.add_argument("--tables", default=None, help="Folder for the tables instead of --out.")
    return made


def common(options: argparse.Namespace, further: Sequence[str], own: Sequence[str] = OWN) -> Common:
    """The shared options from what :func:`parser` found and what it did not know.

    Raises:
        ConfigError: ``further`` sets what the bench sets itself, a number is none, or there is no configuration.
    """
    for word in further:
        if word.split("=")[0] in own:
            raise ConfigError(f"{word.split('=')[0]} is set by the bench itself; see `nvsm bench --help`.")
        name = word.removeprefix("--").split("=")[0]
        if word.startswith("--") and (near := difflib.get_close_matches(name, vars(options), n=1, cutoff=0.8)):
            raise ConfigError(f"--{name} is no option of this bench. Did you mean --{near[0]}?")
    if not options.config and not Path(CONFIG).is_file():
        raise ConfigError(f"The bench needs --config FILE: without it {CONFIG} is taken, which is not in this folder.")
    for name in options.config:
        if any(key == "label_seed" and value is not None for key, value in settings_in(name)):
            raise ConfigError(f"{name} sets label_seed: every draw would have the same labels. --seeds chooses them.")
    files = tuple(word for name in options.config or [CONFIG] for word in ("--config", name))
    out = Path(options.out).expanduser()
    seeds = numbers(options.seeds, "--seeds")
    return Common(
        arguments=(*files, *further),
        seeds=tuple(range(seeds[0])) if "," not in options.seeds else seeds,
        folds=read_folds(options.folds),
        parallel=options.parallel,
        out=out,
        tables=out if options.tables is None else Path(options.tables).expanduser(),
    )


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers between commas, each once."""
    try:
        found = tuple(dict.fromkeys(int(word) for word in text.split(",") if word.strip()))
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected whole numbers between commas.") from error
    least = 0 if option == "--seeds" and "," in text else 1  # seeds themselves, or how many
    if not found or min(found) < least:
        raise ConfigError(f"{option} {text}: expected positive whole numbers between commas.")
    return found


def run_folders(text: str | None) -> list[Path]:
    """The folders of ``--runs``, comma between."""
    return [Path(name.strip()).expanduser() for name in (text or "").split(",") if name.strip()]
