"""``nvsm predict`` on a folder of photographs, from the command's own loop, beside decoding and the bare backbone."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from PIL import Image

from nvsm_lightning.bench.speed_rows import Row
from nvsm_lightning.bench.speed_timing import in_turns, per_item
from nvsm_lightning.data import CropSpec, PoseCSV
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.methods import NeMo
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.report.callback import RunReport
from nvsm_lightning.training.trainer import EMTrainer

PICTURES, SIDES = 32, (960, 720)
CROP = CropSpec(128, 352, 300.0)
SETTINGS = {
    "default search": (PoseSpace(), SolverSettings()),
    "fast search": (PoseSpace(12, [0.0, 25.0], [0.0]), SolverSettings(stride=2, modes=1)),
}


def write_photographs(folder: Path, count: int) -> list[Path]:
    """JPEG files as large, and about as costly to decode, as photographs: smooth shapes and some grain."""
    draws, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(draws.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(SIDES)
        grain = draws.normal(0, 6, (SIDES[1], SIDES[0], 1))
        picture = Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))
        paths.append(folder / f"{number:03}.jpg")
        picture.save(paths[-1], quality=90)
    return paths


def make_method(search: str) -> NeMo:
    """NeMo with random weights and a random bank: the steps of the search are as many as with learned ones."""
    space, solver = SETTINGS[search]
    torch.manual_seed(0)
    method = NeMo("car", BackboneSpec("resnet18"), MeshSpec(vertices=1000), space=space, solver=solver).eval()
    method.model.bank.clutter_filled.fill_(len(method.model.bank.clutter))
    return method


def make_data(folder: Path) -> PoseCSV:
    """The data of ``nvsm predict``: a folder without labels."""
    return PoseCSV("", folder=str(folder), crop=CROP)


@torch.no_grad()
def bare(method: NeMo, folder: Path) -> None:
    """Decode every picture and put it through the backbone, float32."""
    data = make_data(folder)
    data.setup("predict")
    for batch in data.predict_dataloader():
        method.model.features(batch["image"])


def predict(method: NeMo, folder: Path, out: Path, overlays: int | None = None) -> None:
    """What the command runs; without ``overlays`` nothing is written, else also poses and overlay pictures."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    callbacks: list[Callback] = [] if overlays is None else [RunReport(overlays)]
    trainer = EMTrainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, callbacks=callbacks, default_root_dir=out,
    )  # fmt: skip
    # Warnings of workers and loggers that are not wanted here, and the report's last words.
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        trainer.predict(method, datamodule=make_data(folder), return_predictions=False)


def measure(budget_s: float) -> list[Row]:
    """Prediction by each search, without and with what it writes; about ``budget_s`` CPU seconds, three times at
    least.
    """
    methods = {search: make_method(search) for search in SETTINGS}
    first = next(iter(SETTINGS))
    with tempfile.TemporaryDirectory() as home:
        folder, out = Path(home) / "pictures", Path(home) / "run"
        folder.mkdir()
        write_photographs(folder, PICTURES)
        ways: dict[str, Callable[[], None]] = {"decode + backbone": lambda: bare(methods[first], folder)}
        for search, method in methods.items():
            ways[f"predict, {search}"] = lambda method=method: predict(method, folder, out)  # type: ignore[misc]
        ways[f"predict, {first}, with overlays"] = lambda: predict(methods[first], folder, out, 12)
        times = in_turns(ways, budget_s)
    what = f"{PICTURES} JPEG files of {SIDES[0]}x{SIDES[1]}, crops of {CROP.height}x{CROP.width}, ResNet-18, float32"
    rows = [per_item("decode + backbone", what, times["decode + backbone"], PICTURES)]
    for name in list(ways)[1:]:
        takes = times[name].median / times["decode + backbone"].median
        note = f"takes {takes:.2f} times as long; goal 1.4"
        rows.append(per_item(name, what, times[name], PICTURES, against=rows[0], note=note))
    return rows
