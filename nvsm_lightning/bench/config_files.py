"""What configuration files of fits say, as far as a bench has to know it before the first fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def settings_in(file: str | Path) -> Iterator[tuple[str, Any]]:
    """(name, value) of every setting in a file, at any depth; nothing of one that cannot be read, for which the fit
    has better words."""
    try:
        yield from _settings(yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return


def _settings(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield str(name), value
            yield from _settings(value)
    elif isinstance(content, list):
        for value in content:
            yield from _settings(value)
