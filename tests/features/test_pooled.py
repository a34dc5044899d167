import pytest
import torch
import torchvision

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import TrunkSpec
from nvsm_lightning.features.pooled import PooledTrunk


def pictures(batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of a whole ResNet-18, and the same up to layer3."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, folder / "whole.pt")
    torch.save({key: value for key, value in state.items() if not key.startswith(("layer4", "fc"))}, folder / "cut.pt")
    return folder


def test_global_pooling_is_that_of_torchvision(files) -> None:
    net = PooledTrunk(TrunkSpec(weights=str(files / "whole.pt"))).eval()
    assert (net.stage, net.dim) == ("layer4", 512)
    reference = torchvision.models.resnet18(weights=None)
    reference.load_state_dict(torch.load(files / "whole.pt"))
    reference.fc = torch.nn.Identity()
    with torch.no_grad():
        theirs = reference.eval()((pictures() - net.mean) / net.std)
        torch.testing.assert_close(net(pictures()), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("last", "stage", "dim"), [("auto", "layer3", 32 * 256), ("layer3", "layer3", 32 * 256), ("layer4", "layer4", 512)]
)
def test_a_file_up_to_layer3_is_pooled_there_unless_a_random_layer4_is_asked_for(files, last, stage, dim) -> None:
    net = PooledTrunk(TrunkSpec(weights=str(files / "cut.pt"), last=last)).eval()
    assert (net.stage, net.dim, net.parts) == (stage, dim, (1, 1) if stage == "layer4" else (4, 8))
    with torch.no_grad():
        assert net(pictures()).shape == (3, dim)
    loaded = torch.load(files / "cut.pt")
    assert torch.equal(net.trunk.layer3[0].conv1.weight, loaded["layer3.0.conv1.weight"])


def test_parts_keep_where_something_is(files) -> None:
    net = PooledTrunk(TrunkSpec(name="small"), [2, 3]).eval()
    assert net.dim == 6 * 128 and net.stage == "layer3"
    with torch.no_grad():
        vector = net(pictures()).unflatten(1, (128, 2, 3))
        whole = PooledTrunk(TrunkSpec(name="small"), [1, 1])
        whole.load_state_dict(net.state_dict())
        torch.testing.assert_close(vector.mean((2, 3)), whole.eval()(pictures()), atol=1e-4, rtol=1e-3)


def test_a_picture_does_not_depend_on_its_company() -> None:
    net = PooledTrunk(TrunkSpec(name="small", chunk=2)).eval()
    with torch.no_grad():
        assert torch.equal(net(pictures(5))[:2], net(pictures(5)[:2]))


def test_settings_that_cannot_be_are_named() -> None:
    for parts in ([0, 3], [4], [1, 2, 3]):
        with pytest.raises(ConfigError, match=r"over \[rows, columns\], at least \[1, 1\]; got"):
            PooledTrunk(TrunkSpec(name="small"), parts)
    with pytest.raises(ConfigError, match="last must be auto, layer3 or layer4; got 'layer5'"):
        TrunkSpec(last="layer5")
