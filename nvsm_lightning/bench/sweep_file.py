"""A sweep file of Weights & Biases, read so that it can be run here: parameters, method, metric, command.

The format is documented at https://docs.wandb.ai/models/sweeps/sweep-config-keys. What only its server can do
(``method: bayes``) is refused with a message; what is not known is never skipped in silence.
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nvsm_lightning.bench.study import read_yaml
from nvsm_lightning.errors import ConfigError

ARGS = "${args}"
KEYS = {  # of a file; None: has no meaning for fits on this machine
    "method", "parameters", "command", "metric", "run_cap",
    "program", "name", "description", "project", "entity", "apiVersion", "kind",
}  # fmt: skip
# What a distribution needs besides its name; names with q_ in front take the rounding step q as well.
NEEDS = {
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "normal": (),
    "log_normal": (),
}
OPTIONAL = {"categorical": ("probabilities",), "normal": ("mu", "sigma"), "log_normal": ("mu", "sigma")}
QUANTISED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal")
Trial = dict[str, Any]  # value of each parameter


@dataclass(frozen=True)
class Sweep:
    """A sweep file that has been checked.

    Attributes:
        name: of the sweep.
        method: ``grid`` or ``random``.
        parameters: dotted option of ``nvsm fit`` -> settings of its distribution, in the order of the file.
        before: words of the command after ``nvsm fit`` and before the parameters.
        after: words after the parameters.
        metric: name of a logged number, which must not be of the test part.
        maximize: whether more of it is better.
        run_cap: most trials, if the file says so.
    """

    name: str
    method: str
    parameters: dict[str, dict[str, Any]]
    before: tuple[str, ...]
    after: tuple[str, ...]
    metric: str
    maximize: bool
    run_cap: int | None = None

    def trials(self, count: int | None = None, seed: int = 0) -> list[Trial]:
        """Values of the parameters of every trial: all combinations, or ``count`` random ones, each once.

        Random trial n depends on ``seed`` and n alone, so that more of them keep those that were run before.

        Raises:
            ConfigError: a random sweep that nobody has bounded, or a grid over a continuous parameter.
        """
        limit = count if count is not None else self.run_cap
        if self.method == "grid":
            axes = [grid_values(name, settings) for name, settings in self.parameters.items()]
            return [dict(zip(self.parameters, values, strict=True)) for values in itertools.product(*axes)][:limit]
        if limit is None:
            raise ConfigError("A random sweep needs a number of trials: --count N, or run_cap in the file.")
        trials: list[Trial] = []
        for number in range(100 * limit):
            source = random.Random(f"{seed} {number}")
            trial = {name: draw(settings, source) for name, settings in self.parameters.items()}
            if trial not in trials:
                trials.append(trial)
            if len(trials) == limit:
                break
        return trials

    def arguments(self, trial: Trial, further: Sequence[str] = ()) -> tuple[str, ...]:
        """What follows ``nvsm fit``: the command of the file, its parameters as W&B writes them, and ``further``
        options in front of them.
        """
        flags = (f"--{name}={value}" for name, value in trial.items())
        return (*self.before, *further, *flags, *self.after)


def read_sweep(name: str) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ConfigError: it is no sweep file, or asks for what cannot be done on this machine.
    """
    content = read_yaml(name, "FILE")
    if not isinstance(content, dict) or "parameters" not in content or "method" not in content:
        raise ConfigError(f"{name}: a sweep file needs `method:`, `parameters:` and `command:`.")
    for key in content:
        if key not in KEYS:
            raise ConfigError(f"{name}: {key!r} is nothing the local engine knows; remove it, or use --engine wandb.")
    method = content["method"]
    if method not in ("grid", "random"):
        raise ConfigError(
            f"{name}: method {method!r} needs the server of Weights & Biases: --engine wandb, or `wandb sweep {name}`. "
            "The local engine knows grid and random."
        )
    if not isinstance(content["parameters"], dict) or not content["parameters"]:
        raise ConfigError(f"{name}: `parameters:` names no parameter.")
    parameters = {key: _checked(name, key, settings) for key, settings in content["parameters"].items()}
    before, after = _command(name, content.get("command"))
    metric = content.get("metric") or {"name": "val/acc_pi_6", "goal": "maximize"}
    if not isinstance(metric, dict) or metric.get("goal", "minimize") not in ("minimize", "maximize"):
        raise ConfigError(f"{name}: expected `metric: {{name: val/..., goal: maximize or minimize}}`.")
    if not str(metric.get("name", "")).startswith("val/"):
        raise ConfigError(
            f"{name}: metric {metric.get('name')!r} is not of the validation part. Settings chosen by test pictures or "
            "by the hidden truth of the pool say nothing about new ones; use val/acc_pi_6."
        )
    cap = content.get("run_cap")
    if cap is not None and (not _is_number(cap) or cap != int(cap) or cap < 1):
        raise ConfigError(f"{name}: run_cap {cap!r} is no number of trials.")
    title = str(content.get("name", "sweep"))
    maximize = metric.get("goal", "minimize") == "maximize"  # minimize is the default of W&B
    return Sweep(title, method, parameters, before, after, metric["name"], maximize, None if cap is None else int(cap))


