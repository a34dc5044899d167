"""``nvsm doctor``: what this machine has of what the program needs."""

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from jsonargparse import ArgumentParser

import nvsm_lightning

PACKAGES = (
    "torch", "lightning", "torchvision", "jsonargparse", "kornia", "roma", "numpy", "numba", "scipy", "trimesh",
    "wandb",
)  # fmt: skip
DATA_SETS = {
    "toy": "toy_cars/Image_sets",
    "epfl-cars": "epfl_cars/tripod-seq",
    "stanford-cars": "stanford_cars/labels.csv",
    "pascal3d": "PASCAL3D+_release1.1/Image_sets",
}


def run(argv: Sequence[str]) -> int:
    """Print the findings; status 1 if something that every run needs is missing."""
    parser = ArgumentParser(prog="nvsm doctor", description="What is here of what the program needs.")
    parser.add_argument("--data_root", type=str, default="data", help="Folder below which data sets are looked for.")
    options = parser.parse_args(list(argv[1:]))
    sections = {
        "versions": versions(),
        "devices": devices(),
        "renderer": engines(),
        "data sets": data_sets(Path(options.data_root).expanduser()),
        "weights": weights(),
        "disk": disk(),
    }
    broken = False
    marks = {True: "ok", False: "MISS", None: "-"}
    for title, findings in sections.items():
        print(title)
        for good, text in findings:
            broken |= good is False
            print(f"  {marks[good]:<5}{text}")
    return int(broken)


Finding = tuple[bool | None, str]  # whether it is as it must be (None: optional and absent), and what was found


def versions() -> Iterator[Finding]:
    """Python and the packages whose version matters."""
    python = f"Python {platform.python_version()}, {platform.platform()}"
    yield True, f"nvsm_lightning {nvsm_lightning.__version__}, {python}"
    for name in PACKAGES:
        try:
            yield True, f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield False, f"{name} is not installed: pip install {name}"


def devices() -> Iterator[Finding]:
    """Processor and GPUs, each with a bfloat16 multiplication tried on it."""
    import torch

    from nvsm_lightning.training.precision import bf16_speed

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield True, f"cpu: {affinity} cores, {torch.get_num_threads()} torch threads, bf16 {_bf16('cpu')}"
    yield None, precision_advice(bf16_speed())
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield True, f"cuda:{index}: {properties.name}, {memory:.0f} GiB, bf16 {_bf16(f'cuda:{index}')}"
    if not torch.cuda.device_count():
        yield None, "cuda: no GPU; everything runs on the processor"


def precision_advice(speed: float) -> str:
    """Which ``--trainer.precision`` suits a processor that convolves ``speed`` times as fast in bf16 as in float32."""
    chosen = "bf16-mixed" if speed >= 1 else "32-true"
    return (
        f"cpu: a convolution is {speed:.1f} times as fast in bf16 as in float32: --trainer.precision auto is {chosen}"
    )


def _bf16(device: str) -> str:
    import torch

    try:
        ones = torch.ones(8, 8, dtype=torch.bfloat16, device=device)
        return "works" if float((ones @ ones)[0, 0]) == 8 else "gives wrong results"
    except RuntimeError as error:
        return f"fails ({str(error).splitlines()[0]})"


def engines() -> Iterator[Finding]:
    """Which engine ``engine: auto`` takes on each device, after rendering a triangle with it."""
    import torch

    from nvsm_lightning.render.engines import available, choose_engine, rasterize

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    triangle = torch.tensor([[[1.0, 1.0, 2.0], [1.0, 7.0, 2.0], [7.0, 1.0, 2.0]]])
    for device in devices:
        try:
            name = choose_engine("auto", torch.device(device))
            faces = torch.tensor([[0, 1, 2]], device=device)
            drawn = int((rasterize(triangle.to(device), faces, (8, 8), name) == 0).sum())
            yield drawn > 0, f"{device}: {name} drew {drawn} cells of a test triangle"
        except Exception as error:
            yield False, f"{device}: {str(error).splitlines()[0]}"
    if not available("nvdiffrast"):
        yield None, "nvdiffrast is not installed (optional, CUDA only; the README has the install line)"


def data_sets(root: Path) -> Iterator[Finding]:
    """Data sets below a folder, by the file that marks each."""
    for name, mark in DATA_SETS.items():
        place = root / mark
        found = "found at" if place.exists() else "not at"
        yield place.exists() or None, f"{name}: {found} {root / mark.split('/')[0]}"


def weights() -> Iterator[Finding]:
    """ImageNet weights in torch's cache, and the small network of this package."""
    cache = Path(os.environ.get("TORCH_HOME", Path.home() / ".cache" / "torch")) / "hub" / "checkpoints"
    found = sorted(path.name for path in cache.glob("resnet*.pth"))
    names = ", ".join(found) or "no ResNet weights (downloaded when a configuration names them)"
    yield bool(found) or None, f"{cache}: {names}"
    packaged = Path(nvsm_lightning.__file__).parent / "features" / "small.pt"
    size = f"{packaged.stat().st_size / 2**20:.1f} MB" if packaged.is_file() else "missing: reinstall the package"
    yield packaged.is_file(), f"packaged network for the embedded set: {size}"


def disk() -> Iterator[Finding]:
    """Free space where runs are written."""
    free = shutil.disk_usage(".").free / 2**30
    yield free > 1, f"{free:.0f} GiB free here"
