"""``nvsm prepare``: make the embedded set; say how another set must lie on disk, and check whether it does."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from nvsm_lightning.cli.main import did_you_mean, fail
from nvsm_lightning.cli.prepare_check import check, explain

__all__ = ["MAKERS", "SETS", "check", "explain", "help_text", "prepare_toy", "run"]

# name: (reader, where it is had, layout below --root)
SETS = {
    "pascal3d": (
        "Pascal3D",
        "https://cvgl.stanford.edu/projects/pascal3d.html (release 1.1)",
        "Images/car_imagenet/*.JPEG  Annotations/car_imagenet/*.mat  Image_sets/car_imagenet_{train,val}.txt  CAD/",
    ),
    "occluded-pascal3d": (
        "OccludedPascal3D",
        "https://github.com/Angtian/OccludedPASCAL3D",
        "PASCAL3D+ in --root; in --data.occluded_root images/carFGL1_BGL1/*.JPEG  annotations/carFGL1_BGL1/*.npz  "
        "lists/carFGL1_BGL1.txt ...",
    ),
    "objectnet3d": (
        "ObjectNet3D",
        "https://cvgl.stanford.edu/projects/objectnet3d/",
        "Images/*.JPEG  Annotations/*.mat  Image_sets/{train,val,test}.txt  CAD/off/",
    ),
    "kitti": (
        "KITTI",
        "https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=2d (object detection)",
        "training/image_2/*.png  training/label_2/*.txt  training/calib/*.txt  ImageSets/{train,val}.txt",
    ),
    "epfl-cars": (
        "EPFLCars",
        "https://www.epfl.ch/labs/cvlab/data/data-pose-index/ (GIMS'08 multi-view cars)",
        "tripod-seq/tripod-seq.txt  tripod-seq/tripod_seq_01_001.jpg ...  times_01.txt ...  bbox_01.txt ...",
    ),
    "stanford-cars": (
        "StanfordCars",
        "photographs of Stanford Cars with fine-grained poses, written as a pose CSV (see the README for the columns)",
        "images/*.jpg  labels.csv",
    ),
    "eth80": (
        "ETH80",
        "ETH-80 (toy objects on a turntable), the release with pictures of 256 x 256",
        "<category><object>-<polar>-<azimuth>.png in any folders",
    ),
    "csv": ("PoseCSV", "your own pictures", "labels.csv and the pictures it names (columns: see the README)"),
}


# name: module with `run(words) -> int`, which makes something of what is there
MAKERS = {"occluded": "nvsm_lightning.cli.prepare_occluded", "mesh": "nvsm_lightning.cli.prepare_mesh"}


def run(argv: Sequence[str]) -> int:
    """``nvsm prepare toy --root DIR [--seed N]`` or ``nvsm prepare NAME [--root DIR --check]``."""
    words = list(argv[1:])
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0 if words else 2
    name = words[0].replace("_", "-")
    if name == "toy":
        return prepare_toy(words[1:])
    if name in MAKERS:
        return importlib.import_module(MAKERS[name]).run(words[1:])
    if name not in SETS:
        return fail(f"no data set {words[0]!r}.{did_you_mean(name, ['toy', *SETS])} `nvsm prepare --help` lists them.")
    return explain(name, SETS[name], words[1:])


def help_text() -> str:
    """What ``nvsm prepare --help`` prints."""
    rows = "\n".join(f"  {name:<19}{where}" for name, (_, where, _) in SETS.items())
    return (
        "usage: nvsm prepare toy --root DIR [--seed N] [--train N] [--test N]\n"
        "       nvsm prepare occluded --from NAME --root DIR --level L1 --occluders DIR --out DIR\n"
        "       nvsm prepare mesh --kind single|multi|downsample --from CAD/car.mat --out DIR\n"
        "       nvsm prepare NAME [--root DIR --check]\n\n"
        "toy is made on the spot: cars rendered by this package, in the layout of PASCAL3D+. Nothing is downloaded.\n"
        "For the others the command says where the data is had and how it must lie; --check reads it and counts.\n\n"
        f"names:\n  toy                rendered cars, made here\n{rows}"
    )


def prepare_toy(words: Sequence[str]) -> int:
    """Make the embedded set; does nothing if it is there already."""
    parser = ArgumentParser(prog="nvsm prepare toy", description="Make the embedded set of rendered cars.")
    parser.add_argument("--root", type=str, default="data/toy_cars", help="Folder to make.")
    parser.add_argument("--seed", type=int, default=0, help="Same seed, same pictures.")
    parser.add_argument("--train", type=int, default=420, help="Pictures for labels, pool and validation.")
    parser.add_argument("--test", type=int, default=180, help="Pictures of the test part, of other cars.")
    options = parser.parse_args(list(words))
    from nvsm_lightning.toy.dataset import make_toy

    root = Path(options.root).expanduser()
    make_toy(root, seed=options.seed, train=options.train, test=options.test)
    print(f"{options.train} train and {options.test} test pictures of rendered cars in {root}")
    return 0
