"""``nvsm bench few-shot``: methods at several numbers of labels over several label draws, in one table."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from nvsm_lightning.bench.options import common, numbers, parser
from nvsm_lightning.bench.study import Check, Study, Variant
from nvsm_lightning.bench.tables import write_tables
from nvsm_lightning.errors import ConfigError

METHODS = Path("configs") / "methods"
USAGE = "--config FILE [--config FILE ...] --out DIR [options] [further options of nvsm fit]"
TEXT = """\
Fits every method with every number of labels for several label draws and writes one table as CSV, Markdown, LaTeX and
PNG: mean, spread over the draws and the worst, bootstrap interval over the test pictures, paired differences to the
first method, rows of guessing without looking, the published rows (other data, not comparable), and a second table of
the pseudo labels of each round.

The files of --config come first, then that of the method, then every option this command does not know, which goes to
all fits. Finished fits are kept, interrupted ones resumed: the same command goes on. To change a setting of one method
only, write it into a file of its own and name it in --methods.

  nvsm bench few-shot --config configs/car_7shot.yaml --labels 7 --seeds 2 --methods nemo,nvsm --out runs/few_shot
"""


def run(words: Sequence[str], check: Check | None = None) -> int:
    """Run the bench; ``check`` parses arguments of ``nvsm fit`` before the first fit begins."""
    options_of = parser("few-shot", USAGE, TEXT)
    options_of.add_argument("--labels", default="7,20,50", help="Numbers of labelled pictures.")
    options_of.add_argument(
        "--methods",
        default="nemo,nvsm",
        help="Files of configs/methods without .yaml, or paths of YAML files; the first is the base of differences.",
    )
    options, further = options_of.parse_known_args(list(words))
    shared = common(options, further)
    labels = numbers(options.labels, "--labels")
    files = {path.stem: path for path in map(method_file, options.methods.split(","))}
    study = Study(plan(labels, files, shared.arguments), shared.seeds, shared.folds)
    collected = study.run(shared.out, shared.parallel, check)
    write_tables(study, collected, shared.tables, "Few-shot bench", with_published=True)
    return 0


def plan(labels: Sequence[int], methods: dict[str, Path], arguments: Sequence[str]) -> tuple[Variant, ...]:
    """One variant for each number of labels and method."""
    return tuple(
        Variant(
            name,
            str(count),
            f"labels_{count:02d}/{name}",
            # files are read before options and the later wins: the method's stands after those of the user
            (*arguments, "--config", str(file), "--data.labels", str(count)),
        )
        for count in labels
        for name, file in methods.items()
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
