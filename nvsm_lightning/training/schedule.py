"""When the E-steps of NVSM happen."""

from dataclasses import dataclass, field

from nvsm_lightning.errors import ConfigError


@dataclass
class EMSchedule:
    """E-steps between epochs: round r happens before epoch ``warmup_epochs + r * epochs_per_round``.

    Attributes:
        rounds: number of E-steps; 0 = train on the labels alone.
        epochs_per_round: epochs of the M-step after each E-step (after the last one, training goes on to
            trainer.max_epochs).
        warmup_epochs: epochs on the labels alone before the first E-step. 0 = the first E-step uses the untrained
            (pretrained)
            features: better with few labels, as training on 7 pictures first locks in their front/back confusions.
        many_labels: from so many labelled pictures on, ``nvsm fit`` warms up for at least ``many_warmup_epochs``, and
            ``trainer.max_epochs`` grows by what that adds; 0 = never. Many labels teach more than frozen features know:
            a first E-step on these would spoil what they teach. See also ``model.match.final_bank``.
        many_warmup_epochs: see ``many_labels``.
        keep_rounds: keep the weights that each E-step starts from, as checkpoints/round_XX.ckpt (XX rounds behind
            them), for `nvsm match`. A fit is resumed from last.ckpt, not from these.
        pool_per_round: pool pictures that an E-step looks at, others in every round until all had their turn; 0 = the
            whole pool. An M-step of three epochs draws fewer than a thousand of them.
        extra_pool_from: first round (from 0; negative: from the last) that looks at ``data.extra_pool``, too.
            A network that has learned from the own pool labels foreign pictures better than its first features.
        restarts: rounds (from 0; negative: from the last) after whose E-step the network goes back to the weights it
            began with and learns from the new pseudo labels alone. What the wrong ones of the first rounds have taught
            it is forgotten; else it goes on confirming its own mistakes. Leave it several epochs after the last.
        teacher: a finished fit (its run folder or checkpoint) whose network takes the place of all rounds but the last:
            the fit begins with the last round's E-step, by the teacher and over the present pool, and the network
            learns from these labels alone, from its first weights. No warm-up. For pictures that came later, or another
            generation; the labelled pictures should be those of the teacher.
    """

    rounds: int = 0
    epochs_per_round: int = 3
    warmup_epochs: int = 0
    keep_rounds: bool = False
    pool_per_round: int = 0
    many_labels: int = 0
    many_warmup_epochs: int = 12
    extra_pool_from: int = 0
    restarts: list[int] = field(default_factory=list)
    teacher: str | None = None

    def __post_init__(self) -> None:
        least = (self.rounds, self.warmup_epochs, self.pool_per_round, self.many_labels, self.many_warmup_epochs)
        if min(least) < 0 or self.epochs_per_round < 1:
            raise ConfigError(
                "trainer.em needs rounds >= 0, epochs_per_round >= 1, warmup_epochs >= 0, pool_per_round >= 0, "
                f"many_labels >= 0 and many_warmup_epochs >= 0; got {self}."
            )

        if self.rounds and any(not -self.rounds <= number < self.rounds for number in self.restarts):
            raise ConfigError(f"trainer.em.restarts {self.restarts} names rounds that are not among {self.rounds}.")
        if self.rounds and not -self.rounds <= self.extra_pool_from < self.rounds:
            raise ConfigError(
                f"trainer.em.extra_pool_from {self.extra_pool_from} is not among the rounds, which are {self.rounds}."
            )
        if not self.rounds:
            self.teacher = None  # what a fit says of NVSM does not stop the NeMo that its guard compares it with

    def own_pool_in(self, number: int) -> bool:
        """Whether round ``number`` looks at the pool without ``data.extra_pool``."""
        return bool(self.rounds) and number < self.extra_pool_from % self.rounds

    def restarts_after(self, number: int) -> bool:
        """Whether the network starts afresh after the E-step of round ``number``."""
        return bool(self.teacher) or number in (each % self.rounds for each in self.restarts)

    def restarts_later(self, number: int) -> bool:
        """Whether the network will start afresh after a round behind ``number`` (-1: before the first)."""
        return any(self.restarts_after(later) for later in range(number + 1, self.rounds))

    def round_at(self, epoch: int) -> int | None:
        """The round whose E-step comes just before ``epoch``, or None."""
        if self.teacher:
            return self.rounds - 1 if epoch == 0 else None
        number, rest = divmod(epoch - self.warmup_epochs, self.epochs_per_round)
        return number if rest == 0 and 0 <= number < self.rounds else None

    def many(self, labels: int) -> bool:
        """Whether so many labelled pictures are many (``many_labels``)."""
        return 0 < self.many_labels <= labels

    def further_warmup(self, labels: int) -> int:
        """Epochs on the labels alone that ``labels`` labelled pictures ask for beyond ``warmup_epochs``."""
        wanted = self.rounds and not self.teacher and self.many(labels)
        return max(0, self.many_warmup_epochs - self.warmup_epochs) if wanted else 0

    @property
    def last_start(self) -> int:
        """Epoch that follows the last E-step; -1 without rounds."""
        if self.teacher:
            return 0
        return self.warmup_epochs + (self.rounds - 1) * self.epochs_per_round if self.rounds else -1
