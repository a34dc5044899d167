"""Which pictures make up a training epoch: one seeded stream, the same for any number of processes."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.utils.data import DistributedSampler

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.viewpoints import azimuth_bin

AZIMUTH_BINS = 12  # that training is balanced over
MANY_LABELS = 100  # from here on labelled pictures are balanced too
MOST_DRAWN = 10  # times as often as the mean: a picture alone in its view is often there by a wrong label

Draw = tuple[int, int]  # (entry, seed of its augmentation)


def draw_probability(viewpoint: Float[Tensor, "entry 3"], bins: int | None) -> Float[Tensor, " entry"]:
    """Probability of each picture: the same, or with ``bins`` the same total for each occupied azimuth bin, as far as
    no picture is drawn more than ``MOST_DRAWN`` times as often as the mean picture; the other bins share what is left.
    """
    if bins is None or not len(viewpoint):
        return torch.full((len(viewpoint),), 1 / max(1, len(viewpoint)))
    index = azimuth_bin(viewpoint, bins)
    even, most = 1 / index.bincount(minlength=bins)[index], MOST_DRAWN / len(viewpoint)
    capped = torch.zeros(len(index), dtype=torch.bool)
    while True:  # once for each bin at most
        left = 1 - most * capped.sum()
        share = torch.where(capped, most, left * even / even[~capped].sum())
        over = share > most * (1 + 1e-6)
        if not over.any():
            return share
        capped |= over


def mixed_probability(
    viewpoint: Float[Tensor, "entry 3"], extra: Bool[Tensor, " entry"], share: float | None, bins: int | None
) -> Float[Tensor, " entry"]:
    """As :func:`draw_probability`, of the own and of the ``extra`` pictures each by themselves, the ``extra`` ones
    having the given share together; without one (or without both kinds) all in one, as many as there are.
    """
    if share is None or extra.all() or not extra.any():
        return draw_probability(viewpoint, bins)
    probability = torch.empty(len(viewpoint))
    probability[extra] = share * draw_probability(viewpoint[extra], bins)
    probability[~extra] = (1 - share) * draw_probability(viewpoint[~extra], bins)
    return probability


def labelled_probability(viewpoint: Float[Tensor, "label 3"], bins: int | None) -> Float[Tensor, " label"] | None:
    """Probability of each labelled picture where there are many: every azimuth bin gets the same total. None, for equal
    use, where there are few, which were drawn spread over azimuth.

    A bank that moves with batches full of fronts takes rears for fronts: with 2,600 labels, most of them fronts, 28 %
    of the validation pictures were turned around; with equal bins 5 %.
    """
    if bins is None or len(viewpoint) < MANY_LABELS:
        return None
    return draw_probability(viewpoint, bins)


def spread_over_azimuth(viewpoint: Float[Tensor, "entry 3"], count: int, bins: int) -> Int64[Tensor, " chosen"]:
    """``count`` entries (all, where there are no more), in order, as equally from the bins of azimuth as these allow:
    from each the same number, evenly spaced, or all it has.

    Means over entries that crowd in a few views describe the others badly: a roof as it looks from the front.
    """
    index = azimuth_bin(viewpoint, bins)
    place = torch.empty(len(index))  # of each entry within its bin, in an order whose every beginning is evenly spaced
    for turn in index.unique():
        members = (index == turn).nonzero()[:, 0]
        place[members[_spaced_order(len(members))]] = torch.arange(len(members), dtype=torch.float32)
    return place.argsort(stable=True)[:count].sort().values


def limited(
    labelled: Float[Tensor, "label 3"], pseudo: Float[Tensor, "entry 3"], limit: int | None, bins: int
) -> tuple[Int64[Tensor, " chosen"], Int64[Tensor, " further"]]:
    """Positions of at most ``limit`` labelled and pseudo-labelled pictures for means over both: few labelled ones all,
    of many half the limit (more where the others are fewer), and the others spread over azimuth, as the many are."""
    first, further = torch.arange(len(labelled)), torch.arange(len(pseudo))
    if limit is None or len(labelled) + len(pseudo) <= limit:
        return first, further
    if len(labelled) >= MANY_LABELS:
        first = spread_over_azimuth(labelled, max(limit - len(pseudo), limit // 2), bins)
    return first, spread_over_azimuth(pseudo, max(0, limit - len(first)), bins)


def _spaced_order(count: int) -> Int64[Tensor, " count"]:
    """0..count-1 so that every beginning of the list is spread over them (by the golden section)."""
    return ((torch.arange(count, dtype=torch.float64) * 0.6180339887498949) % 1).argsort().argsort()


class DrawSampler(DistributedSampler[Draw]):
    """Draws of an epoch, with replacement: a share of labelled pictures, the rest pseudo-labelled ones by probability.

    The stream depends only on (seed, epoch): a fit that is resumed at an epoch's end sees the same pictures with the
    same augmentation. Process ``rank`` of ``world`` takes every ``world``-th draw, so the k-th batches of all processes
    together are the k-th batch of one process with ``world`` times the batch size. Being a ``DistributedSampler`` it is
    left in place by Lightning.

    Args:
        labelled: number of labelled entries, which come first.
        probability: of each pseudo-labelled entry, which follow; may be empty.
        labelled_share: expected share of labelled draws while there are pseudo labels (1 when there are none).
        draws: pictures of an epoch over all processes; rounded down to whole batches.
        batch_size: of one process.
        seed: of the stream.
        rank: this process.
        world: number of processes.
        labelled_probability: of each labelled entry; by default each is drawn equally often, give or take one.
    """

    def __init__(
        self,
        labelled: int,
        probability: Float[Tensor, " pseudo"],
        labelled_share: float,
        draws: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        labelled_probability: Float[Tensor, " labelled"] | None = None,
    ) -> None:
        self.batches = draws // (batch_size * world)
        if self.batches == 0:
            raise ConfigError(
                f"epoch_images={draws} is less than one batch of {batch_size} on {world} process(es); raise it."
            )
        super().__init__(range(labelled), num_replicas=world, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.labelled, self.probability, self.labelled_probability = labelled, probability, labelled_probability
        self.share = labelled_share if len(probability) else 1.0
        self.per_process = self.batches * batch_size

    def __len__(self) -> int:
        return self.per_process

    def stream(self) -> tuple[Int64[Tensor, " draw"], Int64[Tensor, " draw"]]:
        """(entry, augmentation seed) of every draw of this epoch over all processes."""
        generator = Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        total = self.per_process * self.num_replicas
        n_labelled = round(self.share * total)
        entries = [self._labelled_draws(n_labelled, generator)] if n_labelled else []
        if total > n_labelled:
            pseudo = torch.multinomial(self.probability, total - n_labelled, replacement=True, generator=generator)
            entries.append(self.labelled + pseudo)
        entry = torch.cat(entries)[torch.randperm(total, generator=generator)]
        return entry, torch.randint(2**62, (total,), generator=generator)

    def _labelled_draws(self, count: int, generator: Generator) -> Int64[Tensor, " draw"]:
        if self.labelled_probability is not None:
            return torch.multinomial(self.labelled_probability, count, replacement=True, generator=generator)
        passes = [torch.randperm(self.labelled, generator=generator) for _ in range(-(-count // self.labelled))]
        return torch.cat(passes)[:count]

    def __iter__(self) -> Iterator[Draw]:
        entry, seed = self.stream()
        mine = slice(self.rank, None, self.num_replicas)
        return iter(list(zip(entry[mine].tolist(), seed[mine].tolist(), strict=True)))
