from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from nvsm_lightning.errors import ConfigError, WeightsError
from nvsm_lightning.features.backbone import Backbone, BackboneSpec
from nvsm_lightning.geometry.cameras import Camera, canonical_camera


def picture(batch: int = 2, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def small(**changes) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneSpec(**({"name": "small", "dim": 16, "frozen": []} | changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet19"}, "Unknown backbone 'resnet19'.*resnet18, resnet50 or small"),
        ({"name": "resnet19", "weights": "IMAGENET1K_V1"}, "Unknown backbone 'resnet19'"),
        ({"head": "decoder"}, "Unknown backbone head 'decoder'.*project.*upsample"),
        ({"frozen": ["layer5"]}, "backbone.frozen names 'layer5'"),
        (
            {"frozen": ["layer4"]},
            r"backbone.frozen names 'layer4'(?!.*choose of .*layer4)",
        ),  # the project head has none
        ({"frozen": ["forward"]}, "backbone.frozen names 'forward'"),
        ({"weights": "packaged"}, "'packaged' exists for backbone 'small' only"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Backbone(BackboneSpec(**changes))


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"No weight file at .*gone\.pt.*--model\.backbone\.weights"):
        Backbone(BackboneSpec(weights=str(tmp_path / "gone.pt")))


def test_a_truncated_file_and_other_files_are_no_state_dicts(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"cut\.pt cannot be read as a PyTorch state dict.*Is it complete"):
        small(weights=str(path))
    path.write_text("<html>404</html>")
    with pytest.raises(WeightsError, match=r"cut\.pt cannot be read"):
        small(weights=str(path))
    for content in ([torch.zeros(1)], {"epoch": 3}, torch.zeros(2)):
        torch.save(content, path)
        with pytest.raises(WeightsError, match=r"cut\.pt holds no state dict"):
            small(weights=str(path))


def test_weights_of_another_network_name_the_first_tensors(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pt"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(WeightsError, match=r"not of a small: \d+ tensors missing \(first: \['conv1\.0\.weight'"):
        small(weights=str(path))
    # resnet50 has blocks of three convolutions: some tensors are missing, some are of another shape.
    with pytest.raises(WeightsError, match=r"missing \(first: \['layer1.*another shape \(first: \['layer1\.0\.conv1"):
        Backbone(BackboneSpec(name="resnet50", weights=str(path)))


def test_unreachable_torchvision_weights_name_the_remedies() -> None:
    with pytest.raises(WeightsError, match=r"IMAGENET1K_V9.*local file.*TORCH_HOME.*weights none"):
        Backbone(BackboneSpec(weights="IMAGENET1K_V9"))


def test_a_file_of_the_whole_backbone_restores_trunk_and_head(tmp_path: Path) -> None:
    saved, path = small(), tmp_path / "own.pt"
    torch.save(saved.state_dict(), path)
    torch.manual_seed(1)
    loaded = Backbone(BackboneSpec(name="small", dim=16, frozen=[], weights=str(path)))
    assert torch.equal(loaded.raw(picture()), saved.raw(picture()))
    with pytest.raises(WeightsError, match=r"1 of another shape \(first: \['project\.weight'"):
        small(weights=str(path), dim=8)


@pytest.mark.parametrize("name", ["small", "resnet18"])
@pytest.mark.parametrize("head", ["project", "upsample"])
def test_unit_features_at_stride_eight_on_odd_maps(name, head) -> None:
    torch.manual_seed(0)
    net = Backbone(BackboneSpec(name=name, head=head, dim=12, frozen=[])).eval()
    with torch.no_grad():
        features = net(picture(2, 72, 88))  # 9 x 11 cells, 5 x 6 at stride 16, 3 x 3 at stride 32
    assert features.shape == (2, 12, 9, 11) and features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=1), torch.ones(2, 9, 11), atol=1e-5)


def test_the_projection_keeps_the_angles_of_its_input() -> None:
    head = Backbone(BackboneSpec(frozen=[], dim=384)).head  # 128 + 256 channels to as many: an orthogonal matrix
    a, b = torch.randn(2, 1, 384, 1, 1)
    assert torch.allclose((head.project(a) * head.project(b)).sum(), (a * b).sum(), atol=1e-3)
    assert head.project.bias is None


@pytest.mark.parametrize("prepare", [lambda net: net, lambda net: net.train(), lambda net: net.eval().train()])
def test_batch_norm_stays_in_evaluation_unless_asked(prepare) -> None:
    net = prepare(Backbone(BackboneSpec(dim=8)))  # as built, too: a fit resumed inside an M-step changes no mode
    norms = [module for module in net.trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 10 and not any(module.training for module in norms) and net.head.training
    before = norms[-1].running_mean.clone()
    net(picture())
    assert torch.equal(norms[-1].running_mean, before)
    asked = Backbone(BackboneSpec(dim=8, train_batch_norm=True)).train()
    asked(picture())
    assert not torch.equal(asked.trunk.bn1.running_mean, torch.zeros(64))


def test_the_batch_norm_of_a_new_decoder_trains() -> None:
    """Its statistics start from nothing; only those of the pretrained trunk are kept."""
    net = Backbone(BackboneSpec(dim=8, head="upsample")).train()
    assert all(module.training for module in net.head.modules() if isinstance(module, nn.BatchNorm2d))


def test_frozen_stages_get_no_gradient_and_the_others_do() -> None:
    net = Backbone(BackboneSpec(dim=8, frozen=["conv1", "layer1"])).train()
    net(picture())[:, 0].sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    frozen = {name for name, gradient in gradients.items() if gradient is None}
    assert {name.split(".")[1] for name in frozen} == {"conv1", "bn1", "layer1"}
    assert all(gradient.abs().sum() > 0 for name, gradient in gradients.items() if name not in frozen)


def camera_of(batch: int, frame: tuple[float, float, float, float] | None = None) -> Camera:
    edges = None if frame is None else torch.tensor([frame]).expand(batch, 4)
    camera = canonical_camera(64, 96).expanded(batch)
    return Camera(camera.distance, camera.focal, camera.principal, camera.box, edges)


def test_calibration_takes_the_mean_feature_away() -> None:
    net = small().eval()
    images = [picture(3, seed=1), picture(1, seed=2)]  # of unequal size: every cell counts the same
    net.calibrate((image, camera_of(len(image))) for image in images)
    raw = torch.cat([net.raw(image) for image in images])
    assert torch.allclose(net.center[:, 0, 0], raw.mean((0, 2, 3)), atol=1e-6) and net.center.norm() > 0.1
    features = net(images[0])
    expected = raw[:3] - raw.mean((0, 2, 3))[:, None, None]
    assert torch.allclose(features, expected / expected.norm(dim=1, keepdim=True), atol=1e-5)
    assert not net.center.requires_grad and "center" in net.state_dict()


def test_the_fill_around_a_picture_does_not_count_for_the_centre() -> None:
    net, image = small().eval(), picture(2)
    net.calibrate(
        [(image, camera_of(2, (16.0, -50.0, 60.0, 40.0)))]
    )  # cells of columns 2 to 6 (7 ends at 64), rows 0 to 4
    shown = net.raw(image)[:, :, :5, 2:7]
    assert torch.allclose(net.center[:, 0, 0], shown.mean((0, 2, 3)), atol=1e-6)


def test_no_centring_where_it_is_not_wanted() -> None:
    net = small(center=False).eval()
    net.calibrate([(picture(), camera_of(2))])
    assert torch.equal(net.center, torch.zeros(16, 1, 1))
    assert torch.allclose(net(picture()), net.raw(picture()), atol=1e-6)


def test_real_weights_give_the_features_of_torchvision(shared_data) -> None:
    path = shared_data("weights") / "resnet18_imagenet1k_v1_conv1-layer3.pt"
    net = Backbone(BackboneSpec(weights=str(path), dim=32)).train()  # also in training mode
    reference = torchvision.models.resnet18(weights=None)
    reference.load_state_dict(torch.load(path), strict=False)
    taps: dict[str, Tensor] = {}
    for name in ("layer2", "layer3"):
        getattr(reference, name).register_forward_hook(lambda _, __, out, name=name: taps.update({name: out}))
    image = picture(1, 64, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        normed = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        reference.eval()(normed)
        seen = net.trunk(normed)
        features = net.raw(image)
        unit = [nn.functional.normalize(taps[name], dim=1) for name in ("layer2", "layer3")]
        coarse = nn.functional.interpolate(unit[1], unit[0].shape[-2:], mode="bilinear", align_corners=False)
        expected = nn.functional.normalize(net.head.project(torch.cat((unit[0], coarse), 1)), dim=1)
    assert torch.allclose(seen[0], taps["layer2"], atol=1e-4) and torch.allclose(seen[1], taps["layer3"], atol=1e-4)
    assert taps["layer3"].abs().mean() > 0.1 and torch.allclose(features, expected, atol=1e-5)


def test_the_packaged_weights_are_those_of_the_small_network() -> None:
    trained = Backbone(BackboneSpec(name="small", weights="packaged", frozen=[])).eval()
    torch.manual_seed(0)
    random = Backbone(BackboneSpec(name="small", frozen=[]))
    state, other = trained.trunk.state_dict(), random.trunk.state_dict()
    assert not any(torch.equal(state[name], other[name]) for name in state if "conv" in name)
    assert trained(picture()).isfinite().all()


def test_a_compiled_trunk_computes_the_same_under_the_same_names(monkeypatch) -> None:
    calls = []

    def traced(module: nn.Module) -> None:  # dynamo's graph, run as it is: no C++ compiler, no minute of compiling
        calls.append(type(module).__name__)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")  # type: ignore[assignment]

    monkeypatch.setattr(nn.Module, "compile", traced)
    plain, compiled = small(), small(compile=True)
    assert calls == ["SmallTrunk"] and list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(compiled(picture()), plain(picture()))
    assert compiled(picture()).requires_grad
