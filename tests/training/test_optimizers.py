"""Learning rates of the parts of a network; that of the methods is tested with them."""

from types import SimpleNamespace

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import Backbone, BackboneSpec
from nvsm_lightning.training.optimizers import counted_from_start, stage_rates


def rates_of(backbone: Backbone, layer_decay: float) -> dict[str, float]:
    """Learning rate of every parameter that trains."""
    [optimizer], _ = stage_rates(backbone.trunk, backbone.head.parameters(), 1e-4, 1e-2, 1e-3, [], layer_decay)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    found = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert all(group["weight_decay"] == 1e-3 for group in optimizer.param_groups)
    return found


@pytest.mark.parametrize(("name", "head"), [("small", "project"), ("resnet18", "project"), ("resnet18", "upsample")])
def test_the_rate_falls_from_stage_to_stage_and_every_parameter_has_one(name, head) -> None:
    torch.manual_seed(0)
    last = "layer4" if head == "upsample" else "layer3"
    backbone = Backbone(BackboneSpec(name=name, head=head, dim=16, last=last))
    rates = rates_of(backbone, 0.5)
    assert rates.keys() == {name for name, _ in backbone.named_parameters()}
    top = int(last[-1])
    for parameter, rate in rates.items():
        part, stage = parameter.split(".")[:2]
        distance = top if stage in ("conv1", "bn1") else top - int(stage[-1]) if part == "trunk" else None
        assert rate == pytest.approx(1e-2 if distance is None else 1e-4 * 0.5**distance), parameter


def test_milestones_that_count_back_are_counted_anew_where_a_fit_goes_on() -> None:
    """The rates fall before the end of the longer fit, and have not fallen before that of the shorter one."""

    def fit(milestones: list[int]) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        [optimizer], [schedule] = stage_rates(torch.nn.Linear(1, 1), [], 1.0, 1.0, 0.0, milestones, 1.0)
        return optimizer, schedule

    def rates(optimizer, schedule, epochs: int) -> list[float]:
        seen = []
        for _ in range(epochs):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return seen

    shorter = fit([2, 3])
    assert rates(*shorter, 4) == pytest.approx([1, 1, 0.2, 0.04])
    for milestones, expected in (([4, 6], [0.2, 0.2, 0.04]), ([2, 3], [0.04] * 3), ([5], [1, 0.2, 0.2])):
        longer = fit(milestones)
        for mine, stored in zip(longer, shorter, strict=True):
            mine.load_state_dict(stored.state_dict())
        assert rates(*longer, 3) == pytest.approx(expected)


def test_frozen_stages_are_left_out_and_still_count() -> None:
    rates = rates_of(Backbone(BackboneSpec(name="resnet18", dim=16, frozen=["conv1", "layer3"])), 0.5)
    assert {name.split(".")[1] for name in rates if name.startswith("trunk")} == {"layer1", "layer2"}
    assert all(rate == pytest.approx(5e-5) for name, rate in rates.items() if "layer2" in name)


def test_without_decay_the_groups_are_trunk_and_head() -> None:
    backbone = Backbone(BackboneSpec(name="small", dim=16))
    [optimizer], _ = stage_rates(backbone.trunk, backbone.head.parameters(), 1e-4, 1e-2, 0.0, [], 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-2]


def test_a_method_hands_its_decay_on_and_refuses_a_senseless_one() -> None:
    from nvsm_lightning.methods import NeMo
    from nvsm_lightning.methods.category_mesh import MeshSpec

    spec = {"backbone": BackboneSpec(name="small", dim=16), "mesh": MeshSpec(vertices=80)}
    [optimizer], _ = NeMo(learning_rate=1e-4, layer_decay=0.5, **spec).configure_optimizers()
    assert [group["lr"] for group in optimizer.param_groups] == [1.25e-5, 2.5e-5, 5e-5, 1e-4, 1e-3]
    for bad in (0.0, -0.5, 1.5):
        with pytest.raises(ConfigError, match="layer_decay"):
            NeMo(layer_decay=bad, **spec)


def test_negative_milestones_count_back_from_the_last_epoch() -> None:
    assert counted_from_start([3, -4, -2], SimpleNamespace(max_epochs=24)) == [3, 20, 22]
    assert counted_from_start([3], None) == [3]
    assert counted_from_start([-4, -2], SimpleNamespace(max_epochs=1, fast_dev_run=1)) == []
    for trainer in (None, SimpleNamespace(max_epochs=-1), SimpleNamespace(max_epochs=3)):
        with pytest.raises(ConfigError, match="max_epochs"):
            counted_from_start([-4], trainer)
