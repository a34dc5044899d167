import pytest

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.training.schedule import EMSchedule


@pytest.mark.parametrize(
    ("schedule", "rounds", "last"),
    [
        (EMSchedule(), [None] * 8, -1),
        (EMSchedule(3, 2), [0, None, 1, None, 2, None, None, None], 4),
        (EMSchedule(2, 3, 1), [None, 0, None, None, 1, None, None, None], 4),
        (EMSchedule(4, 1), [0, 1, 2, 3, None, None, None, None], 3),
        (EMSchedule(1, 3, 5), [None, None, None, None, None, 0, None, None], 5),
        (EMSchedule(0, 1, 2), [None] * 8, -1),
    ],
)
def test_rounds_come_before_their_epochs(schedule, rounds, last) -> None:
    assert [schedule.round_at(epoch) for epoch in range(8)] == rounds
    assert schedule.last_start == last


@pytest.mark.parametrize("wrong", [(-1, 3, 0), (2, 0, 0), (2, 3, -1)])
def test_schedules_that_cannot_be_are_errors(wrong) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.em needs rounds >= 0"):
        EMSchedule(*wrong)


def test_restarts_follow_their_rounds_counted_from_either_end() -> None:
    schedule = EMSchedule(4, restarts=[-1, 1])
    assert [schedule.restarts_after(number) for number in range(4)] == [False, True, False, True]
    assert [schedule.restarts_later(number) for number in range(-1, 4)] == [True, True, True, True, False]
    assert not EMSchedule(4).restarts_after(3)
    assert not EMSchedule(4).restarts_later(-1)
    with pytest.raises(ConfigError, match="names rounds that are not among 2"):
        EMSchedule(2, restarts=[-3])
    EMSchedule(0, restarts=[-1])  # what a data set's file says of NVSM does not stop NeMo


def test_rounds_before_the_extra_pool_joins_look_at_the_own_one() -> None:
    def own(*settings: int) -> list[bool]:
        schedule = EMSchedule(settings[0], extra_pool_from=settings[1])
        return [schedule.own_pool_in(number) for number in range(settings[0] + 1)]  # and behind the last: the null's

    assert own(3, 0) == [False] * 4
    assert own(3, 2) == own(3, -1) == [True, True, False, False]
    assert not EMSchedule(0).own_pool_in(0)
    for wrong in (3, -4):
        with pytest.raises(ConfigError, match="is not among the rounds, which are 3"):
            EMSchedule(3, extra_pool_from=wrong)


def test_a_teacher_leaves_the_last_round_alone_before_the_first_epoch() -> None:
    schedule = EMSchedule(4, 3, 6, many_labels=20, teacher="run")
    assert [schedule.round_at(epoch) for epoch in range(20)] == [3, *[None] * 19]
    assert schedule.last_start == 0 and schedule.further_warmup(50) == 0
    assert schedule.restarts_after(3) and schedule.restarts_later(-1) and not schedule.restarts_later(3)
    assert EMSchedule(0, teacher="run").round_at(0) is None  # NeMo has no use for it
