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
