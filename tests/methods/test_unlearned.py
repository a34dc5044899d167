"""Nearest, Prior and Random."""

import pytest
import torch

from nvsm_lightning.data import Augmentation
from nvsm_lightning.features.backbone import TrunkSpec
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.methods import Nearest, Prior, Random
from nvsm_lightning.methods.unlearned import Unlearned
from nvsm_lightning.metrics.baselines import guess_errors, random_guesses

SMALL = TrunkSpec(name="small", chunk=4)


def make(kind, **changes):
    torch.manual_seed(0)
    return kind(**({"backbone": SMALL} | changes)).eval()


def started(kind, data, **changes):
    data.setup("fit")
    method = make(kind, **changes)
    with torch.no_grad():
        method.start_training(data)
    return method


def labelled(data) -> torch.Tensor:
    return torch.tensor([record.viewpoint for record in data.labelled])


def test_the_nearest_picture_of_a_labelled_picture_is_itself(make_data) -> None:
    data = make_data()
    method = started(Nearest, data)
    assert len(method.viewpoints) == 8, "four labelled pictures and their mirror images"
    for batch in data.anchor_dataloader():
        viewpoint, loss = method.estimate(batch)
        assert (viewpoint_error(viewpoint, batch["viewpoint"]) < 1e-3).all() and (loss.abs() < 1e-5).all()


def test_a_slightly_changed_picture_keeps_its_neighbour_and_others_are_further(make_data) -> None:
    data = make_data()
    method = started(Nearest, data, parts=[2, 4])
    batch = next(iter(data.anchor_dataloader()))
    noise = 0.02 * torch.rand(batch["image"].shape, generator=torch.Generator().manual_seed(0))
    viewpoint, loss = method.estimate({**batch, "image": batch["image"] + noise})
    assert (viewpoint_error(viewpoint, batch["viewpoint"]) < 1e-3).all() and (loss > 0).all()
    _, further = method.estimate(next(iter(data.test_dataloader())))
    assert further.min() > loss.max()


def test_prior_and_random_do_not_look_at_the_picture_and_do_not_depend_on_the_batch(make_data) -> None:
    data = make_data()
    for kind in (Prior, Random):
        method = started(kind, data)
        batch = next(iter(data.test_dataloader()))
        whole, _ = method.estimate(batch)
        assert torch.equal(whole, method.estimate({**batch, "image": batch["image"].flip(0)})[0])
        alone = torch.cat([method.estimate({"index": batch["index"][k : k + 1]})[0] for k in range(3)])
        assert torch.equal(whole, alone)


@pytest.mark.parametrize("kind", [Prior, Random])
def test_guesses_are_those_of_the_row_of_the_same_name(kind, make_data) -> None:
    """The mean error over many pictures is the expectation that every result table tells."""
    data = make_data()
    method = started(kind, data)
    truth = torch.tensor([[1.0, 0.1, 0.0]])
    rows = labelled(data) if kind is Prior else random_guesses(labelled(data), 360)
    viewpoint, _ = method.estimate({"index": torch.arange(1500)})
    mean = viewpoint_error(viewpoint, truth).mean()
    assert float(mean) == pytest.approx(float(guess_errors(rows, truth).mean()), abs=0.08)
    assert all((viewpoint_error(rows, one) < 1e-3).any() for one in viewpoint[:20])


def test_another_seed_draws_otherwise(make_data) -> None:
    one, other = (started(Random, make_data(label_seed=seed)) for seed in (0, 1))  # the labels are those of a list
    index = {"index": torch.arange(10)}
    assert not torch.equal(one.estimate(index)[0], other.estimate(index)[0])


@pytest.mark.parametrize("kind", [Nearest, Prior, Random])
def test_a_fit_learns_nothing_and_a_checkpoint_keeps_what_was_seen(kind, make_data, make_trainer, tmp_path) -> None:
    method, data, trainer = make(kind), make_data(augment=Augmentation()), make_trainer(epochs=1)
    before = {name: value.clone() for name, value in method.named_parameters()}
    trainer.fit(method, data)
    assert trainer.global_step == 3 and all(torch.equal(before[n], p) for n, p in method.named_parameters())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    torch.manual_seed(5)
    again = kind.load_from_checkpoint(tmp_path / "x.ckpt").eval()
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        for ours, theirs in zip(method.eval().estimate(batch), again.estimate(batch), strict=True):
            assert torch.equal(ours, theirs)


def test_the_base_asks_for_what_is_kept() -> None:
    with pytest.raises(NotImplementedError, match=r"Unlearned must override start_training\(\)"):
        Unlearned().start_training(None)
