"""Damage of every kind done to one file at a time: a reader says so with its own error, or skips and counts."""

import math
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from published_layouts import write_kitti, write_objectnet, write_occluded, write_pascal3d
from scipy.io import loadmat, savemat

from nvsm_lightning.data import KITTI, CropSpec, ObjectNet3D, OccludedPascal3D, Pascal3D, canonical_crop
from nvsm_lightning.errors import DataError

SEEDS = 200
SPEC = CropSpec(32, 64, 40.0)
WRONG = ("words", math.nan, math.inf, -1e300, np.zeros((0, 0)), np.arange(7.0), {"a": 1.0}, np.zeros((2, 3), object))


def cut(file: Path, dice: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: dice.randrange(len(content))])


def flip(file: Path, dice: random.Random) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(dice.choice((1, 3, 20))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    file.write_bytes(content)


def replace(file: Path, dice: random.Random) -> None:
    file.write_bytes(dice.choice((b"", b"<html>404 Not Found</html>", b"\xff\xfe\x00\x80" * 50, b"\n\n")))


def remove(file: Path, dice: random.Random) -> None:
    file.unlink()


def spoil_field(file: Path, dice: random.Random) -> None:
    """A field missing or of a wrong type."""
    if file.suffix == ".mat":
        record = loadmat(file, simplify_cells=True)["record"]
        objects = record["objects"]
        item = objects if isinstance(objects, dict) else dice.choice(list(objects))
        places = [record, item, item["viewpoint"] if isinstance(item["viewpoint"], dict) else item]
        spoil(dice.choice(places), dice)
        savemat(file, {dice.choice(("record",) * 9 + ("recorded",)): record})
    elif file.suffix == ".npz":
        with np.load(file) as content:
            arrays = dict(content)
        spoil(arrays, dice)
        np.savez(file, **arrays)
    else:
        spoil_words(file, dice)


def spoil(fields: dict, dice: random.Random) -> None:
    name = dice.choice(sorted(fields))
    if dice.random() < 0.4:
        del fields[name]
    else:
        fields[name] = dice.choice(WRONG)


def spoil_words(file: Path, dice: random.Random) -> None:
    """A word of a text missing, doubled or another one; of a picture a burst of zeros."""
    if file.suffix != ".txt":
        content = bytearray(file.read_bytes())
        place = dice.randrange(len(content))
        content[place : place + 40] = bytes(40)
        file.write_bytes(content)
        return
    lines = file.read_text().splitlines()
    row = dice.randrange(len(lines))
    words = lines[row].split() or ["?"]
    place = dice.randrange(len(words))
    words[place] = dice.choice(("", words[place] * 2, "nan", "-1", "1e400", "Car", "../../x", "\u00e9", "7"))
    lines[row] = " ".join(words)
    file.write_text("\n".join(lines))


KINDS = (cut, flip, replace, remove, spoil_field, spoil_field)


def examine(data, root: Path, image: str) -> tuple[int, Counter[str]]:
    """(usable objects, how many are said to be damaged or left out for which reason).

    The crops of the pictures with this stem are made."""
    with warnings.catch_warnings(action="ignore"):
        records = data.read(root)
        usable = 0
        for record in records:
            try:
                if record.image.stem == image:
                    data.verify(record)
                    canonical_crop(record.image, record, SPEC)
                usable += 1
            except DataError as error:
                data.faults.append((record.key, str(error)))
    return usable, Counter(damaged=len(data.faults), **{reason: len(ids) for reason, ids in data.left_out.items()})


def build(name: str, folder: Path):
    """(maker of a reader, folder it reads, folder to damage)."""
    if name == "kitti":
        root = write_kitti(folder / "kitti", 6)
        return (lambda way: KITTI(str(root), damaged=way, min_side=20.0, rectify=True)), root, root
    if name == "objectnet3d":
        root = write_objectnet(folder / "objectnet", 8)
        return (lambda way: ObjectNet3D(str(root), damaged=way, category="bed")), root, root
    root = write_pascal3d(folder / "pascal", 5, 2)
    if name == "pascal3d":
        settings = {"filter": "none", "source": "both", "coarse": True, "subtypes": ["sedan", "SUV"]}
        return (lambda way: Pascal3D(str(root), damaged=way, **settings)), root, root
    occluded = write_occluded(folder / "occluded", root)
    return (lambda way: OccludedPascal3D(str(root), str(occluded), "L1", damaged=way)), root, occluded


@pytest.mark.parametrize("name", ["pascal3d", "occluded_pascal3d", "objectnet3d", "kitti"])
def test_two_hundred_mutations(name, tmp_path):
    make, root, damaged_root = build(name, tmp_path)
    files = sorted(file for file in damaged_root.rglob("*") if file.is_file())
    whole, known = examine(make("stop"), root, "")
    assert whole > 5
    outcome: Counter[str] = Counter()
    for seed in range(SEEDS):
        dice = random.Random(f"{name} {seed}")
        file = dice.choice(files)
        kept = file.read_bytes()
        dice.choice(KINDS)(file, dice)
        try:
            usable, noticed = examine(make("stop" if seed % 4 == 0 else "skip"), root, file.stem)
        except DataError as error:
            assert len(str(error)) > 20
            outcome["own error"] += 1
        else:
            if file.suffix != ".txt":  # a list or a label file cut between two rows cannot be told from a short one
                assert usable >= whole or noticed - known, f"seed {seed}: {file} lost {whole - usable} unnoticed"
            outcome["counted" if noticed - known else "unseen"] += 1
        file.write_bytes(kept)
    assert outcome["own error"] > 10 and outcome["counted"] > 20, outcome
    assert outcome["unseen"] < 0.4 * SEEDS, outcome
