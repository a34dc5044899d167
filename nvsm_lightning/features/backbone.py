"""Backbones: a picture goes in, a map of unit feature vectors at stride 8 comes out.

``resnet18`` / ``resnet50`` are torchvision's; a weight file may hold the whole network or only conv1..layer3 (a
truncated trunk). ``small`` is a network for pictures of the embedded set. Heads: ``project`` (one bias-free linear map
over the two finest taps, which keeps ImageNet features usable from the first step on: right for few labels) and
``upsample`` (NeMo's decoder, for many).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as nnf
from jaxtyping import Float
from torch import Tensor, nn

from nvsm_lightning.errors import ConfigError, WeightsError
from nvsm_lightning.geometry.cameras import Camera

STRIDE = 8
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class TrunkSpec:
    """Which pretrained network reads the pictures.

    Attributes:
        name: resnet18, resnet50, or small (a light network for the embedded set).
        weights: "none" (random), a torchvision name such as IMAGENET1K_V1 (downloaded), a file (state dict, may end at
            layer3), or "packaged" (the network that ships with this package, for name small only).
        frozen: leading stages that never train, among conv1, layer1, layer2, layer3, layer4.
        train_batch_norm: let batch norm use and update batch statistics. Off by default: with few labels the statistics
            of a batch are worse than ImageNet's, and folded weight files would be destroyed by them.
        chunk: pictures that go through the network together. Convolutions round differently for another number of
            pictures, and training makes the difference grow: with a fixed chunk, several processes that share a batch
            compute what one does. GPUs want more (and a batch size of as many or a multiple).
        last: where a ResNet ends: layer3, layer4 (random where the weights have none), or auto = layer4 where it is
            used (head upsample, classifiers, nearest) and the weights have it.
        compile: compile the trunk with torch.compile when it first runs: a minute and a half on a CPU, which needs a
            C++ compiler, then 1.2 times as fast. Rounds otherwise: resume a fit as it was begun.
    """

    name: str = "resnet18"
    weights: str = "none"
    frozen: list[str] = field(default_factory=list)
    train_batch_norm: bool = False
    chunk: int = 8
    last: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"backbone.chunk must be at least 1; got {self.chunk}.")
        if self.last not in ("auto", "layer3", "layer4"):
            raise ConfigError(f"backbone.last must be auto, layer3 or layer4; got {self.last!r}.")

    def chunks(self, batch: int) -> int:
        """Into how many parts a batch is divided; part ``i`` of ``n`` is every n-th picture from the i-th."""
        return -(-batch // self.chunk)


@dataclass
class BackboneSpec(TrunkSpec):
    """Which network reads the pictures, and what makes a feature map of what it sees.

    Attributes:
        head: project or upsample, see :mod:`nvsm_lightning.features.backbone`.
        dim: channels of the feature map.
        center: subtract the mean feature of the training pictures before the last normalisation. Features after a ReLU
            share a large common direction that hides what tells cells apart; without it front and back are confused
            more often.
    """

    head: str = "project"
    dim: int = 128
    center: bool = True


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group norm, added to the input (ResNet's basic block)."""

    def __init__(self, cin: int, cout: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, dilation, dilation, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, dilation, dilation, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(8, cout), nn.GroupNorm(8, cout)
        same = stride == 1 and cin == cout
        self.skip = nn.Identity() if same else nn.Conv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "batch cin h w"]) -> Float[Tensor, "batch cout h2 w2"]:
        """Same size, or divided by the stride."""
        y = nnf.relu(self.norm1(self.conv1(x)))
        return nnf.relu(self.norm2(self.conv2(y)) + self.skip(x))


