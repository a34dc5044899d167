"""``nvsm bench few-shot``: methods at several numbers of labels over several label draws, in one table."""

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from nvsm_lightning.bench.finished import given_runs
from nvsm_lightning.bench.options import common, numbers, parser, run_folders
from nvsm_lightning.bench.split_tables import MEAN, SHOWN, WEIGHTED, common_notes, long_sheet, split_row, write_split
from nvsm_lightning.bench.statistics import Source
from nvsm_lightning.bench.study import Check, Collected, Options, Study, Variant, read_yaml
from nvsm_lightning.bench.tables import write_tables
from nvsm_lightning.errors import ConfigError

METHODS = Path("configs") / "methods"
MOST_OBJECTS = 12  # that fit beside one another
USAGE = "[--config FILE ...] [--out DIR] [options] [further options of nvsm fit]"
TEXT = """\
Fits every method with every number of labels for several label draws and writes one table as CSV, Markdown, LaTeX and
PNG: mean, spread over the draws and the worst, bootstrap interval over the test pictures, paired differences to the
first method, rows of guessing without looking, the published rows (other data, not comparable), and a second table of
the pseudo labels of each round.

The files of --config come first, then that of the method, then every option this command does not know, which goes to
all fits. Finished fits are kept, interrupted ones resumed: the same command goes on. To change a setting of one method
only, write it into a file of its own and name it in --methods.

With --categories every category is a model of its own; the table is then of all their pictures together, and a second
one, by_category, has each of them, their plain mean, and their mean weighted by pictures. Where the test pictures show
2 to 12 named objects or sequences (as EPFL's cars), by_object has each of these.

  nvsm bench few-shot --config configs/car_7shot.yaml --labels 7 --seeds 2 --methods nemo,nvsm --out runs/few_shot
"""


def add_variants(options_of: argparse.ArgumentParser, methods: str) -> None:
    """The options that say which variants there are, with the default ``methods``."""
    options_of.add_argument("--labels", default="7,20,50", help="Numbers of labelled pictures (default: %(default)s).")
    options_of.add_argument(
        "--methods",
        default=methods,
        help="Files of configs/methods without .yaml, or paths of YAML files; the first is the base of differences "
        "(default: %(default)s).",
    )
    options_of.add_argument(
        "--without",
        default="",
        help="What is not fitted, as labels/method, comma between: 2600/nvsm where 2600 labels leave no pool.",
    )


def run(words: Sequence[str], check: Check | None = None) -> int:
    """Run the bench; ``check`` parses arguments of ``nvsm fit`` before the first fit begins."""
    options_of = parser("few-shot", USAGE, TEXT)
    add_variants(options_of, "nemo,nvsm")
    options_of.add_argument(
        "--categories", default=None, help="Names, comma between, or a YAML file {name: [options of its fits]}."
    )
    options_of.add_argument("--runs", default=None, help="Folders of finished fits, comma between, not made again.")
    options, further = options_of.parse_known_args(list(words))
    shared = common(options, further)
    variants = plan(options, shared.arguments)
    categories = read_categories(options.categories)
    if categories and len(shared.folds) > 1:
        raise ConfigError("--categories and --folds do not go together.")
    folds = tuple((*shared.folds[0], *words) for words in categories.values()) or shared.folds
    study = Study(variants, shared.seeds, folds, tuple(categories))
    collected = study.run(shared.out, shared.parallel, check, given_runs(study, run_folders(options.runs)))
    parts = {str(results["part"]): one.runs[where] for one in collected for where, results in one.results.items()}
    if len(parts) > 1:
        told = ", ".join(f"{run} on {part}" for part, run in sorted(parts.items()))
        raise ConfigError(f"--runs: fits measured on different parts do not belong into one table: {told}.")
    write_tables(study, collected, shared.tables, "Few-shot bench", with_published=True)
    if categories:
        write_categories(study, collected, shared.tables)
    else:
        write_objects(study, collected, shared.tables)
    return 0


