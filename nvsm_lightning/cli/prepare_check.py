"""``nvsm prepare NAME``: say where a data set is had and how it must lie, and check what lies there."""

import inspect
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nvsm_lightning.cli.main import fail
from nvsm_lightning.errors import DataError

LISTED = 20  # damaged items shown
STEPS = {
    "pascal3d": (
        "download PASCAL3D+_release1.1.zip (several GB) from that page and unpack it",
        "the VOC half needs the lists that lie inside of it, PASCAL/VOCdevkit/VOC2012/ImageSets/Main/",
    ),
    "occluded-pascal3d": (
        "get PASCAL3D+ first (`nvsm prepare pascal3d`): labels and training pictures are its own; --root is its folder",
        "clone the repository and run download_FG.sh (L1, L2, L3) or download_FG_and_BG.sh (all nine levels)",
        "give its folder with --data.occluded_root; `nvsm prepare occluded` makes such sets from any other",
    ),
    "objectnet3d": (
        "pictures, annotations, image sets and CAD models are archives of their own; unpack all into one folder",
    ),
    "kitti": (
        "register there (free) and download left colour images, training labels and camera calibration; unpack all",
        "put the usual lists train.txt (3,712 frames) and val.txt (3,769) into ImageSets/; detection codes have them",
        "frames that are listed but not there are skipped, so that a few frames are enough for a look",
    ),
}


def explanation(name: str, where: str, layout: str) -> str:
    """Where a data set is had, how it must lie on disk, and what to do."""
    steps = "".join(f"\n  - {step}" for step in STEPS.get(name, ()))
    todo = f"\nwhat to do:{steps}" if steps else ""
    return f"{name}: {where}\nlayout below --root:\n  {layout}{todo}\nthen: nvsm prepare {name} --root DIR --check"


def explain(name: str, row: tuple[str, str, str], words: Sequence[str]) -> int:
    """Print source and layout of a data set; with ``--check`` read it, verify it and count.

    Returns:
        Exit status: 0, or 2 if something is damaged.
    """
    reader, where, layout = row
    parser = ArgumentParser(prog=f"nvsm prepare {name}", description=f"{where}. Layout: {layout}")
    parser.add_argument("--root", type=str, default="", help="Folder of the data set.")
    parser.add_argument(
        "--category",
        type=str,
        default="",
        help="Object category (of ETH-80 horse, else car); `all` counts every one of a published set.",
    )
    parser.add_argument("--labels", type=int, default=7, help="Labelled pictures to draw in the check.")
    parser.add_argument("--check", action="store_true", help="Read it as `nvsm fit` would, verify it, and count.")
    parser.add_argument(
        "--sheet", type=str, default="", help="A picture to write in the check: labels with their cuboids."
    )
    if not any(word in ("--check", "-h", "--help") or word.startswith(("--data", "--sheet")) for word in words):
        parser.parse_args(list(words))
        print(explanation(name, where, layout))  # at once: nothing was imported for it
        return 0
    import nvsm_lightning.data as rooms

    common = {*inspect.signature(rooms.PoseData).parameters, "root"} - {"crop", "crop_cache"}
    cls = getattr(rooms, reader)
    parser.add_class_arguments(cls, "data", as_group=False, skip=common, instantiate=False)
    options = parser.parse_args(list(words))
    if not (options.check or options.sheet):
        print(explanation(name, where, layout))
        return 0
    if not options.root:
        raise DataError(f"nvsm prepare {name} --check needs the folder: --root DIR")
    own = options.data.as_dict() if "data" in options else {}
    if isinstance(own.get("crop"), dict):
        own["crop"] = rooms.CropSpec(**own["crop"])
    data = cls(root=options.root, category=category_of(cls, options.category), labels=options.labels, **own)
    from nvsm_lightning.cli import prepare  # whose `check` this is

    try:
        lines = prepare.check(data)
    except DataError as error:
        if not Path(options.root).expanduser().exists():
            print(explanation(name, where, layout))
        said = str(error)  # in words of `nvsm fit`
        for option in ("root", "labels", "category"):
            said = said.replace(f"--data.{option}", f"--{option}")
        raise DataError(said) from error
    if options.sheet:
        from nvsm_lightning.cli.label_sheet import label_sheet

        lines.append(label_sheet(data, Path(options.sheet)))
    for line in lines:
        print(line)
    faults = len(getattr(data, "faults", []))
    if not faults:
        return 0
    text = "restore them, or go on without: --data.damaged skip leaves out damaged labels and missing pictures"
    return fail(f"{faults} damaged; {text}; take damaged pictures off their list.")


