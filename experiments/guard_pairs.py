"""How often the guard's two questions find the better of two models, over all pairs of some finished fits.

    python experiments/guard_pairs.py RUN RUN [RUN ...]

The fits have the same labelled pictures and pool, which the first one's config.yaml describes; each is a run folder of
NeMo or NVSM. Which is better is told by the pool's hidden truth: the mean of the shares within 30 degrees in azimuth
and in rotation. Equal models count once. What it gave: experiments/guard.md.
"""

import argparse
import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import Tensor

from nvsm_lightning.bench.localise import data_of, load_method
from nvsm_lightning.cli.guard import PICTURES
from nvsm_lightning.data import CropSpec
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.features.backbone import Backbone
from nvsm_lightning.geometry.viewpoints import viewpoint_error, wrap_angle
from nvsm_lightning.methods.guard import label_margin, mirror_agreement, pool_poses, standard_score
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.methods.stored import checkpoint_of

GAPS = (0.0, 0.03, 0.08, 0.2, 1.0)  # between the accuracies of a pair


class Answers(NamedTuple):
    """Accuracy on the pool, and what the guard would be told of one model."""

    accuracy: float
    margin: Tensor
    agreement: Tensor

    def scores(self, other: "Answers") -> tuple[float, float, float]:
        """By margin, by mirror images and by both: positive for this model."""
        margin, agreement = standard_score(self.margin, other.margin), standard_score(self.agreement, other.agreement)
        return margin, agreement, margin + agreement


def read(run: Path) -> tuple[PoseData, NeMo]:
    """The data of a fit, and the network that it began with (but for the draw of its head)."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    data, untrained = data_of(config), load_method(checkpoint_of(str(run)))
    data.crop, data.label_seed = CropSpec(**config["data"]["init_args"]["crop"]), config["seed_everything"]
    data.setup("fit")
    torch.manual_seed(0)
    weights = config["model"]["init_args"]["backbone"]["weights"]
    untrained.model.backbone = Backbone(replace(untrained.model.backbone.spec, weights=weights))
    untrained.eval().start_training(data)
    return data, untrained


def ask(run: Path, data: PoseData, untrained: NeMo) -> Answers:
    """The guard's questions to the model of a run, in float32."""
    every = max(1, len(data.pool) // PICTURES)
    pool, truth = data.pool_dataloader(0, every), data.pool_truth()[::every].float()
    poses = pool_poses(load_method(checkpoint_of(str(run))), pool)
    known = truth[:, 0].isfinite()
    turned = wrap_angle(poses.own[:, 0] - truth[:, 0])[known].abs()
    away = turned if data.azimuth_only else viewpoint_error(poses.own, truth)[known]
    right = sum((each < math.radians(30)).float().mean().item() for each in (turned, away)) / 2
    return Answers(right, label_margin(untrained, pool, poses, data.anchor_dataloader()), mirror_agreement(poses))


@torch.no_grad()
def main() -> None:
    """Print the answers of every run, then how often they name the better one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    data, untrained = read(runs[0])
    models: list[Answers] = []
    for run in runs:
        found = ask(run, data, untrained)
        numbers = [100 * found.accuracy, float(found.margin.mean()), 100 * found.agreement.float().mean().item()]
        print("{}: pool {:.1f} % right, margin {:.4f}, {:.1f} % agree".format(run, *numbers), flush=True)
        if not any(torch.equal(found.margin, each.margin) for each in models):
            models.append(found)
    if len(models) == 2:
        print("second against first, standard errors: margin {:+.2f}, mirror {:+.2f}, both {:+.2f}".format(
            *models[1].scores(models[0])))  # fmt: skip
        return
    for low, high in pairwise(GAPS):
        pairs = [pair for pair in combinations(models, 2) if low < abs(pair[0].accuracy - pair[1].accuracy) <= high]
        named = [[score * (a.accuracy - b.accuracy) > 0 for score in a.scores(b)] for a, b in pairs]
        if named:
            shares = torch.tensor(named).float().mean(0).mul(100).tolist()
            print("{:.0f} to {:.0f} points apart, {} pairs: margin {:.0f} %, mirror {:.0f} %, both {:.0f} %".format(
                100 * low, 100 * high, len(pairs), *shares))  # fmt: skip


if __name__ == "__main__":
    main()