def read_categories(text: str | None) -> dict[str, Options]:
    """{category: its options of ``nvsm fit``} of ``--categories``: names, or a YAML file {name: [further options]}.

    Raises:
        ConfigError: no such file, or its content is something else.
    """
    if text is None:
        return {}
    if text.endswith((".yaml", ".yml")):
        content = read_yaml(text, "--categories")
        if not isinstance(content, dict) or not all(isinstance(words, list) for words in content.values()):
            raise ConfigError(f"{text}: expected lines `category: [options of nvsm fit]`.")
    else:
        content = {name.strip(): [] for name in text.split(",") if name.strip()}
    return {name: ("--data.category", name, *map(str, words)) for name, words in content.items()}


def write_categories(study: Study, collected: Sequence[Collected], folder: Path) -> None:
    """``by_category.*``: a column a category, and both means."""
    note = "mean: of the categories; weighted mean: by their pictures (of medians too), as NeMo's code has it."
    parts = (*study.categories, MEAN, WEIGHTED)
    _write_parts(study, collected, folder, "category", parts, lambda one, source: study.categories[source[1]], note)


def write_objects(study: Study, collected: Sequence[Collected], folder: Path) -> None:
    """``by_object.*``: a column an object or sequence, where the test part shows a few that are named. Which of them
    are turned around?
    """
    names = sorted({name for one in collected for name in one.objects.values()} - {""})
    if 1 < len(names) <= MOST_OBJECTS:
        note = "What the test pictures show, by the group of their records; mean: of these."
        parts, shown = (*names, MEAN), (*SHOWN, "flip_180_rate")
        _write_parts(study, collected, folder, "object", parts, lambda one, source: one.objects[source[2]], note, shown)


def _write_parts(
    study: Study,
    collected: Sequence[Collected],
    folder: Path,
    what: str,
    parts: Sequence[str],
    part_of: Callable[[Collected, Source], str],
    note: str,
    shown: Sequence[str] = SHOWN,
) -> None:
    rows = []
    for one in collected:
        errors: dict[str, dict[Source, float]] = {part: {} for part in parts if part not in (MEAN, WEIGHTED)}
        for source, error in one.errors.items():
            if (part := part_of(one, source)) in errors:
                errors[part][source] = error
        rows.append(split_row(one.variant.group, one.variant.name, errors, study.seeds))
    first = collected[0].one
    notes = common_notes(rows, study.seeds, [result for one in collected for result in one.results.values()])
    title = f"Few-shot bench by {what}: {first['dataset']}" + (", rendered" if first["synthetic"] else "")
    sheet = long_sheet(title, "labels", parts, rows, [*notes, note], shown)
    write_split(sheet, rows, "labels", parts, folder, f"by_{what}")


def plan(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Variant, ...]:
    """One variant for each number of labels and method of :func:`add_variants`, but for those left out.

    Raises:
        ConfigError: an unknown method, or something left out that would not be there.
    """
    labels = numbers(options.labels, "--labels")
    paths = [method_file(word) for word in options.methods.split(",")]
    files = {path.stem: path for path in paths}
    if len(files) < len(set(paths)):
        raise ConfigError(f"--methods {options.methods}: two files of one name, which tables would not tell apart.")
    pairs = {f"{count}/{name}": (count, name, file) for count in labels for name, file in files.items()}
    left_out = [word.strip() for word in options.without.split(",") if word.strip()]
    if unknown := [word for word in left_out if word not in pairs]:
        raise ConfigError(f"--without {unknown[0]}: expected labels/method of this bench, such as {next(iter(pairs))}.")
    if len(left_out) == len(pairs):
        raise ConfigError("--without leaves nothing of this bench.")
    return tuple(
        Variant(
            name,
            str(count),
            f"labels_{count:02d}/{name}",
            # files are read before options and the later wins: the method's stands after those of the user
            (*arguments, "--config", str(file), "--data.labels", str(count)),
        )
        for pair, (count, name, file) in pairs.items()
        if pair not in left_out
    )


def method_file(name: str) -> Path:
    """The configuration of a method: a path, or a name in ``configs/methods``.

    Raises:
        ConfigError: there is none.
    """
    name = name.strip()
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else METHODS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in METHODS.glob("*.yaml"))
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"--methods: there is no {path}.{meant} Known: {', '.join(known) or 'none (run this in the repository)'}."
        )
    return path
