"""Which pictures are labelled: drawn over azimuth or whole viewpoints, at random, by features of unlabelled pictures,
or from a list.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from nvsm_lightning.data.datasets import Crops, PoseDataset, hidden
from nvsm_lightning.data.labels import draw_labels, draw_views, enough, read_label_list, write_label_list
from nvsm_lightning.data.record import Record, viewpoints
from nvsm_lightning.errors import ConfigError, DataError

WAYS = ("spread", "views", "random", "kmeans", "manual:FILE")
CANDIDATES = 2000  # k-means looks at no more pictures than these, drawn at random
COMPONENTS = 64
RESTARTS = 20
GROUP = 8

Features = Callable[[list[Record]], tuple[list[Record], Float[Tensor, "picture dim"]]]  # of the readable pictures


def check_way(way: str, label_list: str | None) -> str:
    """``way``, or ``manual:`` of a label list, which is the same; ConfigError if it is none, or two at once."""
    if way not in WAYS[:-1] and way in ("manual:", way.removeprefix("manual:")):
        raise ConfigError(f"--data.anchors must be one of {', '.join(WAYS)}; got {way!r}.")
    if label_list is None:
        return way
    if way not in ("spread", "views"):  # which a data set's file may say
        raise ConfigError(
            f"--data.label_list fixes the labelled pictures, and --data.anchors {way} chooses others; leave one out."
        )
    return f"manual:{label_list}"


def choose_anchors(
    way: str, records: list[Record], count: int, seed: int, features: Features, mirror: bool
) -> list[Record]:
    """The ``count`` pictures of the train part that count as labelled.

    ``spread``, ``views`` and the list choose among the pictures with labels, ``random`` draws from them; ``kmeans``
    chooses among all, with labels or without. ``mirror``: the category is symmetric.

    Raises:
        DataError: too few pictures, or a list that does not fit.
    """
    train = [record for record in records if record.part in ("train", "")]
    known = [record for record in train if record.viewpoint is not None]
    if way == "kmeans":
        train = sorted(train, key=lambda record: record.image)  # whether a picture is in the table changes nothing
        drawn = _random(len(train), min(CANDIDATES, len(train)), seed).sort().values
        candidates, told = features([train[index] for index in drawn.tolist()])
        told = centred(told, [record.group for record in candidates])
        return [candidates[index] for index in central(told, count, seed).tolist()]
    if way.startswith("manual:"):
        index = read_label_list(Path(way.removeprefix("manual:")), known, count)
    elif way == "random":
        enough(len(known), count)
        index = _random(len(known), count, seed)
    elif way == "views":
        index = draw_views(viewpoints(known), count, seed, [record.group for record in known], mirror)
    else:
        index = draw_labels(viewpoints(known)[:, 0], count, seed, [record.group for record in known])
    return [known[position] for position in index.tolist()]


def require_poses(chosen: list[Record], folder: Path, first: bool) -> None:
    """DataError if pictures that k-means has chosen have no label yet. The choice is written down, by the ``first``
    process, in ``tables`` below ``folder``: with the poses, and perhaps boxes, it might be another one."""
    missing = [record.key for record in chosen if record.viewpoint is None]
    if not missing:
        return
    path = folder / "tables" / "labels.txt"
    if first:
        write_label_list(path, chosen)
    raise DataError(
        f"--data.anchors kmeans asks for the poses of {len(missing)} pictures that have none: {', '.join(missing)}. "
        f"Label them under these names; then --data.anchors manual:{path} goes on."
    )


def centred(features: Float[Tensor, "picture dim"], group: list[str]) -> Float[Tensor, "picture dim"]:
    """Less the mean of the pictures of the same group (car, sequence), so that what is left tells views rather than
    cars. Groups of fewer than 8 pictures are taken together."""
    size = Counter(group)
    kept = sorted(name for name, count in size.items() if count >= GROUP)
    number = torch.tensor([kept.index(name) if name in kept else len(kept) for name in group])
    total = torch.zeros(len(kept) + 1, features.shape[1]).index_add(0, number, features)
    return features - (total / number.bincount(minlength=len(total)).clamp_min(1)[:, None])[number]


def central(features: Float[Tensor, "picture dim"], count: int, seed: int) -> Int64[Tensor, " count"]:
    """The picture nearest to each of ``count`` k-means centres, that of the largest cluster first.

    k-means (k-means++ starts, the best of 20 by inertia) on the leading 64 principal components. Deterministic.
    """
    from scipy.cluster.vq import kmeans2

    enough(len(features), count)
    rows = (features - features.mean(0)).double()
    # The leading directions of the pictures: of the two Gram matrices the smaller one.
    if len(rows) < rows.shape[1]:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        points = (vectors * values.clamp_min(0).sqrt())[:, -COMPONENTS:].numpy()
    else:
        points = (rows @ torch.linalg.eigh(rows.T @ rows)[1][:, -COMPONENTS:]).numpy()
    generator, best = np.random.default_rng(seed), np.inf
    for _ in range(RESTARTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty cluster, whose centre stays where it was
            centres, _ = kmeans2(points, count, minit="++", rng=generator)
        distance = ((points[:, None] - centres) ** 2).sum(-1)
        if distance.min(1).sum() < best:
            best, nearest = distance.min(1).sum(), distance
    sizes = np.bincount(nearest.argmin(1), minlength=count)
    chosen: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable"):
        order = np.argsort(nearest[:, cluster], kind="stable")
        chosen.append(next(int(index) for index in order if int(index) not in chosen))
    return torch.tensor(chosen, dtype=torch.int64)


@torch.no_grad()
def describe_pictures(
    trainer: Any, crops: Crops, place: tuple[int, int], loader: Callable[[PoseDataset], Iterable[Any]]
) -> tuple[list[Record], Float[Tensor, "picture dim"]]:
    """Those of the pictures that can be read, and what the trainer's model says of each before it has learned anything:
    rows of its ``describe``. Those of the first process count: another machine may round differently.

    Args:
        trainer: whose model is asked.
        crops: of the pictures.
        place: number of this process and of all.
        loader: makes batches of a data set.

    Raises:
        ConfigError: there is no model, or one that does not describe pictures.
    """
    method = getattr(trainer, "lightning_module", None)
    if not hasattr(method, "describe"):
        raise ConfigError("--data.anchors kmeans needs a method that describes pictures: NeMo or NVSM.")
    assert method is not None
    usable, _ = crops.usable(range(len(crops)), "pictures that --data.anchors kmeans may choose", *place)
    was_training = method.training
    method.eval()  # a picture is described whatever others are there
    pictures = PoseDataset(crops, torch.tensor(usable), hidden(len(usable)))
    features = torch.cat([method.describe(batch) for batch in loader(pictures)])
    method.train(was_training)
    features = trainer.strategy.broadcast(features) if trainer.world_size > 1 else features
    return [crops.records[position] for position in usable], features


def _random(total: int, count: int, seed: int) -> Int64[Tensor, " count"]:
    return torch.randperm(total, generator=Generator().manual_seed(seed))[:count]
