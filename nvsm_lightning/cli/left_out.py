"""Which settings of configuration files the chosen method does not have: told, not dropped in silence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace


def left_out(files: Sequence[str], model: Namespace) -> list[str]:
    """Dotted names below ``model.init_args`` that ``files`` set and the model, as parsed, does not have.

    The file of a data set speaks to every method: which poses a solver searches, for example, means nothing to a
    classifier. jsonargparse drops such settings where a later file names another class (and refuses them in a file
    after that, or on the command line).
    """
    arguments = model.get("init_args") or Namespace()
    names: dict[str, None] = {}  # a set that keeps the order
    for file in files:
        if not Path(file).is_file():  # settings written out on the command line
            continue
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        given = ((content or {}).get("model") or {}) if isinstance(content, dict) else {}
        settings = given.get("init_args") if isinstance(given, dict) else None
        names.update(dict.fromkeys(_missing(settings or {}, arguments)))
    return list(names)


def _missing(given: dict[str, Any], have: Any, prefix: str = "") -> list[str]:
    names = []
    for name, value in given.items():
        if not _has(have, name):
            names.append(prefix + name)
        elif isinstance(value, dict):
            names += _missing(value, have[name] if isinstance(have, Namespace) else getattr(have, name), f"{name}.")
    return names


def _has(have: Any, name: str) -> bool:
    if isinstance(have, Namespace | dict):
        return name in have
    return have is None or hasattr(have, name)
