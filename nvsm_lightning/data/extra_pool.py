"""Pictures of other data sets that join the unlabelled pool: more objects of the category, no labels."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nvsm_lightning.data import parts
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError, DataError

if TYPE_CHECKING:
    from nvsm_lightning.data.module import PoseData


def check_sources(sources: "Sequence[PoseData] | None", category: str, share: float | None = None) -> "list[PoseData]":
    """The data sets named by ``--data.extra_pool``; ConfigError if one is of another category or has such sets
    itself, or if the ``share`` is not in 0..1 or there is no set to have it."""
    if share is not None and not (sources and 0 <= share <= 1):
        raise ConfigError(
            f"--data.extra_share ({share}) is in 0..1, and the share of --data.extra_pool, which names "
            f"{len(sources or ())} data sets; leave it out to draw by the number of pictures."
        )
    for source in sources or ():
        if source.category != category:
            raise ConfigError(
                f"--data.extra_pool: {source.name} gives pictures of {source.category!r}, but the fit is of "
                f"{category!r}; set its category."
            )
        if source.extra_pool:
            raise ConfigError(f"--data.extra_pool: {source.name} has an extra_pool itself; put all sets into one list.")
    return list(sources or ())


def pool_from(sources: "Sequence[PoseData]", labelled: Sequence[Record], seed: int) -> list[Record]:
    """The train parts of other data sets, labelled or not, as further records of a pool; ``pool_limit`` of a source
    limits its own.

    Their keys begin with the name of their set, and so does every report of them; what their labels are serves reports
    alone. Where no labelled picture has a camera of its own, the pictures here are cut by their boxes too, for a match
    compares only what is shown alike.

    Raises:
        DataError: a folder is missing, or a source has no train part.
    """
    boxed = not any(record.has_camera for record in labelled)
    names: Counter[str] = Counter()
    records: list[Record] = []
    for source in sources:
        names[source.name] += 1
        name = source.name if names[source.name] == 1 else f"{source.name}_{names[source.name]}"
        found = parts.assign_parts(source.read(parts.existing(source.root, f"the root of {name} in --data.extra_pool")))
        train = [record for record in found if record.part == "train"]
        if source.azimuth_only:  # the other angles are its reader's assumptions
            train = [
                replace(each, viewpoint=each.viewpoint and (each.viewpoint[0], math.nan, math.nan)) for each in train
            ]
        if not train:
            raise DataError(f"{source.root}: {name} has no train part for --data.extra_pool; change its split.")
        records += [_as_pool(record, name, boxed) for record in parts.limit_pool(train, source.pool_limit, seed)]
    return records


def _as_pool(record: Record, name: str, boxed: bool) -> Record:
    group = f"{name} {record.group}" if record.group else ""
    record = replace(record, key=f"{name}:{record.key}", source=name, group=group)
    # Without a box the whole picture is one; the assumed distance is then that of the set they join.
    return replace(record, distance=None, focal_px=None, principal=None, warp=None) if boxed else record
