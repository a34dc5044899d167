"""``nvsm sweep FILE``: runs a sweep file of Weights & Biases, on this machine or through its server."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from nvsm_lightning.errors import ConfigError

TEXT = """\
FILE is a sweep file of Weights & Biases (method, parameters, metric, command); `wandb sweep FILE` takes the same file.

--engine local (no account, no network): method grid or random. One fit a trial, each in its own folder below
--out/fits; finished fits are kept and interrupted ones resumed, so the same command goes on. It ends with a table
sorted by the metric, which must be one of the validation part. A parameter `seed_everything: {values: [0, 1, 2]}`
repeats each trial; the table then has mean and spread.

--engine wandb: creates the sweep on the server and runs it here; needs an account (`wandb login`). Other machines join
with `wandb agent ID`.

Options that are not listed go to every fit:
  nvsm sweep configs/sweeps/e_step_gates.yaml --config configs/datasets/epfl_cars.yaml --data.root EPFL --parallel 2
"""
OWN = ("--run_dir", "--ckpt_path", "--trainer.default_root_dir", "--data.test_on", "--test_after_fit")


def run(argv: Sequence[str]) -> int:
    """Run the sweep of a file.

    Raises:
        ConfigError: the file or an option is not understood, or the engine is not to be had.
        NVSMError: some fits failed.
    """
    words = list(argv[1:])
    name = words.pop(0) if words and not words[0].startswith("-") else None
    options, further = _parser().parse_known_args(words)
    if name is None:
        raise ConfigError("nvsm sweep: the sweep file comes first; see `nvsm sweep --help`.")
    for word in further:
        if word.split("=")[0] in OWN:
            raise ConfigError(f"{word.split('=')[0]} is set by the sweep itself; see `nvsm sweep --help`.")
    if options.engine == "wandb":
        local = [
            f"--{each}" for each in ("out", "parallel", "seed") if getattr(options, each) != _parser().get_default(each)
        ]
        if local:
            raise ConfigError(
                f"{', '.join(local)}: of --engine local only; trials on the server have folders of their own."
            )
        _on_server(name, options.count, further)
        return 0
    from nvsm_lightning.bench.sweep_file import read_sweep
    from nvsm_lightning.bench.trials import run_sweep
    from nvsm_lightning.cli.bench import check_fit

    sweep = read_sweep(name)
    out = Path(options.out or f"runs/{sweep.name}").expanduser()
    run_sweep(sweep, sweep.trials(options.count, options.seed), out, options.parallel, further, check_fit)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nvsm sweep",
        usage="nvsm sweep FILE [options] [options of nvsm fit]",
        description=TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--engine", choices=["local", "wandb"], default="local", help="Who chooses and records trials; default: local.")
    add("--out", default=None, help="Local: folder of runs and table, default runs/<name of the sweep>.")
    add("--parallel", type=int, default=1, help="Local: fits at a time; the cores are divided among them.")
    add("--count", type=_positive, default=None, help="Most trials; default: run_cap of the file, for a grid all.")
    add("--seed", type=int, default=0, help="Local: of the draws of a random sweep.")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, not {text}")
    return number


def _on_server(name: str, count: int | None, further: Sequence[str]) -> None:
    """Create the sweep on the server of Weights & Biases and work on it."""
    from nvsm_lightning.bench.study import read_yaml

    content = read_yaml(name, "FILE")
    command = content.get("command") if isinstance(content, dict) else None
    if not isinstance(command, list) or "${args}" not in command:
        raise ConfigError(f'{name}: a sweep file needs `command: [nvsm, fit, ..., "${{args}}"]`.')
    metric = content.get("metric")
    if isinstance(metric, dict) and not str(metric.get("name", "val/")).startswith("val/"):
        raise ConfigError(f"{name}: metric {metric['name']} is not of the validation part; trials are compared on it.")
    place = command.index("${args}")
    content["command"] = [*command[:place], *further, *command[place:]]
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("--engine wandb needs the package wandb; --engine local does not.") from error
    if command[0] == "nvsm" and shutil.which("nvsm") is None:
        raise ConfigError("W&B's agent starts `nvsm`, which is not on the PATH: activate its environment first.")
    owner = {"entity": content.get("entity"), "project": content.get("project")}
    try:
        sweep = wandb.sweep(content, **owner)
    except (wandb.Error, ValueError) as error:
        raise ConfigError(
            f"Weights & Biases did not take the sweep: {error} --engine wandb needs an account (`wandb login`) and a "
            "network; --engine local runs the same file without either."
        ) from error
    wandb.agent(sweep, count=count, **owner)
