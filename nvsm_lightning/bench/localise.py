"""How well the occlusion map of a neural mesh model finds pasted occluders, at the poses that a finished test found."""

import csv
import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

import nvsm_lightning.data
from nvsm_lightning.bench.finished import checkpoint_of
from nvsm_lightning.data.crops import CropSpec, canonical_crop, canonical_mask
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.occlude import read_masks
from nvsm_lightning.data.parts import existing
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import DataError
from nvsm_lightning.features.backbone import STRIDE
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.methods.base import PoseMethod
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.methods.neural_mesh import NeuralMesh
from nvsm_lightning.metrics.occlusion import HIDDEN, SEEN, mask_cells, occluder_iou, occlusion_metrics
from nvsm_lightning.report.callback import PLACED
from nvsm_lightning.report.gallery import contact_sheet
from nvsm_lightning.report.overlays import PREDICTED, TRUTH, captioned, tinted
from nvsm_lightning.report.results import write_json

FILE = "occluders.json"  # in the folder of the test
BATCH = 16
OTHERS = ("crop", "augment", "extra_pool")  # arguments of a data set that its own records do not depend on
SHOWN = 12  # pictures in media/occlusion.png of the test


def _settings(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["hyper_parameters"]


def _class_of(settings: dict[str, Any]) -> type[PoseMethod]:
    module, name = settings["_class_path"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def load_method(checkpoint: Path) -> NeMo:
    """NeMo or NVSM from a checkpoint with its weights, on the CPU, in evaluation mode; no weight file is read."""
    settings = _settings(checkpoint)
    changed: dict[str, Any] = {}
    if isinstance(settings.get("backbone"), dict):
        changed["backbone"] = {**settings["backbone"], "weights": "none"}
    method = _class_of(settings).load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True, **changed)
    assert isinstance(method, NeMo)
    return method.eval()


def data_of(config: dict[str, Any]) -> PoseData:
    """The data module of a configuration, to read records with: without crops, augmentation, other sets and label
    draw."""
    section = config["data"]
    arguments = {name: value for name, value in section["init_args"].items() if name not in OTHERS}
    arguments |= section.get("dict_kwargs") or {}
    module, _, name = section["class_path"].rpartition(".")
    return getattr(importlib.import_module(module) if module else nvsm_lightning.data, name)(**arguments)


def localise(run: Path, test: Path) -> dict[str, float] | None:
    """Metrics of :func:`occlusion_metrics` over the test pictures; None if the method has no occlusion map.

    The maps are those at the poses in the test's ``predictions.csv``, from features in float32. What was measured is
    kept in the folder of the test.

    Args:
        run: folder of the fit.
        test: folder of its test on occluded pictures.
    """
    kept = test / FILE
    if kept.is_file() and kept.stat().st_mtime > (test / "results.json").stat().st_mtime:
        return json.loads(kept.read_text(encoding="utf-8"))["metrics"]
    checkpoint = checkpoint_of(run)
    found = issubclass(_class_of(_settings(checkpoint)), NeMo)  # asked first: a rival's network need not be built
    metrics = _measure(load_method(checkpoint).model, test) if found else None
    write_json(kept, {"metrics": metrics})
    return metrics


def _measure(model: NeuralMesh, test: Path) -> dict[str, float]:
    config = yaml.safe_load((test / "config.yaml").read_text(encoding="utf-8"))
    crop = CropSpec(**config["data"]["init_args"].get("crop") or {})
    records = _test_records(config)
    poses = predicted(test)
    if missing := [key for key in poses if key not in records]:
        raise DataError(f"{test} tested {missing[0]}, which is not there any more; remove {test} and test again.")
    keys = list(poses)
    tensors = zip(*(_maps(model, records, poses, part, crop) for part in _batches(keys)), strict=True)
    occlusion, occluder, region = (torch.cat(list(part)) for part in tensors)
    shown = range(0, len(keys), max(1, len(keys) // SHOWN))[:SHOWN]
    pictures = [canonical_crop(records[keys[place]].image, records[keys[place]], crop)[0] for place in shown]
    places = torch.tensor(shown)
    sheet = occlusion_sheet(pictures, occlusion[places], occluder[places], region[places])
    (test / "media").mkdir(exist_ok=True)
    sheet.save(test / "media" / "occlusion.png")
    return occlusion_metrics(occlusion, occluder, region)


def occlusion_sheet(
    pictures: Sequence[UInt8[Tensor, "3 height width"]],
    occlusion: Float[Tensor, "picture h w"],
    occluder: Bool[Tensor, "picture h w"],
    region: Bool[Tensor, "picture h w"],
) -> Image.Image:
    """Pairs of pictures: what the occlusion map says of the object at the estimated pose, and what is true."""
    drawn = []
    for picture, said, hidden, object_ in zip(pictures, occlusion, occluder, region, strict=True):
        found = tinted(picture, [(said == SEEN, TRUTH), (said == HIDDEN, PREDICTED)], STRIDE, 288)
        true = tinted(picture, [(object_ & ~hidden, TRUTH), (object_ & hidden, PREDICTED)], STRIDE, 288)
        both = Image.new("RGB", (2 * found.width + 4, found.height), "white")
        both.paste(found)
        both.paste(true, (found.width + 4, 0))
        iou = occluder_iou(said[None], hidden[None], object_[None]).item()
        drawn.append(captioned(both, ["nothing hidden" if math.isnan(iou) else f"IoU {100 * iou:.0f} %"]))
    title = "Occlusion map at the estimated pose (left) and truth (right): object seen blue, object hidden orange"
    return contact_sheet(drawn, title, columns=3)


def predicted(test: Path) -> dict[str, tuple[float, ...]]:
    """{key: estimated viewpoint in radians, and placement of the object in crop pixels} of a test whose poses are all
    known."""
    with (test / "tables" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ("azimuth_deg", "elevation_deg", "theta_deg")
    angles = torch.tensor([[float(row[name] or "nan") for name in names] for row in rows], dtype=torch.double)
    places = [[float(row.get(name) or 0.0) for name in PLACED] for row in rows]
    poses = zip(angles.deg2rad().tolist(), places, strict=True)
    return {row["key"]: (*pose, *place) for row, (pose, place) in zip(rows, poses, strict=True)}


def _test_records(config: dict[str, Any]) -> dict[str, Record]:
    data = data_of(config)
    if data.test_root is not None:
        records = data.read_test(existing(data.test_root, "--data.test_root"))
    else:
        records = [record for record in data.read(existing(data.root, "--data.root")) if record.part == "test"]
    return {record.key: record for record in records}


def _maps(
    model: NeuralMesh,
    records: dict[str, Record],
    poses: dict[str, tuple[float, ...]],
    keys: Sequence[str],
    spec: CropSpec,
) -> tuple[Float[Tensor, "batch h w"], Bool[Tensor, "batch h w"], Bool[Tensor, "batch h w"]]:
    """Occlusion maps, occluder and object of a few pictures, in cells."""
    crops = [canonical_crop(records[key].image, records[key], spec) for key in keys]
    image = torch.stack([picture for picture, _ in crops]).float() / 255
    camera = Camera.stack([camera for _, camera in crops])
    found = torch.tensor([poses[key] for key in keys])
    placement = found[:, 3:] / found.new_tensor([1.0, STRIDE, STRIDE])  # in cells of the map
    occlusion = model.occlusion(image, camera, found[:, :3], placement)
    masks = []
    for key in keys:
        both = read_masks(records[key].image)
        if both is None:
            raise DataError(f"{records[key].image} has no annotation with the masks of its occluders; make it again.")
        masks.append(torch.stack([canonical_mask(mask, records[key], spec) for mask in both]))
    occluder, region = torch.stack(masks).unbind(1)
    return occlusion, mask_cells(occluder, STRIDE), mask_cells(region, STRIDE)


def _batches(keys: list[str]) -> list[list[str]]:
    return [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
