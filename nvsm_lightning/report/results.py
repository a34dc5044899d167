"""``results.json``: the numbers of a run, written so that a reader never finds half a file."""

import errno
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.errors import NVSMError
from nvsm_lightning.metrics.baselines import guess_errors, prior_guesses, random_guesses
from nvsm_lightning.metrics.intervals import bootstrap_interval, mean, median
from nvsm_lightning.metrics.pose import FLIP, pose_metrics


def measure(error: Float[Tensor, " picture"], seed: int = 0) -> dict[str, Any]:
    """:func:`pose_metrics` of errors in radians, with 95 % bootstrap intervals over the pictures under ``interval``."""
    known = error[~error.isnan()]
    values = {
        "acc_pi_6": (100.0 * (known < math.pi / 6), mean),
        "acc_pi_18": (100.0 * (known < math.pi / 18), mean),
        "med_err_deg": (known.rad2deg(), median),
        "mean_err_deg": (known.rad2deg(), mean),
        "flip_180_rate": (1.0 * (known > FLIP), mean),
    }
    metrics = pose_metrics(error)
    intervals = {key: list(bootstrap_interval(value, how, seed)) for key, (value, how) in values.items()}
    return {**metrics, "interval": intervals}


def measure_guesses(
    labelled: Float[Tensor, "label 3"], truth: Float[Tensor, "picture 3"], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """The rows ``prior_only`` and ``random``, see :mod:`nvsm_lightning.metrics.baselines`; each only if there are
    labels for it.

    Their intervals are over the pictures as well, each picture counting with its expected hit rate or error; the median
    of a random guess has none.
    """
    rows = {}
    known = truth[truth[:, 0].isfinite()]
    guesses = {"prior_only": prior_guesses(labelled), "random": random_guesses(labelled)}
    for name, viewpoints in guesses.items():
        if not len(viewpoints):
            continue
        error = guess_errors(viewpoints, known)
        values = {
            "acc_pi_6": 100.0 * (error < math.pi / 6).double().mean(-1),
            "acc_pi_18": 100.0 * (error < math.pi / 18).double().mean(-1),
            "mean_err_deg": error.rad2deg().mean(-1),
            "flip_180_rate": (error > FLIP).double().mean(-1),
        }
        intervals = {key: list(bootstrap_interval(value, mean, seed)) for key, value in values.items()}
        rows[name] = {**pose_metrics(error.flatten()), "n_images": len(known), "interval": intervals}
    return rows


def write_json(path: Path, content: Mapping[str, Any] | list) -> None:
    """Write JSON through a temporary file in the same folder, so that ``path`` is either the old or the whole new
    content.

    Raises:
        NVSMError: if the disk is full or the folder cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file as :func:`write_json` does."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o644)  # a temporary file is readable by its owner only
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise NVSMError(f"{path} cannot be written: {reason}. Free space or choose another --run_dir.") from error


def git_commit(folder: Path | None = None) -> str | None:
    """Commit of the working copy this package runs from, ``-dirty`` if changed; None outside of one."""
    folder = folder or Path(__file__).parent
    try:
        tracked = _git(folder, "ls-files", "--error-unmatch", str(Path(__file__)))
        commit = _git(folder, "rev-parse", "HEAD") if tracked else None
        changed = commit and _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
