"""A folder of small pictures of a coloured cuboid with a pose table, and methods small enough to train in a second."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from nvsm_lightning.data import CropSpec, PoseCSV
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.geometry.cameras import canonical_camera, project
from nvsm_lightning.geometry.meshes import category_cuboid, cuboid, write_off
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.methods import NVSM, NeMo
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.neural_mesh import BankSettings
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.render.renderer import FeatureRenderer
from nvsm_lightning.training.schedule import EMSchedule
from nvsm_lightning.training.trainer import EMTrainer

HEIGHT, WIDTH, UNIT = 48, 96, 80.0
PARTS = ["train"] * 14 + ["val"] * 2 + ["test"] * 3
LABELLED = [0, 3, 7, 10]


def write_pictures(folder: Path, azimuth_deg: list[float]) -> None:
    """Pictures of a cuboid with one colour pattern, at evenly spread azimuths, on noise."""
    mesh = category_cuboid("car", 400)
    renderer = FeatureRenderer(mesh, (HEIGHT, WIDTH))
    viewpoint = torch.tensor([(math.radians(azimuth), math.radians(10), 0.0) for azimuth in azimuth_deg])
    camera = canonical_camera(HEIGHT, WIDTH, UNIT, 5.0).expanded(len(viewpoint))
    points = mesh.vertices / mesh.vertices.abs().amax(0)
    colour = 0.5 + 0.25 * points + 0.25 * torch.sin(5 * points.roll(1, 1) + 4 * points)
    uvz = project(mesh.vertices, rotation_from_viewpoint(viewpoint), camera)
    drawn, mask = renderer.render(colour, uvz)
    noise = torch.rand(drawn.shape, generator=torch.Generator().manual_seed(0))
    pictures = (torch.where(mask[:, None], drawn, noise).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:02d}.png")


def pose_table(folder: Path, azimuth_deg: list[float]) -> None:
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = ("file", "azimuth_deg", "elevation_deg", "theta_deg", "distance", "focal_px", "px", "py", "split")
        writer.writerow(names)
        for number, (azimuth, part) in enumerate(zip(azimuth_deg, PARTS, strict=True)):
            writer.writerow((f"{number:02d}.png", azimuth, 10, 0, 5, 5 * UNIT, WIDTH / 2, HEIGHT / 2, part))
    (folder / "labelled.txt").write_text("\n".join(f"{number:02d}.png" for number in LABELLED) + "\n")


@pytest.fixture(scope="session")
def azimuths() -> list[float]:
    """True azimuths in degrees of the nineteen pictures."""
    return [(97.3 * number) % 360 for number in range(len(PARTS))]


@pytest.fixture(scope="session")
def write_table() -> Callable[[Path, list[float]], None]:
    """``write_table(folder, azimuth_deg)``: the pose table of the nineteen pictures, with these azimuths."""
    return pose_table


@pytest.fixture(scope="session")
def folder(tmp_path_factory, azimuths) -> Path:
    """Fourteen train pictures (four of them labelled), two val, three test."""
    folder = tmp_path_factory.mktemp("cars")
    write_pictures(folder, azimuths)
    pose_table(folder, azimuths)
    return folder


@pytest.fixture(scope="session")
def make_data(folder) -> Callable[..., PoseCSV]:
    """``make_data(root=folder, **changes)``: the data module of the small pictures, not set up."""

    def make(root: Path = folder, **changes) -> PoseCSV:
        settings = {
            "labels": len(LABELLED), "label_list": str(root / "labelled.txt"), "label_seed": 0, "batch_size": 4,
            "crop": CropSpec(HEIGHT, WIDTH, UNIT), "epoch_images": 12,
        }  # fmt: skip
        return PoseCSV(str(root), **(settings | changes))

    return make


@pytest.fixture(scope="session")
def meshes(tmp_path_factory) -> Path:
    """Subtype 2 is the cuboid that is in the pictures, subtype 5 a tall block."""
    folder = tmp_path_factory.mktemp("meshes")
    write_off(category_cuboid("car", 80), folder / "02.off")
    write_off(cuboid((-0.1, -0.15, -0.3), (0.1, 0.15, 0.3), 60), folder / "05.off")
    return folder


@pytest.fixture(scope="session")
def make_method() -> Callable[..., NeMo]:
    """``make_method(kind, **changes)``: a small NeMo or NVSM, always with the same first weights."""

    def make(kind: type[NeMo] = NVSM, **changes) -> NeMo:
        torch.manual_seed(0)
        settings = {
            "backbone": BackboneSpec(name="small", dim=16, frozen=[]), "mesh": MeshSpec(vertices=80),
            "bank": BankSettings(clutter_size=64), "space": PoseSpace(12, [10.0], [0.0]),
            "solver": SolverSettings(steps=3), "learning_rate": 3e-4, "head_learning_rate": 3e-4,
        }  # fmt: skip
        if issubclass(kind, NVSM):  # so small a network rarely finds objects likelier than clutter
            settings["selection"] = SelectionSettings(min_score=-1.0)
        return kind(**(settings | changes))

    return make


@pytest.fixture
def make_trainer(tmp_path) -> Callable[..., EMTrainer]:
    """``make_trainer(em, epochs, **changes)``: a quiet trainer writing below ``tmp_path``."""

    def make(em: EMSchedule | None = None, epochs: int = 2, **changes) -> EMTrainer:
        settings = {
            "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": tmp_path,
        }  # fmt: skip
        return EMTrainer(em=em or EMSchedule(), max_epochs=epochs, **(settings | changes))

    return make


@pytest.fixture(scope="session")
def checkpointed() -> Callable[[Path], dict]:
    """``checkpointed(folder)``: options of ``make_trainer`` with which ``last.ckpt`` is kept there."""

    def options(folder: Path) -> dict:
        saver = ModelCheckpoint(folder, save_last=True, save_top_k=1)
        return {"callbacks": [saver], "enable_checkpointing": True}

    return options
