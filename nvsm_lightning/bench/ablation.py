"""``nvsm bench ablation FILE``: variants of a base on the validation part, in one table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nvsm_lightning.bench.options import OWN, common, parser
from nvsm_lightning.bench.study import Check, Study, Variant, read_variants
from nvsm_lightning.bench.tables import write_tables
from nvsm_lightning.errors import ConfigError

USAGE = "FILE [--config CONFIG ...] [--out DIR] [options] [further options of nvsm fit]"
TEXT = """\
FILE is YAML: one line `name: [options of nvsm fit]` for each variant, the base first. Every variant is fitted for
several label draws and measured on the VALIDATION part (the test pictures are not even decoded). The table has mean and
spread of each variant, its paired difference to the base, and the pseudo labels of each round.

Finished fits are kept, interrupted ones resumed: the same command goes on. A variant that is added later costs its own
fits only. --only NAMES leaves the others out; --tables DIR puts the tables where they are kept.

  nvsm bench ablation configs/ablations/e_step.yaml --config configs/car_7shot.yaml --seeds 2 --out runs/e_step
"""


def run(words: Sequence[str], check: Check | None = None) -> int:
    """Run the ablation; ``check`` parses arguments of ``nvsm fit`` before the first fit begins."""
    options_of = parser("ablation", USAGE, TEXT)
    options_of.add_argument("--only", default=None, help="Names of variants, comma between; the first is the base.")
    name = words[0] if words and not words[0].startswith("-") else None
    options, further = options_of.parse_known_args(list(words[1:] if name else words))
    if name is None:
        raise ConfigError("nvsm bench ablation: the file of variants comes first; see `nvsm bench ablation --help`.")
    own = [*(word for word in OWN if word != "--data.labels"), "--data.test_on"]
    shared = common(options, further, own)
    variants = chosen(read_variants(name), options.only)
    study = Study(plan(variants, shared.arguments), shared.seeds, shared.folds)
    collected = study.run(shared.out, shared.parallel, check)
    labels = str(collected[0].one["n_labels"])
    for one in collected:
        one.variant = replace(one.variant, group=labels)
    write_tables(study, collected, shared.tables, f"Ablation {Path(name).stem}, on the validation part")
    return 0


def chosen(variants: dict[str, tuple[str, ...]], only: str | None) -> dict[str, tuple[str, ...]]:
    """Those of ``--only`` in its order, or all.

    Raises:
        ConfigError: a name that the file has not, or fewer than two.
    """
    if only is None:
        return variants
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in variants]:
        raise ConfigError(f"--only: the file has no variant {unknown[0]}. It has {', '.join(variants)}.")
    if len(set(names)) < 2:
        raise ConfigError(f"--only {only}: give at least two variants, the base first.")
    return {name: variants[name] for name in names}


def plan(variants: dict[str, tuple[str, ...]], arguments: Sequence[str]) -> tuple[Variant, ...]:
    """One variant for each line of the file; the options of the line win over those of the command line.

    Raises:
        ConfigError: a line has a number of labels of its own, which the table could not show.
    """
    for name, options in variants.items():
        if any(word.split("=")[0] == "--data.labels" for word in options):
            raise ConfigError(f"Variant {name}: --data.labels is the same for all, an option of the command itself.")
    return tuple(
        Variant(name, "", name, (*arguments, *options, "--data.test_on", "val")) for name, options in variants.items()
    )
