"""The argument parser of the Lightning commands: the message of an unknown key names the nearest known one."""

import re
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from nvsm_lightning.cli.main import did_you_mean

UNKNOWN = (
    re.compile(r"Key '([^']+)' is not expected"),
    re.compile(r"Option '([^']+)' is not accepted"),
    re.compile(r"[Uu]nrecognized arguments?: --([^\s=]+)"),
    re.compile(r"No action for key \"([^\"]+)\""),
)


class SuggestingParser(LightningArgumentParser):
    """Refuses what it does not know, and says what may have been meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print usage, message and suggestion, and exit with status 2."""
        for pattern in UNKNOWN:
            found = pattern.search(message)
            if found:
                message = message.rstrip() + suggestion(found.group(1), self.known_keys())
                break
        super().error(message, ex)

    def known_keys(self) -> list[str]:
        """Dotted names of all settings, those of the chosen classes included."""
        try:
            defaults = self.get_defaults(skip_validation=True)
        except Exception:  # a broken default file must not hide the message we are about to print
            return []
        keys = [key.replace("init_args.", "") for key in _keys(defaults)]
        return keys + [action.dest for action in self._actions if action.dest]


def suggestion(key: str, known: list[str]) -> str:
    """Nearest key by its whole dotted name, else by its last part."""
    near = did_you_mean(key, known)
    if near or not known:
        return near
    leaves = {name.rsplit(".", 1)[-1]: name for name in known}
    return did_you_mean(key.rsplit(".", 1)[-1], leaves)


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, Namespace | dict):
        return [prefix] if prefix else []
    items = vars(node).items() if isinstance(node, Namespace) else node.items()
    return [prefix] * bool(prefix) + [key for name, value in items for key in _keys(value, f"{prefix}.{name}".lstrip("."))]
