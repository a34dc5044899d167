"""Pseudo labels: poses that the E-step gives to unlabelled pictures."""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

COLUMNS = ("key", "azimuth_deg", "elevation_deg", "theta_deg", "score", "margin", "anchor", "round", "error_deg")


@dataclass(frozen=True)
class PseudoLabels:
    """What round ``round`` of the E-step says of some pool pictures; angles in radians.

    Attributes:
        round: E-step that made them, from 0.
        index: position in the pool.
        viewpoint: pose given to the picture.
        score: its similarity S with the synthesised features at that pose.
        margin: by how much the (calibrated) S beats that of the best rival, a pose further away than
            ``selection.rival_deg``: how sure the match is of front against back.
        anchor: the labelled picture (position among the anchors) whose pose is nearest.
    """

    round: int
    index: Int[Tensor, " label"]
    viewpoint: Float[Tensor, "label 3"]
    score: Float[Tensor, " label"]
    margin: Float[Tensor, " label"]
    anchor: Int[Tensor, " label"]

    def __len__(self) -> int:
        return len(self.index)

    def write_csv(self, path: Path, keys: list[str], error_deg: Float[Tensor, " label"] | None = None) -> None:
        """One row a label.

        ``keys``: names of all pool pictures; ``error_deg``: against a hidden truth, for reporting only.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in range(len(self)):
                angles = [f"{value:.3f}" for value in torch.rad2deg(self.viewpoint[row]).tolist()]
                error = "" if error_deg is None or error_deg[row].isnan() else f"{error_deg[row]:.3f}"
                match = [f"{self.score[row]:.6f}", f"{self.margin[row]:.6f}", int(self.anchor[row])]
                writer.writerow([keys[int(self.index[row])], *angles, *match, self.round, error])
