"""A small real data set and the smallest method that the command line can run."""

import csv
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor, nn

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.geometry.meshes import category_cuboid


class MeanPose(LightningModule):
    """Predicts a learned constant viewpoint.

    Args:
        category: object category.
        backbone: only there to be configured.
        lr: learning rate.
    """

    name = "mean_pose"

    def __init__(
        self,
        category: str = "car",
        backbone: BackboneSpec = BackboneSpec(),  # noqa: B008
        lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if lr <= 0:
            raise ConfigError(f"lr must be positive; got {lr}.")
        self.mesh = category_cuboid(category, 60)
        self.lr, self.backbone = lr, backbone
        self.pose = nn.Parameter(torch.zeros(3))
        self.trunk = nn.Linear(backbone.dim, 1)

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        loss = ((batch["viewpoint"] - self.pose) ** 2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.log("val/loss", (batch["viewpoint"] - self.pose).abs().mean())

    def test_step(self, batch: dict, batch_idx: int) -> dict:
        start = time.perf_counter()
        viewpoint = self.pose.expand(len(batch["index"]), 3)
        loss = viewpoint.new_zeros(len(viewpoint))
        seconds = time.perf_counter() - start
        return {
            "index": batch["index"],
            "viewpoint": viewpoint,
            "truth": batch["viewpoint"],
            "loss": loss,
            "seconds": seconds,
        }

    def predict_step(self, batch: dict, batch_idx: int) -> dict:
        return self.test_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def write_pictures(folder: Path, count: int = 24) -> Path:
    """Pictures with a pose CSV: a third each of train, val and test."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(count):
        pixels = torch.randint(0, 255, (12, 20, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((200, 120)).save(folder / f"{number:02d}.jpg")
        split = ("train", "val", "test")[number % 3]
        rows.append((f"{number:02d}.jpg", number * 360 / count, 10, 0, 20, 10, 180, 110, split))
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "azimuth_deg", "elevation_deg", "theta_deg", "x1", "y1", "x2", "y2", "split"))
        writer.writerows(rows)
    return folder
