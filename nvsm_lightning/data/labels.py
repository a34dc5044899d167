"""Which pictures are labelled: seeded few-shot draws spread over azimuth, and their list files."""

import math
import re
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import DataError
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error, wrap_angle

ANCHORS = 7  # the smallest published label set (NVSM): nested draws start with as many equally spaced azimuths
NEAREST = 5  # a wanted azimuth is filled at random from this many nearest pictures


def draw_labels(
    azimuth: Float[Tensor, " record"], count: int, seed: int, group: list[str] | None = None
) -> Int64[Tensor, " count"]:
    """Positions of ``count`` pictures spread over azimuth (radians): the first of one seeded order, so that 7 in 20 in
    50 are nested.

    The first 7 lie near 7 equally spaced azimuths with a random phase; every next one near the middle of the widest gap
    left. Near = drawn at random from the 5 nearest pictures not yet drawn, those of the least drawn ``group`` (car)
    first: labels of one car only cost 12 points of spread between draws, as a person choosing 7 photographs would know.

    Raises:
        DataError: there are fewer pictures than asked for.
    """
    total = len(azimuth)
    enough(total, count)
    generator = Generator().manual_seed(seed)
    phase = torch.rand(1, generator=generator).item() * 2 * math.pi
    # Steps of three sevenths of a turn, so that fewer than 7 labels are spread too.
    wanted = [phase + 2 * math.pi * (3 * step % ANCHORS) / ANCHORS for step in range(ANCHORS)]
    free = torch.ones(total, dtype=torch.bool)
    used: Counter[str] = Counter()
    order: list[int] = []
    while len(order) < count:
        target = wanted[len(order)] if len(order) < ANCHORS else _widest_gap(azimuth[order], generator)
        distance = wrap_angle(azimuth - target).abs().masked_fill(~free, math.inf)
        nearest = distance.topk(min(NEAREST, int(free.sum())), largest=False).indices.tolist()
        chosen = _of_fewest(nearest, group, used, generator)
        free[chosen] = False
        order.append(chosen)
    return torch.tensor(order, dtype=torch.int64)


def draw_views(
    viewpoint: Float[Tensor, "record 3"], count: int, seed: int, group: list[str], mirror: bool
) -> Int64[Tensor, " count"]:
    """Positions of ``count`` pictures spread over whole viewpoints (radians), for objects seen from many elevations:
    the first of one seeded order, whose every next picture is far from all before it (and, of symmetric objects, from
    their mirror images). Far = drawn at random from the 5 farthest, those of the least drawn ``group`` first.

    Raises:
        DataError: there are fewer pictures than asked for.
    """
    enough(len(viewpoint), count)
    generator = Generator().manual_seed(seed)
    distance = torch.full((len(viewpoint),), math.inf)
    used: Counter[str] = Counter()
    order: list[int] = []
    while len(order) < count:
        far = distance.topk(min(NEAREST, len(distance) - len(order))).indices.tolist()
        candidates = far if order else list(range(len(distance)))
        chosen = _of_fewest(candidates, group, used, generator)
        order.append(chosen)
        twins = (viewpoint[chosen], mirror_viewpoint(viewpoint[chosen])) if mirror else (viewpoint[chosen],)
        for twin in twins:
            distance = torch.minimum(distance, viewpoint_error(viewpoint, twin))
        distance[order] = -math.inf
    return torch.tensor(order, dtype=torch.int64)


def enough(total: int, count: int) -> None:
    """DataError if there are fewer pictures than labels asked for."""
    if count > total:
        raise DataError(
            f"{count} labels were asked for, but the train part has only {total} of them; lower --data.labels."
        )


def _of_fewest(candidates: list[int], group: list[str] | None, used: Counter[str], generator: Generator) -> int:
    """One of the candidates at random, of the groups that are least ``used``, which is counted up."""
    if group is not None:
        fewest = min(used[group[index]] for index in candidates)
        candidates = [index for index in candidates if used[group[index]] == fewest]
    chosen = candidates[int(torch.randint(len(candidates), (1,), generator=generator))]
    if group is not None:
        used[group[chosen]] += 1
    return chosen


def _widest_gap(azimuth: Float[Tensor, " drawn"], generator: Generator) -> float:
    """An azimuth in the middle half of the widest gap between the given ones, radians."""
    ordered = (azimuth % (2 * math.pi)).sort().values
    gap = torch.cat((ordered[1:], ordered[:1] + 2 * math.pi)) - ordered
    widest = int(gap.argmax())
    share = 0.25 + 0.5 * torch.rand(1, generator=generator).item()
    return (ordered[widest] + share * gap[widest]).item()


def read_label_list(path: Path, records: list[Record], count: int) -> Int64[Tensor, " count"]:
    """Positions in ``records`` of the first ``count`` keys of a list file (one a line; blank lines and what follows a
    ``#`` after a blank or at the start are skipped; keys of KITTI have one inside).

    Raises:
        DataError: no such file, a key that is not among the labelled train pictures, a key twice, or too few keys.
    """
    if not path.is_file():
        raise DataError(
            f"Label list {path} does not exist; give a file written by an earlier run, or leave --data.label_list out."
        )
    position = {record.key: index for index, record in enumerate(records)}
    chosen: list[int] = []
    for line, row in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        whole = row.strip()
        key = whole if whole in position else re.split(r"(?:^|\s)#", row, maxsplit=1)[0].strip()
        if not key:
            continue
        if key not in position:
            raise DataError(
                f"{path}:{line}: {key!r} is no labelled picture of the train part; check the list and --data.root."
            )
        if position[key] in chosen:
            raise DataError(f"{path}:{line}: {key!r} is listed twice; remove one.")
        chosen.append(position[key])
    if len(chosen) < count:
        raise DataError(f"{path} lists {len(chosen)} pictures, but {count} labels were asked for; lower --data.labels.")
    return torch.tensor(chosen[:count], dtype=torch.int64)


def write_label_list(path: Path, records: list[Record]) -> None:
    """Write the keys of the labelled pictures, one a line, in the order of the draw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record.key}\n" for record in records), encoding="utf-8")


def no_pseudo_labels() -> tuple[Int64[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """(position in the pool, viewpoint, weight) of no picture: what a fit begins with."""
    return torch.empty(0, dtype=torch.int64), torch.empty(0, 3), torch.empty(0)
