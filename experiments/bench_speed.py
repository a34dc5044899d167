"""Milliseconds a picture of each part of the way, on this machine.

``make bench``, or ``python experiments/bench_speed.py --device cuda``.

Random pictures and weights: the time does not depend on what is in them.
"""

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from nvsm_lightning.features.backbone import STRIDE, BackboneSpec
from nvsm_lightning.geometry.cameras import canonical_camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.render.engines import available, rasterize


def seconds(action: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Median seconds of a call after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 384), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    device, batch, (height, width) = torch.device(options.device), options.batch, options.size
    console = Console()
    table = Table("part", "ms a picture", title=f"{batch} pictures of {height} x {width} on {device}")

    def row(name: str, action: Callable[[], object]) -> None:
        with torch.no_grad():
            table.add_row(name, f"{1000 * seconds(action, device) / batch:.2f}")

    camera = canonical_camera(height, width, 300.0).expanded(batch).to(device)
    image = torch.rand(batch, 3, height, width, device=device)
    viewpoint = torch.rand(batch, 3, device=device)
    for name in ("small", "resnet18", "resnet50"):
        frozen = [] if name == "small" else ["conv1"]
        method = NeMo(backbone=BackboneSpec(name=name, frozen=frozen)).to(device).eval()
        row(f"features, {name}", lambda method=method: method.model.features(image))  # type: ignore[misc]
    uvz = project(method.mesh.vertices.to(device), rotation_from_viewpoint(viewpoint), camera.scaled(1 / STRIDE))
    faces, size = method.mesh.faces.to(device), (height // STRIDE, width // STRIDE)
    for engine in ("torch", "numba", "nvdiffrast"):
        fits = {"numba": "cpu", "nvdiffrast": "cuda"}.get(engine, device.type) == device.type
        if fits and available(engine):
            row(f"raster, {engine}", lambda engine=engine: rasterize(uvz, faces, size, engine))  # type: ignore[misc]
    spec = BackboneSpec(name="small", frozen=[])
    for name in ("short", "paper"):
        method = NeMo(backbone=spec, solver=SolverSettings(name=name)).to(device).eval()
        row(f"features and pose, small, solver {name}", lambda m=method: m.model.estimate(image, camera))
    console.print(table)


if __name__ == "__main__":
    main()
