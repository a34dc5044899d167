"""Finished fits that lie somewhere, and tests of them under other conditions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nvsm_lightning.bench.jobs import COMPARED, REPLACED, Job, read_results, run_jobs
from nvsm_lightning.bench.study import Options, Study
from nvsm_lightning.errors import ConfigError

# those of a test cost time; neither Weights & Biases nor metrics.csv has anything that results.json lacks
WITHOUT_LOGGERS = ("--trainer.logger", "false")


@dataclass(frozen=True)
class Condition:
    """What a finished fit is tested on.

    Attributes:
        name: folder of the test and name in tables.
        options: of ``nvsm test``, after those of the fit.
        files: configuration files that come after that of the fit.
        inputs: files whose content the test depends on.
    """

    name: str
    options: Options
    files: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


def find_runs(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(run folder, results.json) of every fit below the folders. Tests of a fit, which hold no checkpoint, are not; nor
    are fits that a later one has replaced, or those that ``--guard fit`` compares with.

    Raises:
        ConfigError: a folder that does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--runs: there is no folder {folder}.")
        for file in sorted(folder.rglob("results.json")):
            aside = any(REPLACED in name or name == COMPARED for name in file.relative_to(folder).parts)
            if not aside and checkpoint_of(file.parent).is_file() and (file.parent / "config.yaml").is_file():
                yield file.parent, read_results(file.parent)


def given_runs(study: Study, folders: Sequence[Path]) -> dict[str, Path]:
    """{name of a job: run folder} of the study's fits that lie below the folders: same method, labels and seed.

    Raises:
        ConfigError: two runs are of one job.
    """
    found: dict[str, Path] = {}
    if not folders:
        return found
    if len(study.folds) > 1:
        raise ConfigError("--runs goes with one fold and one category only: results.json does not name its fold.")
    names = {
        (variant.name, int(variant.group), seed): study.name(variant, seed, 0)
        for variant in study.variants
        for seed in study.seeds
    }
    for run, results in find_runs(folders):
        method = method_of(run, results, {variant.name for variant in study.variants})
        name = names.get((method, results["n_labels"], results["seed"]))
        if name in found and name is not None:
            raise ConfigError(f"--runs: {found[name]} and {run} are both {name}; move one of them away.")
        if name is not None:
            found[name] = run
    return found


def method_of(run: Path, results: dict[str, Any], names: set[str]) -> str:
    """Which of the ``names`` of methods a fit has: a configuration file that a bench gave it, so that a variant of a
    method is not taken for it; of a fit made by hand the class that it tells."""
    try:
        words = json.loads((run / "job.json").read_text(encoding="utf-8"))["arguments"]
    except (OSError, ValueError):
        return results["method"]
    files = [Path(after).stem for word, after in pairwise(words) if word in ("--config", "-c")]
    return next((file for file in reversed(files) if file in names), "")  # the later file wins


def checkpoint_of(run: Path) -> Path:
    """The weights that a fit ended with."""
    return run / "checkpoints" / "last.ckpt"


def job_of(name: str, run: Path, condition: Condition) -> Job:
    """The test of a finished fit under a condition."""
    files = (str(run / "config.yaml"), *condition.files)
    words = [word for file in files for word in ("--config", file)]
    words += ["--ckpt_path", str(checkpoint_of(run)), "--data.test_on", "test", *WITHOUT_LOGGERS, *condition.options]
    # a fit made anew has other results, if not another configuration
    inputs = (str(run / "results.json"), *condition.inputs)
    return Job(f"{name}/{condition.name}", tuple(words), "test", inputs)


def run_tests(
    runs: Mapping[str, Path], conditions: Sequence[Condition], folder: Path, parallel: int
) -> dict[tuple[str, str], Path]:
    """Test every run under every condition and return the folders of the tests by (name, condition).

    Args:
        runs: run folders of fits by name.
        conditions: to test under.
        folder: the tests lie in ``tests`` below it; those made before with the same fits are kept.
        parallel: tests at a time.
    """
    names = {(name, one.name): job_of(name, run, one) for name, run in runs.items() for one in conditions}
    run_jobs(list(names.values()), folder / "tests", parallel)
    return {key: folder / "tests" / job.name for key, job in names.items()}
