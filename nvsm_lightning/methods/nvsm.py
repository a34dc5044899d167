"""NVSM: NeMo's model trained by EM on few labelled pictures and an unlabelled pool (seed: NVSM, NeurIPS 2021; §4)."""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.features.backbone import STRIDE
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.matching.matcher import Anchors, MatchSettings, anchor_losses, match_pictures
from nvsm_lightning.matching.pseudo import PseudoLabels
from nvsm_lightning.matching.selection import SelectionSettings, gate_rank, select
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.pose.solver import grid_losses

BANK_PICTURES = 512  # enough for the means of a round; training goes on moving them


class NVSM(NeMo):
    """Neural view synthesis and matching. With no rounds (``--trainer.em.rounds 0``) it is NeMo.

    Args:
        match: how pool pictures are matched with synthesised features (E-step).
        selection: which matches become pseudo labels.
        kwargs: as NeMo.
    """

    name = "nvsm"
    match_columns = 5

    def __init__(
        self,
        match: MatchSettings = MatchSettings(),  # noqa: B008
        selection: SelectionSettings = SelectionSettings(),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters()
        self.match_settings, self.selection = match, selection
        if match.source == "anchors" and len(self.model.meshes) > 1:
            raise ConfigError("model.match.source anchors works with one mesh; choose bank, or one mesh.")
        self.anchors: Anchors | None = None
        self.anchor_viewpoints: Tensor | None = None
        self.objective = ""
        self.matches: dict[str, Tensor] = {}

    def start_matching(self, round: int, data: Any) -> None:
        """Features of the labelled pictures at their own poses, from the current backbone; the score of this round."""
        vertex, visible, viewpoint, cameras = [], [], [], []
        for batch in data.anchor_dataloader():
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            viewpoint.append(batch["viewpoint"])
            cameras.append(batch["camera"])
            if self.match_settings.source == "anchors":
                feature_map = self.model.features(batch["image"])
                sigma, seen = self.model.read(feature_map, batch["viewpoint"], batch["camera"].scaled(1 / STRIDE))
                vertex.append(sigma)
                visible.append(seen)
        self.anchor_viewpoints = torch.cat(viewpoint)
        self.anchors = Anchors(torch.cat(vertex), torch.cat(visible), self.anchor_viewpoints) if vertex else None
        # Once for the whole pool: scores of two kinds could not be ranked together.
        self.objective = self.match_settings.objective(Camera.stack(cameras))

    def match(self, batch: dict[str, Any]) -> Float[Tensor, "batch 5"]:
        """Best pose, score and margin of unlabelled pictures (E-step); after ``start_matching``."""
        feature_map = self.model.features(batch["image"])
        rows = [self._match(feature_map, batch["camera"], number) for number in self.model.trained()]
        if len(rows) == 1:
            return rows[0]
        stacked = torch.stack(rows)  # of several meshes the one with the best score
        return stacked[stacked[..., 3].argmax(0), torch.arange(len(feature_map), device=feature_map.device)]

    def _match(
        self, feature_map: Float[Tensor, "batch dim h w"], cameras: Camera, number: int
    ) -> Float[Tensor, "batch 5"]:
        model, settings = self.model, self.match_settings
        evidence, renderer = model.evidence_of(feature_map, cameras, number)
        grid = model.space.grid().to(feature_map)
        if self.anchors is not None:
            ring = math.radians(settings.anchor_ring_deg)
            clutter = model.bank.clutter_mean
            losses = anchor_losses(feature_map, clutter, evidence.camera, self.anchors, grid, ring, renderer)
        else:
            losses = grid_losses(evidence, grid, renderer, self.objective)
        rival = math.radians(self.selection.rival_deg)
        return match_pictures(evidence, losses, model.space, renderer, self.objective, settings.steps, rival)

    def finish_matching(self, round: int, rows: Float[Tensor, "pool 5"], data: Any) -> None:
        """Choose the pseudo labels, hand them to the data, write them down, and refill the bank.

        What was found for every pool picture stays in ``matches`` for reports until the next E-step: viewpoint
        [pool, 3], score, margin, rank and kept [pool].
        """
        assert self.anchor_viewpoints is not None  # start_matching comes first
        rows, anchors = rows.cpu(), self.anchor_viewpoints.cpu()
        rounds = self.trainer.em.rounds  # type: ignore[attr-defined]
        labels = select(round, rounds, rows[:, :3], rows[:, 3], rows[:, 4], anchors, self.selection)
        if len(labels) == 0:
            raise DataError(
                f"Round {round + 1}: no picture of the pool of {len(rows)} passed the gates of the E-step. "
                "Widen model.selection (ring_deg, min_score) or give more pool pictures."
            )
        kept = torch.zeros(len(rows), dtype=torch.bool).index_fill(0, labels.index, True)
        rank = gate_rank(rows[:, 3], rows[:, 4], self.selection.gate)
        self.matches = {
            "viewpoint": rows[:, :3], "score": rows[:, 3], "margin": rows[:, 4], "rank": rank, "kept": kept,
        }  # fmt: skip
        data.accept(round, labels.index, labels.viewpoint, torch.ones(len(labels)))
        self._report(labels, rows[:, :3], data)
        self.refill_bank(data)

    def refill_bank(self, data: Any) -> None:
        """Set the bank from labelled and pseudo-labelled pictures, unless ``bank.refill`` is "once"."""
        if self.model.bank_settings.refill == "each_round":
            self.fill_bank(data.labelled_and_pseudo_dataloader(limit=BANK_PICTURES))

    def _report(self, labels: PseudoLabels, viewpoint: Float[Tensor, "pool 3"], data: Any) -> None:
        """CSV, log entries and one line; the hidden truth of the pool serves here and nowhere else."""
        error = torch.rad2deg(viewpoint_error(viewpoint, data.pool_truth().float()))  # NaN: skipped, or no truth known
        kept = error[labels.index]
        numbers = {"em/round": labels.round, "em/kept": len(labels) / max(1, len(viewpoint))}
        text = f"round {labels.round + 1}: {len(labels)} of {len(viewpoint)} pool pictures pseudo-labelled"
        known = kept.isfinite()
        if known.any():
            for degrees in (10, 30):
                numbers[f"em/precision_{degrees}"] = float((kept[known] < degrees).float().mean())
                numbers[f"em/pool_acc_{degrees}"] = float((error[error.isfinite()] < degrees).float().mean())
            text += f"; within 30 degrees of the hidden truth: {100 * numbers['em/precision_30']:.1f} %"
            text += f" (whole pool {100 * numbers['em/pool_acc_30']:.1f} %)"
        rank_zero_info(text)
        if self.trainer.is_global_zero:
            path = Path(self.trainer.default_root_dir) / "tables" / f"matches_round_{labels.round:02d}.csv"
            labels.write_csv(path, [record.key for record in data.pool], kept)
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=self.global_step)