def category_of(reader: type, given: str) -> str:
    """The category that was asked for, else the reader's own."""
    own = inspect.signature(reader).parameters.get("category")
    return given or ("car" if own is None else str(own.default))


def check(data: Any) -> list[str]:
    """Read a data set as a fit would and count. Of a published one every picture is verified first.

    Args:
        data: a ``PoseData`` that has not been set up. A published one has its ``faults`` afterwards.

    Raises:
        DataError: what a fit would meet; of a published data set only what lets nothing be read at all.
    """
    from nvsm_lightning.data.published import PublishedData

    if not isinstance(data, PublishedData):
        return [f"{data.name} in {data.root}: readable", *parts(data)]
    lines = survey(data)
    if data.category == "all":
        return lines
    faults = data.faults
    try:
        with warnings.catch_warnings(action="ignore"):
            lines += ["as a fit takes it:", *parts(data)]
    except DataError as error:
        lines.append(f"  a fit would stop: {error}")
    data.faults = faults
    return lines


def parts(data: Any) -> list[str]:
    """The parts with their counts, azimuths in eight sectors and cameras; with a crop cache all pictures are cut."""
    from nvsm_lightning.data.parts import existing

    records = data.read(existing(data.root, "--root"))
    trains = any(record.part in ("train", "") and record.viewpoint is not None for record in records)
    data.setup("fit" if trains or not records else "test")  # a set for testing alone can be looked at, too
    lines = []
    for part in ("labelled", "pool", "val", "test"):
        records = getattr(data, part)
        cameras = Counter("own camera" if r.has_camera else "box" if r.box else "whole picture" for r in records)
        kinds = ", ".join(f"{count} {kind}" for kind, count in cameras.items()) or "none"
        lines.append(f"  {part:<9}{len(records):>6} pictures ({kinds}); azimuth 0 45 ... 315: {sectors(records)}")
    if data.test:
        shape = tuple(next(iter(data.test_dataloader()))["image"].shape[1:])
        lines.append(f"  crops of {shape[1]} x {shape[2]} pixels")
    if data.crop_cache is not None:
        if data.pool:
            data.pool_dataloader()  # which cuts the whole pool; the other parts were cut above
        lines.append(
            f"  {data.crop_cache.count()} crops in {data.crop_cache.folder}: `nvsm fit --data.crop_cache` takes them"
        )
    return lines


def sectors(records: Sequence[Any]) -> str:
    """How many azimuths lie in each of eight sectors, the first one around 0."""
    count = Counter(int(r.viewpoint[0] * 4 / 3.141592653589793 + 0.5) % 8 for r in records if r.viewpoint is not None)
    return " ".join(str(count[sector]) for sector in range(8))


def survey(data: Any) -> list[str]:
    """Read every label and verify every picture of a published data set: table of contents, what is left out, damage.

    Sets ``data.damaged`` to skip, and ``data.faults`` to all that was found.
    """
    from nvsm_lightning.data.parts import existing

    data.damaged = "skip"
    with warnings.catch_warnings(action="ignore"):  # they would say what the lines below say
        records = data.read(existing(data.root, "--root"))
    verdict: dict[Path, str] = {}
    for record in records:
        if record.image not in verdict:
            try:
                data.verify(record)
                verdict[record.image] = ""
            except DataError as error:
                verdict[record.image] = str(error)
                data.faults.append((record.key, str(error)))
    lines = [f"{data.name} in {data.root}: {len(records)} objects in {len(verdict)} pictures", "contents:"]
    rows: dict[tuple[str, str, str], list[Any]] = {}
    for record in records:
        rows.setdefault((record.category, record.part, record.occlusion), []).append(record)
    order = ("train", "val", "test")
    for category, part, occlusion in sorted(rows, key=lambda row: (row[0], order.index(row[1]), row[2])):
        found = rows[category, part, occlusion]
        lines.append(
            f"  {category:<12}{part:<6}{occlusion:<18}{len(found):>6} objects; azimuth 0 45 ... 315: {sectors(found)}"
        )
    for reason, ids in sorted(data.left_out.items()):
        lines.append(f"left out: {len(ids)} {reason}; the first: {ids[0]}")
    lines.append(f"damaged: {len(data.faults) or 'none'}")
    lines += [f"  {reason}" for _, reason in data.faults[:LISTED]]
    if len(data.faults) > LISTED:
        lines.append(f"  and {len(data.faults) - LISTED} more")
    return lines
