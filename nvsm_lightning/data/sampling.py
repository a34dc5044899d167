"""Which pictures make up a training epoch: one seeded stream, the same for any number of processes."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor
from torch.utils.data import DistributedSampler

from nvsm_lightning.errors import ConfigError

AZIMUTH_BINS = 12  # that pseudo labels are balanced over

Draw = tuple[int, int]  # (entry, seed of its augmentation)


def draw_weights(
    viewpoint: Float[Tensor, "entry 3"], weight: Float[Tensor, " entry"], bins: int | None
) -> Float[Tensor, " entry"]:
    """Probability of each pseudo-labelled picture: by weight, and with ``bins`` each occupied azimuth bin gets the same
    total."""
    if bins is not None:
        index = (viewpoint[:, 0] % (2 * math.pi) / (2 * math.pi) * bins).long().clamp_max(bins - 1)
        total = torch.zeros(bins).index_add(0, index, weight)
        weight = weight / total[index].clamp_min(1e-12)
    return weight / weight.sum().clamp_min(1e-12)


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
    ) -> None:
        self.batches = draws // (batch_size * world)
        if self.batches == 0:
            raise ConfigError(
                f"epoch_images={draws} is less than one batch of {batch_size} on {world} process(es); raise it."
            )
        super().__init__(range(labelled), num_replicas=world, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.labelled, self.probability = labelled, probability
        self.share = labelled_share if len(probability) else 1.0
        self.per_process = self.batches * batch_size

    def __len__(self) -> int:
        return self.per_process

    def stream(self) -> tuple[Int64[Tensor, " draw"], Int64[Tensor, " draw"]]:
        """(entry, augmentation seed) of every draw of this epoch over all processes."""
        generator = Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        total = self.per_process * self.num_replicas
        n_labelled = round(self.share * total)
        # Whole shuffled passes over the labelled pictures: each is seen equally often, give or take one.
        passes = [torch.randperm(self.labelled, generator=generator) for _ in range(-(-n_labelled // self.labelled))]
        entries = [torch.cat(passes)[:n_labelled]] if passes else []
        if total > n_labelled:
            pseudo = torch.multinomial(self.probability, total - n_labelled, replacement=True, generator=generator)
            entries.append(self.labelled + pseudo)
        entry = torch.cat(entries)[torch.randperm(total, generator=generator)]
        return entry, torch.randint(2**62, (total,), generator=generator)

    def __iter__(self) -> Iterator[Draw]:
        entry, seed = self.stream()
        mine = slice(self.rank, None, self.num_replicas)
        return iter(list(zip(entry[mine].tolist(), seed[mine].tolist(), strict=True)))
