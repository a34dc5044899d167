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
