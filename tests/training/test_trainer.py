import pytest

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.training.loop import EMLoop
from nvsm_lightning.training.schedule import EMSchedule
from nvsm_lightning.training.trainer import EMTrainer

QUIET = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}


@pytest.mark.parametrize(("rounds", "max_epochs"), [(4, 9), (1, 0), (2, 3)])
def test_a_fit_that_ends_before_its_last_e_step_is_refused(rounds, max_epochs) -> None:
    with pytest.raises(ConfigError, match=rf"max_epochs={max_epochs} ends before the last of {rounds} E-steps"):
        EMTrainer(em=EMSchedule(rounds, 3), max_epochs=max_epochs, **QUIET)


@pytest.mark.parametrize("max_epochs", [7, 12, -1, None])
def test_enough_epochs_are_accepted_and_the_loop_keeps_its_limits(max_epochs) -> None:
    trainer = EMTrainer(em=EMSchedule(3, 3), max_epochs=max_epochs, min_epochs=2, **QUIET)
    assert isinstance(trainer.fit_loop, EMLoop) and trainer.fit_loop.em == EMSchedule(3, 3)
    assert trainer.max_epochs == max_epochs and trainer.min_epochs == 2
    assert trainer.fit_loop.epoch_loop.trainer is trainer


def test_a_development_run_of_one_batch_is_allowed() -> None:
    assert EMTrainer(em=EMSchedule(3, 3), fast_dev_run=True, **QUIET).max_epochs == 1


def test_without_rounds_it_is_a_plain_trainer() -> None:
    assert EMTrainer(max_epochs=1, **QUIET).em == EMSchedule(rounds=0)
