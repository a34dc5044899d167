import pytest
import torch
from torch.nn.functional import interpolate, normalize

from nvsm_lightning.bench.contenders import PREFIX, frozen_contenders, trained_contender
from nvsm_lightning.errors import ConfigError, WeightsError
from nvsm_lightning.features.backbone import Backbone, BackboneSpec

SPEC = BackboneSpec(name="small", weights="packaged")
IMAGE = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def built(name, spec=SPEC):
    (contender,) = frozen_contenders(spec, [name])
    return contender.build().eval()


@torch.no_grad()
def test_single_layers_are_the_taps_of_the_trunk():
    whole = built("project")
    fine, coarse = whole.trunk((IMAGE - whole.mean) / whole.std)
    torch.testing.assert_close(built("layer2")(IMAGE), normalize(fine, dim=1), atol=1e-5, rtol=0)
    wide = interpolate(normalize(coarse, dim=1), fine.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(built("layer3")(IMAGE), normalize(wide, dim=1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_single_layers_are_centred_as_a_fit_centres():
    backbone = built("layer3")
    before = backbone(IMAGE)
    from nvsm_lightning.geometry.cameras import canonical_camera

    backbone.calibrate([(IMAGE, canonical_camera(48, 64).expanded(2))])
    after = backbone(IMAGE)
    assert after.flatten(2).mean((0, 2)).norm() < 0.5 * before.flatten(2).mean((0, 2)).norm()


@torch.no_grad()
def test_random_weights_are_others_and_the_same_each_time():
    spec = BackboneSpec(name="small", weights="packaged", head="project")
    first, again, packaged = built("random", spec), built("random", spec), built("project", spec)
    assert first(IMAGE).equal(again(IMAGE))
    assert not torch.allclose(first(IMAGE), packaged(IMAGE), atol=0.1)


@torch.no_grad()
def test_a_checkpoint_gives_back_its_features():
    torch.manual_seed(3)
    trained = Backbone(BackboneSpec(name="small", dim=16)).eval()
    trained.center.normal_()
    state = {PREFIX + key: value for key, value in trained.state_dict().items()} | {"model.bank.vertex": torch.ones(3)}
    contender = trained_contender("round_01", trained.spec, state, 3)
    assert contender.centred
    assert contender.build().eval()(IMAGE).equal(trained(IMAGE))
    with pytest.raises(WeightsError, match="round_01 holds no backbone"):
        trained_contender("round_01", trained.spec, {"other": torch.ones(1)}, 3).build()


def test_unknown_layers_are_errors():
    with pytest.raises(ConfigError, match="'layer7'"):
        frozen_contenders(SPEC, ["layer7"])
    with pytest.raises(ConfigError, match="ends before layer4"):
        built("layer4")
