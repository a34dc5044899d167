"""The argument parser of the Lightning commands: a wrong setting gives one short message, with a suggestion."""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from nvsm_lightning.cli.main import did_you_mean, fail

UNKNOWN = re.compile(
    r"(?:Key|Option) ['\"](?P<key>[^'\"]+)['\"] is not (?:expected|accepted)"
    r"|does not accept (?:nested )?(?:option|key) ['\"](?P<nested>[^'\"]+)['\"]"
    r"|[Uu]nrecognized arguments?: --(?P<flag>[^\s=]+)"
    r"|No action for key ['\"](?P<action>[^'\"]+)['\"]"
)
OTHER_METHOD = re.compile(r"Option '[^']+' is not accepted")  # in a file; on the command line it is unrecognized
# jsonargparse wraps the cause of a class's error into the list of all types it tried
CAUSE = re.compile(
    r"Problem with given class_path '(?P<name>[^']+)':\s*(?P<text>.*?)(?=\n    - |\n  Given value|\Z)", re.S
)
BASES = {"PoseMethod": "method", "PoseData": "data set"}


class SuggestingParser(LightningArgumentParser):
    """Refuses what it does not know and says what may have been meant, without fifty lines of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print ``nvsm: error: ...`` and exit with status 2; raise where jsonargparse tries one type after another."""
        parser = getattr(ex, "subcommand_parser", None) or self
        found = UNKNOWN.search(message)
        if found and "Did you mean" not in message:
            message = message.rstrip() + "." + suggestion(next(filter(None, found.groups())), parser.known_keys())
        if not self.exit_on_error:
            super().error(message, ex)
        command = parser.prog.replace(" [options]", "")
        if re.search(r"\w+\.data, \w+\.model", message):
            message += ". Start from a configuration: nvsm fit --config configs/car_7shot.yaml"
        if re.search(r"required: (predict|test|validate)\.model", message):
            message += ". Name the model's run: --config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"
        self.exit(fail(f"{short(message)}\nAll settings: {command} {help_option(message)}"))

    def known_keys(self) -> list[str]:
        """Dotted names of all settings."""
        actions = [
            key for action in self._actions for key in (action.dest, *_option_keys(action.option_strings)) if key
        ]
        try:
            defaults = self.get_defaults(skip_validation=True)
        except Exception:  # a broken default file must not hide the message we are about to print
            return actions
        return actions + [key.replace("init_args.", "") for key in _keys(defaults)] + settings_of_classes()


def short(message: str) -> str:
    """The cause alone, with the class it concerns, of a message that lists every type that was tried."""
    causes = list(CAUSE.finditer(message))
    if not causes:
        return message.strip()
    cause = causes[-1]
    text = " ".join(line.strip() for line in cause["text"].splitlines() if line.strip())
    name = cause["name"].rsplit(".", 1)[-1]
    if name in BASES:
        return f"No {BASES[name]} is chosen: put --config configs/car_7shot.yaml before the other files."
    if OTHER_METHOD.search(text):
        text += f" If it comes from a file: give the file that chooses {name} after it."
    return f"{name}: {text}"


def help_option(message: str) -> str:
    """The option that lists the settings of the class that a message is about, else of all."""
    import nvsm_lightning.data
    import nvsm_lightning.methods

    for cause in reversed(list(CAUSE.finditer(message))):
        name = cause["name"].rsplit(".", 1)[-1]
        for section, room in (("data", nvsm_lightning.data), ("model", nvsm_lightning.methods)):
            if hasattr(room, name) and name not in BASES:
                return f"--{section}.help {name}"
    return "--help"


def settings_of_classes() -> list[str]:
    """Dotted names of the settings that all data sets have, and of NVSM."""
    from nvsm_lightning.data.module import PoseData
    from nvsm_lightning.methods import NVSM, NeMo

    return [*_settings(PoseData, "data"), *_settings(NeMo, "model"), *_settings(NVSM, "model")]


def _settings(kind: Any, prefix: str) -> list[str]:
    """Names of what a class is made with; of dataclasses among these their fields."""
    names = []
    for name, parameter in inspect.signature(kind).parameters.items():
        names.append(f"{prefix}.{name}")
        if dataclasses.is_dataclass(parameter.default):
            names += _settings(type(parameter.default), f"{prefix}.{name}")
    return names


def suggestion(key: str, known: list[str]) -> str:
    """The key that ends in these words, else the nearest one by its whole dotted name, else by its last part."""
    if key == "seed":
        return " Did you mean 'seed_everything'?"
    near = next((f" Did you mean {name!r}?" for name in known if name.endswith(f".{key}")), did_you_mean(key, known))
    if near or not known:
        return near
    leaves = {name.rsplit(".", 1)[-1]: name for name in known}
    found = difflib.get_close_matches(key.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.6)
    return f" Did you mean {leaves[found[0]]!r}?" if found else ""


def _option_keys(options: Sequence[str]) -> list[str]:
    return [option.lstrip("-") for option in options]


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Namespace | dict):
        return [prefix] if prefix else []
    items = vars(node).items() if isinstance(node, Namespace) else node.items()
    below = [key for name, value in items for key in _keys(value, f"{prefix}.{name}".lstrip("."))]
    return [prefix, *below] if prefix else below
