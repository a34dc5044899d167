"""A study: variants times label draws times folds, as jobs, and what their runs say."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nvsm_lightning.bench.jobs import Job, finished, read_results, run_jobs
from nvsm_lightning.bench.statistics import Source
from nvsm_lightning.errors import ConfigError, DataError

Options = tuple[str, ...]
# Parses the arguments of a fit and raises if they are not understood; returns its whole configuration as YAML.
Check = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Variant:
    """What one row of the table is about.

    Attributes:
        name: in the table.
        group: rows of one group are compared with its first one.
        folder: of its runs below the study's.
        arguments: of ``nvsm fit``, without seed and fold.
    """

    name: str
    group: str
    folder: str
    arguments: Options


@dataclass(frozen=True)
class Study:
    """Variants, the seeds of their label draws, and folds (one empty one for none).

    ``categories`` names the folds where each is a category of its own.
    """

    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    folds: tuple[Options, ...] = ((),)
    categories: tuple[str, ...] = ()

    def name(self, variant: Variant, seed: int, fold: int) -> str:
        """Name of a job, which is also its folder."""
        if self.categories:
            return f"{variant.folder}/{self.categories[fold]}/seed_{seed}"
        below = f"/fold_{fold + 1}" if len(self.folds) > 1 else ""
        return f"{variant.folder}/seed_{seed}{below}"

    def jobs(self) -> list[Job]:
        """All fits, one draw after the other: what is there of an interrupted study can be compared. ``{fit}`` in an
        option is the name of the fit that is given it.
        """
        named = {
            self.name(variant, seed, fold): (*variant.arguments, *self.folds[fold], "--seed_everything", str(seed))
            for seed in self.seeds
            for fold in range(len(self.folds))
            for variant in self.variants
        }
        return [Job(name, tuple(word.replace("{fit}", name) for word in words)) for name, words in named.items()]

    def samples(self) -> list[Options]:
        """Arguments of a few fits in which every option of every variant and fold occurs."""
        first = self.variants[0].arguments
        return [
            *((*variant.arguments, *self.folds[0]) for variant in self.variants),
            *((*first, *fold) for fold in self.folds[1:]),
        ]

    def run(
        self, folder: Path, parallel: int, check: Check | None = None, given: Mapping[str, Path] | None = None
    ) -> list["Collected"]:
        """Run what is missing and read everything, one item a variant.

        Args:
            folder: of the study; the runs lie in ``fits`` below it.
            parallel: fits at a time.
            check: called with arguments of fits that cover every option, before the first of them begins.
            given: run folders, by name of the job, of fits that were made elsewhere.
        """
        fits, given = folder / "fits", given or {}
        jobs = [job for job in self.jobs() if job.name not in given]
        if check is not None:
            if not all(finished(job, fits) for job in jobs):
                for words in self.samples():
                    check(words)
        results = run_jobs(jobs, fits, parallel) | {name: read_results(run) for name, run in given.items()}
        collected = []
        for variant in self.variants:
            one = Collected(variant)
            for seed in self.seeds:
                for fold in range(len(self.folds)):
                    name = self.name(variant, seed, fold)
                    one.results[seed, fold] = results[name]
                    one.runs[seed, fold] = given.get(name, fits / name)
                    # pictures of two categories may have one name
                    kind = f"{self.categories[fold]}/" if self.categories else ""
                    for row in read_predictions(one.runs[seed, fold]):
                        one.errors[seed, fold, kind + row["key"]] = float(row["error_deg"])
                        one.objects[kind + row["key"]] = row.get("group") or ""
            collected.append(one)
        if given and not self.categories:
            kinds = {(each["dataset"], each.get("category")) for one in collected for each in one.results.values()}
            if len(kinds) > 1:
                raise ConfigError(
                    f"--runs: fits of different data do not belong into one table: {sorted(map(str, kinds))}"
                )
        return collected


@dataclass
class Collected:
    """The runs of a variant, by (seed, fold): results.json, folder, and the error in degrees of every test picture;
    ``objects`` names what each picture shows, where the data set tells.
    """

    variant: Variant
    results: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    runs: dict[tuple[int, int], Path] = field(default_factory=dict)
    errors: dict[Source, float] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)

    @property
    def one(self) -> dict[str, Any]:
        """results.json of any of the runs, for what is common to all."""
        return next(iter(self.results.values()))


def read_predictions(run: Path) -> list[dict[str, str]]:
    """What a run has written of every test picture whose pose is known: key, error_deg, group and more."""
    path = run / "tables" / "predictions.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing; remove {run} to fit it again.")
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["error_deg"]]


def read_folds(name: str | None) -> tuple[Options, ...]:
    """Folds of a YAML file: a list of lists of fit options; one empty fold for None or ``none``.

    Raises:
        ConfigError: no such file, or its content is something else.
    """
    if name is None or name.lower() == "none":
        return ((),)
    content = read_yaml(name, "--folds")
    if not isinstance(content, list) or not content or not all(isinstance(one, list) for one in content):
        raise ConfigError(f"{name}: expected a list of folds, each a list of options of `nvsm fit`.")
    return tuple(tuple(str(word) for word in fold) for fold in content)


def read_variants(name: str) -> dict[str, Options]:
    """Named variants of a YAML file, ``name: [options of nvsm fit]``, in its order.

    Raises:
        ConfigError: no such file, or its content is something else.
    """
    content = read_yaml(name, "FILE")
    good = isinstance(content, dict) and all(isinstance(words, list) for words in content.values())
    if not good or len(content) < 2:
        raise ConfigError(f"{name}: expected at least two lines `name: [options of nvsm fit]`, the base first.")
    return {str(variant): tuple(str(word) for word in words) for variant, words in content.items()}


def read_yaml(name: str, option: str) -> Any:
    """Content of a YAML file named on the command line."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"{option}: there is no file {name}.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
