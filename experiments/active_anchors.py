"""Which seven pictures to label: how well the untrained network finds poses with each way of choosing them.

    python experiments/active_anchors.py --root data/epfl_cars --weights WEIGHTS [--part val] [--seeds 5] [--labels 7]

NeMo before its first epoch (ImageNet features, bank filled from the labelled pictures and their mirror images) on the
EPFL cars, with the settings of configs/datasets/epfl_cars.yaml; prints a Markdown table. Ten seconds a row and seed.
"""

import argparse
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import Tensor

from nvsm_lightning.data import CropSpec, EPFLCars
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.methods import NeMo
from nvsm_lightning.methods.neural_mesh import MeshSpec
from nvsm_lightning.metrics.pose import pose_metrics
from nvsm_lightning.pose.space import PoseSpace

WAYS = ("random", "kmeans without groups", "kmeans", "spread")
CONFIG = "configs/datasets/epfl_cars.yaml"


def remembering(method: NeMo) -> NeMo:
    """The method, whose untrained network looks at each picture once for all rows of the table."""
    backbone, seen = method.model.backbone, {}
    plain = backbone.raw

    def raw(image: Tensor) -> Tensor:
        names = [picture.numpy().tobytes() for picture in (255 * image).round().byte()]
        new = [position for position, name in enumerate(names) if name not in seen]
        if new:
            for position, features in zip(new, plain(image[new]), strict=True):
                seen[names[position]] = features.half()
        return torch.stack([seen[name] for name in names]).float()

    backbone.raw = raw  # type: ignore[method-assign]
    return method


@torch.no_grad()
def measure(method: NeMo, data: EPFLCars, part: str) -> dict[str, float]:
    """Fill the bank from the labelled pictures and find the poses of a part."""
    method.start_training(data)
    viewpoint, truth = [], []
    for batch in getattr(data, f"{part}_dataloader")():
        viewpoint.append(method.estimate(batch)[0])
        truth.append(batch["viewpoint"])
    turned = torch.cat(viewpoint)[:, 0] - torch.cat(truth)[:, 0]
    error = torch.atan2(turned.sin(), turned.cos()).abs()
    return pose_metrics(error)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/epfl_cars")
    parser.add_argument("--weights", default="IMAGENET1K_V1")
    parser.add_argument("--part", default="val", choices=("val", "test"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=7)
    options = parser.parse_args()
    with open(CONFIG, encoding="utf-8") as file:
        config: dict[str, Any] = yaml.safe_load(file)
    settings, model = config["data"]["init_args"], config["model"]["init_args"]
    settings |= {"root": options.root, "labels": options.labels, "crop": CropSpec(**settings["crop"])}
    torch.manual_seed(0)
    method = NeMo(
        backbone=BackboneSpec(**{**model["backbone"], "weights": options.weights}),
        mesh=MeshSpec(**model["mesh"]),
        space=PoseSpace(**model["space"]),
    ).eval()
    remembering(method)
    print(f"| anchors | ACC pi/6, each draw | ACC pi/18 | median | >150 deg |\n|{'---|' * 5}")
    for way in WAYS:
        rows = []
        for seed in range(options.seeds):
            data = EPFLCars(**settings, anchors=way.split()[0], label_seed=seed)
            data.trainer = SimpleNamespace(lightning_module=method, global_rank=0, world_size=1)  # type: ignore[assignment]
            if way.endswith("groups"):
                read = data.read
                data.read = lambda *a, read=read: [replace(record, group="") for record in read(*a)]  # type: ignore
            data.setup("fit")
            rows.append(measure(method, data, options.part))
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        each = " ".join(f"{row['acc_pi_6']:.1f}" for row in rows)
        print(
            f"| {way} | {mean['acc_pi_6']:.1f} ({each}) | {mean['acc_pi_18']:.1f} | {mean['med_err_deg']:.1f} "
            f"| {100 * mean['flip_180_rate']:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
