"""``nvsm bench NAME``: chooses the bench; nothing heavy is imported before."""

import importlib
from collections.abc import Sequence

from nvsm_lightning.cli.main import did_you_mean, fail
from nvsm_lightning.errors import ConfigError

# name: (module that holds `run(words, check) -> int`, one line of help)
BENCHES = {
    "few-shot": ("nvsm_lightning.bench.few_shot", "methods by number of labels, over label draws, on the test part"),
    "ablation": ("nvsm_lightning.bench.ablation", "variants of a base, over label draws, on the validation part"),
    "occlusion": ("nvsm_lightning.bench.occlusion", "methods behind occluders of growing size, L0 to L3"),
    "unseen-views": (
        "nvsm_lightning.bench.unseen_views",
        "labels from fronts and rears only, tested on side views too",
    ),
    "kitti": ("nvsm_lightning.bench.kitti", "finished fits on KITTI's cars, by occlusion level"),
    "speed": ("nvsm_lightning.bench.speed", "what rasteriser, pose search and the other hot paths cost here; no fits"),
}


def run(argv: Sequence[str]) -> int:
    """Run one bench."""
    words = list(argv[1:])
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0 if words else 2
    name = words[0].replace("_", "-")
    if name not in BENCHES:
        return fail(f"no bench {words[0]!r}.{did_you_mean(name, BENCHES)} `nvsm bench --help` lists them.")
    return importlib.import_module(BENCHES[name][0]).run(words[1:], check_fit)


def help_text() -> str:
    """What ``nvsm bench --help`` prints."""
    rows = "\n".join(f"  {name:<14}{text}" for name, (_, text) in BENCHES.items())
    return (
        "usage: nvsm bench NAME --config FILE --out DIR [options] [options of nvsm fit]     nvsm bench NAME --help\n\n"
        "Many fits, one table (CSV, Markdown, LaTeX, PNG) with spread and intervals. Finished fits are kept and\n"
        "interrupted ones resumed: the same command goes on; when all is done it only writes the tables anew.\n\n"
        f"benches:\n{rows}\n\n"
        "examples:\n"
        "  nvsm bench few-shot --config configs/car_7shot.yaml --labels 7,20,50 --seeds 5 --out runs/few_shot\n"
        "  nvsm bench few-shot --config configs/car_7shot.yaml --config configs/datasets/epfl_cars.yaml \\\n"
        "    --data.root EPFL --folds configs/folds/epfl_cars.yaml --labels 7 --parallel 2 --out runs/epfl_7\n"
        "  nvsm bench ablation configs/ablations/e_step.yaml --config configs/car_7shot.yaml --out runs/e_step\n"
        "  nvsm bench occlusion --config configs/car_7shot.yaml --occluders COCO --out runs/occlusion"
    )


def check_fit(words: Sequence[str]) -> str:
    """Parse arguments of ``nvsm fit`` and build nothing, so that a wrong option ends a bench before its first fit.

    Returns the whole configuration of the fit as YAML.

    Raises:
        ConfigError: they are not understood; the reason has been printed.
    """
    import contextlib
    import io

    from nvsm_lightning.cli import lightning_cli

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            lightning_cli.run(["fit", *words, "--print_config"])
    except SystemExit as end:
        if end.code:
            raise ConfigError(f"a fit of this bench would not start: nvsm fit {' '.join(words)}") from end
    return printed.getvalue()
