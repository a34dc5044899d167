"""A fit killed outright at any point and resumed ends with the very numbers of a fit left alone."""

import multiprocessing
import random
import signal
from pathlib import Path

import pytest
import small_fit
import torch

from nvsm_lightning.toy.dataset import make_toy


@pytest.fixture(scope="module")
def run_fit():
    """``run_fit(...) -> exit code``: :func:`small_fit.fit` in a process of its own, forked from one that has imported
    everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    # importable there: the server does not know the path of the tests
    modules = ("methods", "data", "training.trainer")
    context.set_forkserver_preload([*(f"nvsm_lightning.{name}" for name in modules), "torchvision"])

    def run(*arguments) -> int:
        process = context.Process(target=small_fit.fit, args=arguments)
        process.start()
        process.join(600)
        if process.is_alive():
            process.kill()
            pytest.fail("the fit did not end in ten minutes")
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("kills") / "toy"
    make_toy(folder, train=16, test=2, size=(70, 100), progress=False)
    return str(folder)


# small has a moving average of its weights. resnet18 has batch norm, which must stay frozen in a fit resumed inside an
# M-step as well.
@pytest.mark.parametrize(("backbone", "kills"), [("small", 3), ("resnet18", 4)])
def test_killed_anywhere_and_resumed_it_ends_with_the_same_numbers(run_fit, root, tmp_path, backbone, kills) -> None:
    whole = tmp_path / "whole"
    assert run_fit(str(whole), backbone, root) == 0
    expected, events = torch.load(whole / "result.pt"), (whole / "events.txt").read_text().split()
    assert expected.keys() > {"index", "viewpoint", "0 exp_avg", "rate 0"} and len(expected["index"]) >= 4
    assert expected["null"].abs().amax() > 0
    chance = random.Random(kills)
    first_saved = events.index("on_train_epoch_end") + 1
    in_e_steps = [at for at, name in enumerate(events) if "match" in name]
    in_m_steps = [at for at, name in enumerate(events) if "match" not in name and at > first_saved]
    chosen = chance.sample(in_e_steps, kills // 2) + chance.sample(in_m_steps, kills - kills // 2)
    chosen[-1] = events.index("measure_null")
    for at in chosen:
        killed = tmp_path / f"killed_{at}"
        assert run_fit(str(killed), backbone, root, at) == -signal.SIGKILL
        assert (killed / "last.ckpt").exists() and not (killed / "result.pt").exists()
        assert run_fit(str(killed), backbone, root) == 0
        resumed = torch.load(killed / "result.pt")
        different = [name for name, value in expected.items() if not torch.equal(resumed[name], value)]
        assert resumed.keys() == expected.keys() and not different, f"killed at {at}, {events[at]}: {different[:3]}"
        done = (killed / "events.txt").read_text().split()
        assert done == events[-len(done) :] and len(done) > len(events) - at - 12  # at most an epoch is repeated


def test_killed_again_and_again_it_still_arrives(run_fit, root, tmp_path) -> None:
    assert run_fit(str(tmp_path / "whole"), "small", root) == 0
    events = (tmp_path / "whole" / "events.txt").read_text().split()
    folder, chance = str(tmp_path / "killed"), random.Random(0)
    for _ in range(4):
        assert run_fit(folder, "small", root, chance.randrange(len(events) // 2)) == -signal.SIGKILL
    assert run_fit(folder, "small", root) == 0
    expected, resumed = (torch.load(Path(name) / "result.pt") for name in (tmp_path / "whole", folder))
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
