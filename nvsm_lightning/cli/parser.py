"""The argument parser of the Lightning commands: a wrong setting gives one short message, with a suggestion."""

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
        self.exit(fail(f"{short(message)}\nAll settings: {command} --help"))

    def known_keys(self) -> list[str]:
        """Dotted names of all settings."""
        actions = [
            key for action in self._actions for key in (action.dest, *_option_keys(action.option_strings)) if key
        ]
        try:
            defaults = self.get_defaults(skip_validation=True)
        except Exception:  # a broken default file must not hide the message we are about to print
            return actions
        return actions + [key.replace("init_args.", "") for key in _keys(defaults)]


def short(message: str) -> str:
    """The cause alone, with the class it concerns, of a message that lists every type that was tried."""
    causes = list(CAUSE.finditer(message))
    if not causes:
        return message.strip()
    cause = causes[-1]
    text = " ".join(line.strip() for line in cause["text"].splitlines() if line.strip())
    name = cause["name"].rsplit(".", 1)[-1]
    if OTHER_METHOD.search(text):
        text += f" If it comes from a file: give the file that chooses {name} after it."
    return f"{name}: {text}"


def suggestion(key: str, known: list[str]) -> str:
    """Nearest key by its whole dotted name, else by its last part."""
    near = did_you_mean(key, known)
    if near or not known:
        return near
    leaves = {name.rsplit(".", 1)[-1]: name for name in known}
    return did_you_mean(key.rsplit(".", 1)[-1], leaves)


def _option_keys(options: Sequence[str]) -> list[str]:
    return [option.lstrip("-") for option in options]


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Namespace | dict):
        return [prefix] if prefix else []
    items = vars(node).items() if isinstance(node, Namespace) else node.items()
    below = [key for name, value in items for key in _keys(value, f"{prefix}.{name}".lstrip("."))]
    return [prefix, *below] if prefix else below
