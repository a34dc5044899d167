"""What a training step costs beside the bare backbone's forward and backward pass, and whether the loader keeps up."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nvsm_lightning.bench.speed_predict import write_photographs
from nvsm_lightning.bench.speed_rows import Row
from nvsm_lightning.bench.speed_timing import Times, in_turns, per_item
from nvsm_lightning.data.augment import Augmentation
from nvsm_lightning.data.crop_cache import CropCache
from nvsm_lightning.data.crops import CropSpec
from nvsm_lightning.data.datasets import CropMemory, Crops, PoseDataset
from nvsm_lightning.data.record import Record
from nvsm_lightning.data.sampling import Draw
from nvsm_lightning.features.backbone import STRIDE, BackboneSpec
from nvsm_lightning.geometry.cameras import canonical_camera
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.neural_mesh import BankSettings, NeuralMesh
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.contrast import ContrastSettings

BATCH = 16


@dataclass(frozen=True)
class Size:
    """Sizes of a training step; ``frozen`` stages of the ResNet-18 make the backbone, not the rest, cheaper."""

    height: int
    width: int
    vertices: int
    frozen: tuple[str, ...] = ()


SIZES = {
    "EPFL cars": Size(128, 352, 600, ("conv1", "layer1")),
    "NeMo": Size(256, 672, 1000),
}
TYPES = {"bf16": True, "float32": False}  # autocast


def measure(budget_s: float) -> list[Row]:
    """A step at each size in each precision, and a crop by each way of the loader; about ``budget_s`` CPU seconds, and
    three steps of each at least.
    """
    rows = []
    for name, size in SIZES.items():
        model, batch = make_model(size), make_batch(size)
        for precision, low in TYPES.items():
            rows += _step(f"{name}, {precision}", model, batch, low, 0.2 * budget_s)
    with tempfile.TemporaryDirectory() as folder:
        return rows + _loader(Path(folder), SIZES["EPFL cars"], 0.1 * budget_s)


def make_model(size: Size) -> NeuralMesh:
    """The neural mesh model with random weights and a full clutter bank."""
    backbone = BackboneSpec("resnet18", frozen=list(size.frozen))
    parts = (MeshSpec(vertices=size.vertices), BankSettings(), ContrastSettings(), PoseSpace(), SolverSettings())
    model = NeuralMesh("car", backbone, *parts).train()
    model.bank.clutter_filled.fill_(len(model.bank.clutter))
    return model


def make_batch(size: Size) -> dict[str, Any]:
    """Random pictures with random poses of the object, which fills the crop as in NeMo's protocol."""
    draws = torch.Generator().manual_seed(0)
    azimuth, elevation = torch.rand(2, BATCH, generator=draws) * torch.tensor([[2 * math.pi], [0.4]])
    return {
        "image": torch.rand(BATCH, 3, size.height, size.width, generator=draws),
        "camera": canonical_camera(size.height, size.width, 600 * size.height / 256).expanded(BATCH),
        "viewpoint": torch.stack((azimuth, elevation, torch.zeros(BATCH)), 1),
        "weight": torch.ones(BATCH),
    }


def rivals(model: NeuralMesh, batch: dict[str, Any], low: bool) -> dict[str, Callable[[], None]]:
    """One pass over a batch, forward and backward: the backbone alone on all pictures at once; the same in the chunks
    that make a fit independent of the number of processes; the training step without its optimiser.
    """
    image, cells = batch["image"], (batch["image"].shape[2] // STRIDE, batch["image"].shape[3] // STRIDE)
    slope = torch.randn(BATCH, model.backbone.spec.dim, *cells, generator=torch.Generator().manual_seed(1))
    chunks = model.backbone.spec.chunks(BATCH)

    def backward(loss_of: Callable[[], Tensor]) -> None:
        """One loss with its gradients, in the precision of the row."""
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = loss_of()
        loss.backward()
        model.zero_grad()

    def part(start: int, step: int) -> Tensor:
        """The backbone alone on every ``step``-th picture."""
        torch.clear_autocast_cache()
        return (model.backbone(image[start::step]) * slope[start::step]).sum()

    return {
        "backbone": lambda: backward(lambda: part(0, 1)),
        "backbone in chunks": lambda: backward(lambda: torch.stack([part(i, chunks) for i in range(chunks)]).sum()),
        "training step": lambda: backward(lambda: model.loss(batch, 0)["loss"]),
    }


def _step(name: str, model: NeuralMesh, batch: dict[str, Any], low: bool, budget_s: float) -> list[Row]:
    size = tuple(batch["image"].shape[2:])
    visible = f"{len(model.mesh.vertices)} vertices, ResNet-18 to layer3, forward and backward"
    what = f"{BATCH} crops of {size[0]}x{size[1]}, {visible}"
    times = in_turns(rivals(model, batch, low), budget_s)
    rows = [per_item(f"{name}: backbone", what, times["backbone"], BATCH)]
    for other in ("backbone in chunks", "training step"):
        rows.append(per_item(f"{name}: {other}", what, times[other], BATCH, against=rows[0]))
    note = f"above the backbone in chunks {overhead(times, 'backbone in chunks'):.1f} %; goal below 15 %; no optimiser"
    rows.append(Row(f"{name}: overhead of the step", what, overhead(times, "backbone"), "%", rows[0].name, note=note))
    return rows


def overhead(times: dict[str, Times], over: str) -> float:
    """By how many percent the median step exceeds another median."""
    return 100 * (times["training step"].median / times[over].median - 1)


def _loader(folder: Path, size: Size, budget_s: float) -> list[Row]:
    """One augmented training picture by each way that the loader has."""
    paths = write_photographs(folder, 4)
    records = [Record(path, path.name, "car", "train", (0.5, 0.1, 0.0), box=(100, 150, 860, 560)) for path in paths]
    spec = CropSpec(size.height, size.width, 300.0)
    memories = {
        "decoded": CropMemory(0),
        "from the disk cache": CropMemory(0, CropCache(folder / "crops")),
        "from memory": CropMemory(1000),
    }

    def shown(memory: CropMemory, augmentation: Augmentation | None) -> Callable[[], None]:
        """What loads the pictures once, with or without augmentation."""
        viewpoint = torch.tensor([record.viewpoint for record in records])
        crops = Crops(records, spec, memory)
        dataset = PoseDataset(crops, torch.arange(len(records)), viewpoint, augmentation=augmentation)
        items: list[int | Draw] = [(entry, entry) if augmentation else entry for entry in range(len(records))]
        return lambda: [dataset[item] for item in items].clear()

    ways = {f"crop, {name}": shown(memory, None) for name, memory in memories.items()}
    ways["crop, from memory, augmented"] = shown(CropMemory(1000), Augmentation())
    times = in_turns(ways, budget_s)
    what = f"one crop of {size.height}x{size.width} of JPEG photographs of 960x720, float32"
    return [per_item(name, what, each, len(records)) for name, each in times.items()]