class SmallTrunk(nn.Module):
    """A small residual network, 0.84 million weights. Taps: layer2 (stride 8), layer3 (stride 16, sees 217 pixels).

    Group norm, not batch norm: it trains from nothing and on few pictures, and says the same in training and in tests.
    """

    channels = (112, 128)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 32, 5, 2, 2, bias=False), nn.GroupNorm(8, 32), nn.ReLU())
        self.layer1, self.layer2 = ResidualBlock(32, 64, 2), ResidualBlock(64, 112, 2)
        self.layer3 = nn.Sequential(ResidualBlock(112, 128, 2), ResidualBlock(128, 128, dilation=2))

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Taps from fine to coarse."""
        fine = self.layer2(self.layer1(self.conv1(image)))
        return [fine, self.layer3(fine)]


class ResNetTrunk(nn.Module):
    """torchvision's ResNet up to ``last`` ("layer3" or "layer4"), stem and layer1 named conv1 / layer1."""

    def __init__(self, name: str, last: str) -> None:
        super().__init__()
        import torchvision

        net = getattr(torchvision.models, name)(weights=None)
        # The names of torchvision are kept so that its state dicts load as they are.
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.layer4 = net.layer4 if last == "layer4" else None
        expansion = 4 if name == "resnet50" else 1
        self.channels = tuple(expansion * c for c in (128, 256, 512)[: 3 if last == "layer4" else 2])

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Taps at strides 8, 16 (and 32), from fine to coarse."""
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(image)))))
        taps = [self.layer2(x)]
        for layer in (self.layer3, self.layer4):
            if layer is not None:
                taps.append(layer(taps[-1]))
        return taps


class ProjectHead(nn.Module):
    """Unit-normalised taps at stride 8, side by side, times one matrix that starts as a random orthogonal projection.

    Distances of the pretrained features survive such a projection, so the untrained network already matches pictures
    (frozen-feature E-step of NVSM); a randomly initialised decoder would have to be trained first.
    """

    def __init__(self, channels: tuple[int, ...], dim: int) -> None:
        super().__init__()
        # Bias-free: NeMo's code trains with a bias and tests without it.
        self.project = nn.Conv2d(sum(channels), dim, 1, bias=False)
        nn.init.orthogonal_(self.project.weight.view(dim, -1))

    def forward(self, taps: list[Tensor]) -> Tensor:
        """The projected taps at the size of the finest one."""
        size = taps[0].shape[-2:]
        parts = [nnf.normalize(taps[0], dim=1)]
        for tap in taps[1:]:
            parts.append(nnf.interpolate(nnf.normalize(tap, dim=1), size, mode="bilinear", align_corners=False))
        return self.project(torch.cat(parts, 1))


class UpsampleHead(nn.Module):
    """NeMo's decoder: double convolutions, bilinear upsampling, skip connections, then a bias-free linear map."""

    def __init__(self, channels: tuple[int, ...], dim: int) -> None:
        super().__init__()

        def double(cin: int, mid: int, cout: int) -> nn.Sequential:
            """Two convolutions, each with batch norm and ReLU."""
            return nn.Sequential(
                nn.Conv2d(cin, mid, 3, padding=1), nn.BatchNorm2d(mid), nn.ReLU(inplace=True),
                nn.Conv2d(mid, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace=True),
            )  # fmt: skip

        coarse = channels[-1]
        self.bottom = double(coarse, coarse // 2, coarse // 2)
        ups, below = [], coarse // 2
        for skip in channels[-2::-1]:
            ups.append(double(skip + below, skip, skip // 2))
            below = skip // 2
        self.ups = nn.ModuleList(ups)
        self.project = nn.Conv2d(below, dim, 1, bias=False)

    def forward(self, taps: list[Tensor]) -> Tensor:
        """The decoded map at the size of the finest tap."""
        x = self.bottom(taps[-1])
        for up, skip in zip(self.ups, taps[-2::-1], strict=True):
            x = up(torch.cat((skip, nnf.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=True)), 1))
        return self.project(x)


class PretrainedTrunk(nn.Module):
    """The trunk alone: built, loaded and frozen as the spec says.

    Args:
        spec: which network.
        to_layer4: whether layer4 is used where the spec leaves it open and the weights have one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: TrunkSpec, to_layer4: bool) -> None:
        super().__init__()
        self.spec = spec
        if spec.name not in ("small", "resnet18", "resnet50"):
            raise ConfigError(f"Unknown backbone {spec.name!r}. Choose resnet18, resnet50 or small.")
        self.loaded = _find_weights(spec)
        self.trunk: SmallTrunk | ResNetTrunk = _build_trunk(spec, self.loaded, to_layer4)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def finish(self, head: nn.Module | None) -> None:
        """Load the weights into the trunk (and the head, where the file has one) and freeze; last in a constructor."""
        if self.loaded:
            _load(self.trunk, head, self.loaded, self.spec)
        self.loaded = None
        for name in self.spec.frozen:
            stage = getattr(self.trunk, name, None)
            if name not in STAGES or stage is None:
                there = ", ".join(each for each in STAGES if getattr(self.trunk, each, None) is not None)
                raise ConfigError(
                    f"backbone.frozen names {name!r}, which {self.spec.name} (up to its last stage) does not have: "
                    f"choose of {there}."
                )
            for module in (stage, self.trunk.bn1) if name == "conv1" and hasattr(self.trunk, "bn1") else (stage,):
                module.requires_grad_(False)
        if self.spec.compile:
            self.trunk.compile()  # in place: the names in checkpoints stay what they are
        # Now, not at the first E-step: Lightning's fit leaves the modes as they are, and a fit resumed inside an M-step
        # has no E-step ahead that would set them.
        self.train()

    def train(self, mode: bool = True) -> "PretrainedTrunk":
        """As usual, but batch norm stays in evaluation mode unless the spec says otherwise; in frozen stages always."""
        super().train(mode)
        for module in self.trunk.modules():
            learns = self.spec.train_batch_norm and any(each.requires_grad for each in module.parameters())
            if isinstance(module, nn.BatchNorm2d) and not learns:
                module.eval()
        return self

    def through(
        self, network: Callable[[Tensor], Tensor], image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch ..."]:
        """What ``network`` makes of the normalised pictures, in float32.

        Without gradients in whole chunks (the last one filled up), so that a picture's features do not depend on its
        company.
        """
        count = len(image)
        if not torch.is_grad_enabled():
            image = torch.cat((image, image[:1].expand(-count % self.spec.chunk, -1, -1, -1)))
        chunks = [image] if torch.is_grad_enabled() else image.split(self.spec.chunk)
        # The memory format comes last: putting pictures together may change it, and another one rounds otherwise.
        chunks = [((chunk - self.mean) / self.std).contiguous(memory_format=torch.channels_last) for chunk in chunks]
        return torch.cat([network(chunk) for chunk in chunks])[:count].float()


class Backbone(PretrainedTrunk):
    """Trunk + head. ``forward`` maps RGB pictures in 0..1 to unit feature vectors at stride 8."""

    stride = STRIDE
    spec: BackboneSpec
    center: Tensor

    def __init__(self, spec: BackboneSpec) -> None:
        # The project head reads strides 8 and 16 only; the decoder wants layer4 where the weights have it.
        super().__init__(spec, to_layer4=spec.head == "upsample")
        heads = {"project": ProjectHead, "upsample": UpsampleHead}
        if spec.head not in heads:
            raise ConfigError(f"Unknown backbone head {spec.head!r}. Choose one of {sorted(heads)}.")
        self.head = heads[spec.head](self.trunk.channels, spec.dim)
        self.register_buffer("center", torch.zeros(spec.dim, 1, 1))
        self.finish(self.head)

    def raw(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
        """Unit feature vectors before centring."""
        # Normalised in float32: under bf16 autocast the third decimal of a cosine would drown.
        return nnf.normalize(self.through(lambda part: self.head(self.trunk(part)), image), dim=1)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim h w"]:
        """Unit feature vectors, one for each 8 x 8 cell."""
        return nnf.normalize(self.raw(image) - self.center, dim=1)

    @torch.no_grad()
    def calibrate(self, pictures: Iterable[tuple[Float[Tensor, "batch 3 height width"], Camera]]) -> None:
        """Set the centre to the mean feature of some pictures (no label is used), unless the spec says no centring.

        Only cells that show the picture count: the fill around a crop would take part in the mean and hide the object.
        """
        if not self.spec.center:
            return
        # double: the sum of many float32 features would depend on how they are dealt into batches
        total, count = torch.zeros_like(self.center[:, 0, 0], dtype=torch.float64), 0
        for image, camera in pictures:
            raw = self.raw(image)
            shown = camera.scaled(1 / STRIDE).shows((raw.shape[-2], raw.shape[-1]))
            total += raw.permute(0, 2, 3, 1)[shown].double().sum(0)
            count += int(shown.sum())
        self.center.copy_((total / max(1, count))[:, None, None])


def _find_weights(spec: TrunkSpec) -> dict[str, Tensor] | None:
    """The state dict that ``spec.weights`` names, or None for random weights."""
    if spec.weights == "none":
        return None
    if spec.weights == "packaged":
        if spec.name != "small":
            raise ConfigError(f"backbone.weights 'packaged' exists for backbone 'small' only, not for {spec.name!r}.")
        with resources.as_file(resources.files("nvsm_lightning.features") / "small.pt") as path:
            return _read_weights(path)
    path = Path(spec.weights).expanduser()
    if path.suffix or path.exists():
        return _read_weights(path)
    import torchvision

    try:
        return torchvision.models.get_weight(f"{_enum_name(spec.name)}.{spec.weights}").get_state_dict(progress=True)
    except Exception as error:
        raise WeightsError(
            f"Weights {spec.weights!r} for {spec.name} could not be had ({type(error).__name__}: {error}). Remedies: "
            "give a local file (--model.backbone.weights FILE); put torchvision's file into "
            "$TORCH_HOME/hub/checkpoints; or train from random weights (--model.backbone.weights none)."
        ) from error


def _enum_name(name: str) -> str:
    return {"resnet18": "ResNet18_Weights", "resnet50": "ResNet50_Weights"}.get(name, name)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"No weight file at {path}. Check --model.backbone.weights.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read as a PyTorch state dict ({type(error).__name__}). Is it complete?"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} holds no state dict (names to tensors).")
    return state


def _build_trunk(spec: TrunkSpec, weights: dict[str, Tensor] | None, to_layer4: bool) -> SmallTrunk | ResNetTrunk:
    if spec.name == "small":
        return SmallTrunk()
    has_layer4 = weights is None or any(key.removeprefix("trunk.").startswith("layer4.") for key in weights)
    automatic = "layer4" if to_layer4 and has_layer4 else "layer3"
    return ResNetTrunk(spec.name, automatic if spec.last == "auto" else spec.last)


def _load(trunk: nn.Module, head: nn.Module | None, weights: dict[str, Tensor], spec: TrunkSpec) -> None:
    """Load trunk (and head, where the file has one); anything missing or of another shape is an error naming it."""
    for part, prefix in ((trunk, "trunk."), (head, "head.")):
        if part is None:
            continue
        own = part.state_dict()
        state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if part is trunk:
            state = state or weights
        elif not state:
            continue
        missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
        if spec.last == "layer4" and not any(key.startswith("layer4.") for key in state):
            missing = [key for key in missing if not key.startswith("layer4.")]  # asked for from random weights
        wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
        if missing or wrong:
            raise WeightsError(
                f"The weights {spec.weights!r} are not of a {spec.name}: {len(missing)} tensors missing (first: "
                f"{missing[:2]}), {len(wrong)} of another shape (first: {wrong[:2]}). Give weights of the same "
                "network, or change backbone.name."
            )
        part.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)
