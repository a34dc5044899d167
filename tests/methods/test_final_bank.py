"""``match.final_bank``: of which pictures the means are that the estimates of a finished fit are made with."""

from pathlib import Path

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.training.averaging import MovingAverage
from nvsm_lightning.training.schedule import EMSchedule

EM = EMSchedule(rounds=2, epochs_per_round=1)


def labelled_means(method, data, trainer) -> torch.Tensor:
    """The means of the labelled pictures by the network that a fit has left."""
    trainer.fit_loop.evaluating(lambda: method.fill_bank(data.anchor_dataloader()))
    return method.model.bank.vertex.clone()


def network(method) -> dict[str, torch.Tensor]:
    """What is trained of it beside the bank."""
    return {name: value for name, value in method.state_dict().items() if "backbone" in name}


@pytest.mark.parametrize("validated", [True, False])
def test_the_last_estimates_are_made_with_means_of_the_labelled_pictures(
    make_method, make_data, make_trainer, checkpointed, tmp_path, validated
) -> None:
    """Set ahead of the last validation if there is one, kept in the checkpoint; training is as without."""
    plain, data, trainer = make_method(), make_data(), make_trainer(EM, 3)
    trainer.fit(plain, data)
    trained = {name: value.clone() for name, value in plain.state_dict().items()}
    means = labelled_means(plain, data, trainer)
    assert not torch.allclose(means, trained["model.bank.vertex"], atol=1e-3)

    method, other, seen = make_method(match=MatchSettings(final_bank="labels")), make_data(), []
    step = method.validation_step
    method.validation_step = lambda *batch: (seen.append(method.model.bank.vertex.clone()), step(*batch))[1]
    limit = {} if validated else {"limit_val_batches": 0}
    make_trainer(EM, 3, num_sanity_val_steps=0, **limit, **checkpointed(tmp_path)).fit(method, other)
    assert [torch.equal(vertex, means) for vertex in seen] == ([False, False, True] if validated else [])
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert torch.equal(state["model.bank.vertex"], means) and torch.equal(method.model.bank.vertex, means)
    assert network(method) and all(torch.equal(state[name], trained[name]) for name in network(method))
    assert all(torch.equal(*pair) for pair in zip(data.pseudo_labels, other.pseudo_labels, strict=True))


@pytest.mark.parametrize("many_labels", [0, 4, 5])
def test_many_labels_make_the_bank_alone_and_few_do_not(make_method, make_data, make_trainer, many_labels) -> None:
    method, data = make_method(match=MatchSettings(final_bank="many")), make_data()
    trainer = make_trainer(EMSchedule(2, 1, many_labels=many_labels), 3)
    trainer.fit(method, data)
    assert len(data.labelled) == 4
    found = method.model.bank.vertex.clone()
    assert torch.equal(found, labelled_means(method, data, trainer)) == (many_labels == 4)


def test_the_null_is_that_of_the_final_bank(make_method, make_data, make_trainer) -> None:
    method = make_method(match=MatchSettings(final_bank="labels", final_calibration="balanced"))
    trainer = make_trainer(EM, 3)
    trainer.fit(method, make_data())
    measured = method.model.null
    trainer.fit_loop.evaluating(method.measure_null)
    assert measured.abs().amax() > 0 and torch.equal(measured, method.model.null)


def test_the_bank_is_made_by_the_moving_average_that_is_tested(make_method, make_data, make_trainer) -> None:
    method, data = make_method(match=MatchSettings(final_bank="labels")), make_data()
    trainer = make_trainer(EM, 3, callbacks=[MovingAverage(0.8)])
    trainer.fit(method, data)
    found = method.model.bank.vertex.clone()
    torch.testing.assert_close(found, labelled_means(method, data, trainer), atol=1e-6, rtol=1e-4)


def test_a_fit_that_ends_early_keeps_the_bank_of_training_and_says_so(make_method, make_data, make_trainer) -> None:
    method = make_method(match=MatchSettings(final_bank="labels"))
    with pytest.warns(UserWarning, match=r"estimates are without match.final_bank\."):
        make_trainer(EM, 3, max_steps=1).fit(method, make_data())
    plain = make_method()
    make_trainer(EM, 3, max_steps=1).fit(plain, make_data())
    assert torch.equal(method.model.bank.vertex, plain.model.bank.vertex)


@pytest.mark.parametrize(("rounds", "averaged"), [(2, False), (4, False), (4, True)])
def test_a_finished_fit_that_goes_on_is_trained_with_the_bank_of_training(
    make_method, make_data, make_trainer, checkpointed, tmp_path, rounds, averaged
) -> None:
    """As one that has never had the other, and with rounds left its next E-step matches with it."""
    ends = []
    for final_bank in ("training", "labels"):
        folder, match = tmp_path / final_bank, MatchSettings(final_bank=final_bank)

        def trainer(em: EMSchedule, epochs: int, folder: Path = folder):
            options = checkpointed(folder)
            options["callbacks"] = [*options["callbacks"], *([MovingAverage(0.8)] if averaged else [])]
            return make_trainer(em, epochs, **options)

        trainer(EM, 3).fit(make_method(match=match), make_data())
        last = str(folder / "last.ckpt")
        assert ("training_bank" in torch.load(last, weights_only=False)) == (final_bank == "labels")
        further = make_method()
        trainer(EMSchedule(rounds, 1), 5).fit(further, make_data(), ckpt_path=last)
        ends.append(further.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_validating_within_the_last_epoch_changes_no_training(make_method, make_data, make_trainer) -> None:
    plain, method = make_method(), make_method(match=MatchSettings(final_bank="labels"))
    for each in (plain, method):
        make_trainer(EM, 3, val_check_interval=0.5).fit(each, make_data())
    assert all(torch.equal(value, network(method)[name]) for name, value in network(plain).items())
    assert not torch.equal(plain.model.bank.vertex, method.model.bank.vertex)


def test_unknown_banks_are_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown final_bank 'all'"):
        MatchSettings(final_bank="all")