def _command(name: str, command: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words between ``nvsm fit`` and ``${args}``, and those after it."""
    words = [str(word) for word in command] if isinstance(command, list) else []
    if "fit" not in words or words.count(ARGS) != 1 or words.index("fit") > words.index(ARGS):
        raise ConfigError(
            f"{name}: the command must be that of a fit with its settings as `${{args}}`: "
            'command: [nvsm, fit, --config, configs/car_7shot.yaml, "${args}"]'
        )
    rest = words[words.index("fit") + 1 :]
    place = rest.index(ARGS)
    if unknown := [word for word in rest if word.startswith("${") and word != ARGS]:
        raise ConfigError(f"{name}: {unknown[0]} in the command is not known here; use {ARGS}.")
    return tuple(rest[:place]), tuple(rest[place + 1 :])


def _checked(name: str, key: str, settings: Any) -> dict[str, Any]:
    """The settings of a parameter with its distribution filled in, as W&B does."""
    if not isinstance(settings, dict) or "parameters" in settings:
        raise ConfigError(f"{name}: {key}: expected `{{values: [...]}}`, `{{min: .., max: ..}}` or the like; nested "
                          "parameters are written as one dotted name.")  # fmt: skip
    settings = dict(settings)
    if "distribution" not in settings:
        whole = all(isinstance(settings.get(end), int) for end in ("min", "max"))
        kinds = {"value": "constant", "values": "categorical", "min": "int_uniform" if whole else "uniform"}
        found = [kind for word, kind in kinds.items() if word in settings]
        settings["distribution"] = found[0] if found else ""
    kind = str(settings["distribution"])
    if kind == "categorical_w_probabilities":
        kind = settings["distribution"] = "categorical"
    base = kind.removeprefix("q_")
    if base not in NEEDS or (kind != base and base not in QUANTISED):
        raise ConfigError(f"{name}: {key}: distribution {kind!r} is not known here. Known: {', '.join(NEEDS)}, and q_ "
                          f"before {', '.join(QUANTISED)}.")  # fmt: skip
    allowed = {"distribution", *NEEDS[base], *OPTIONAL.get(base, ()), *(("q",) if kind != base else ())}
    missing, surplus = set(NEEDS[base]) - set(settings), set(settings) - allowed
    if missing or surplus:
        what = f"lacks {', '.join(sorted(missing))}" if missing else f"has {', '.join(sorted(surplus))}"
        raise ConfigError(f"{name}: {key}: {kind} {what}.")
    for end in ("min", "max", "mu", "sigma", "q"):
        if end in settings and not _is_number(settings[end]):
            raise ConfigError(f"{name}: {key}: {end} {settings[end]!r} is no number (YAML wants 1.0e-5 for 1e-5).")
    if settings.get("q", 1) <= 0:
        raise ConfigError(f"{name}: {key}: q {settings['q']} is no step; it must be above 0.")
    if base == "int_uniform" and not all(isinstance(settings[end], int) for end in ("min", "max")):
        raise ConfigError(f"{name}: {key}: int_uniform needs whole numbers.")
    if "min" in settings and settings["min"] >= settings["max"]:
        raise ConfigError(f"{name}: {key}: min {settings['min']} is not below max {settings['max']}.")
    if base == "log_uniform_values" and settings["min"] <= 0:
        raise ConfigError(f"{name}: {key}: log_uniform_values needs min above 0.")
    if base == "categorical" and (not isinstance(settings["values"], list) or not settings["values"]):
        raise ConfigError(f"{name}: {key}: `values:` must be a list.")
    if "probabilities" in settings:
        chances = settings["probabilities"]
        if not isinstance(chances, list) or len(chances) != len(settings["values"]):
            raise ConfigError(f"{name}: {key}: one probability for each value.")
        if not all(_is_number(chance) and chance >= 0 for chance in chances) or not sum(chances) > 0:
            raise ConfigError(f"{name}: {key}: probabilities must be numbers, none below 0 and not all 0.")
    return settings


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def grid_values(name: str, settings: dict[str, Any]) -> list[Any]:
    """Values of a parameter on a grid, as W&B takes them (``q_uniform``: without its upper end)."""
    kind = settings["distribution"]
    if kind == "constant":
        return [settings["value"]]
    if kind == "categorical" and "probabilities" not in settings:
        return list(settings["values"])
    if kind == "int_uniform":
        return list(range(settings["min"], settings["max"] + 1))
    if kind == "q_uniform":
        step = settings.get("q", 1.0)
        count = math.ceil((settings["max"] - settings["min"]) / step)
        return [settings["min"] + number * step for number in range(count)]
    raise ConfigError(f"{name}: a grid needs values; {kind} has none. Use `method: random`.")


def draw(settings: dict[str, Any], source: random.Random) -> Any:
    """A random value of a parameter."""
    kind = settings["distribution"]
    base = kind.removeprefix("q_")
    low, high = settings.get("min", 0), settings.get("max", 0)
    if base == "constant":
        return settings["value"]
    if base == "categorical":
        return source.choices(settings["values"], settings.get("probabilities"))[0]
    if base == "int_uniform":
        return source.randint(low, high)
    if base == "uniform":
        value = source.uniform(low, high)
    elif base == "log_uniform":  # min and max are exponents of e
        value = math.exp(source.uniform(low, high))
    elif base == "log_uniform_values":
        value = math.exp(source.uniform(math.log(low), math.log(high)))
    else:
        value = source.gauss(settings.get("mu", 0.0), settings.get("sigma", 1.0))
        value = math.exp(value) if base == "log_normal" else value
    if kind == base:
        return value
    step = settings.get("q", 1.0)
    rounded = round(value / step) * step
    return int(rounded) if isinstance(step, int) else rounded
