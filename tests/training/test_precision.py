import os

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.training import precision
from nvsm_lightning.training.precision import VARIABLE, choose_precision
from nvsm_lightning.training.trainer import EMTrainer


@pytest.fixture(autouse=True)
def not_chosen_yet(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")  # remembered, so that what the code sets is undone


@pytest.mark.parametrize(("speed", "chosen"), [(3.0, "bf16-mixed"), (0.6, "32-true")])
def test_the_faster_type_is_chosen_once(monkeypatch, speed, chosen):
    monkeypatch.setattr(precision, "bf16_speed", lambda: speed)
    assert EMTrainer(accelerator="cpu", precision="auto", logger=False).precision == chosen
    monkeypatch.setattr(precision, "bf16_speed", lambda: 1 / speed)
    assert choose_precision("cpu") == os.environ[VARIABLE] == chosen  # as a process that the first one starts


@pytest.mark.parametrize("name", precision.STARTED)
def test_processes_that_a_launcher_has_started_do_not_choose_each_by_itself(monkeypatch, name):
    monkeypatch.setattr(precision, "bf16_speed", lambda: 2.0)
    monkeypatch.setenv(name, "2")
    with pytest.raises(ConfigError, match="Name one, bf16-mixed or 32-true"):
        choose_precision("cpu")
    monkeypatch.setenv(name, "1")
    assert choose_precision("cpu") == "bf16-mixed"


def test_measuring_changes_no_later_draw():
    torch.manual_seed(0)
    first = torch.rand(3)
    torch.manual_seed(0)
    assert precision.bf16_speed() > 0
    assert torch.equal(torch.rand(3), first)


def test_what_is_asked_for_is_done():
    assert EMTrainer(accelerator="cpu", precision="32-true", logger=False).precision == "32-true"
    assert EMTrainer(accelerator="cpu", logger=False).precision == "32-true"
    with pytest.raises(ValueError, match="16-bits"):
        EMTrainer(accelerator="cpu", precision="16-bits", logger=False)
