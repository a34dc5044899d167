"""NVSM (NeurIPS 2021): NeMo's model trained by EM on few labelled pictures and an unlabelled pool."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.features.backbone import STRIDE
from nvsm_lightning.geometry.cameras import Camera, mirror_camera
from nvsm_lightning.geometry.viewpoints import viewpoint_error
from nvsm_lightning.matching.grid_products import GridProducts, anchor_sources, bank_source
from nvsm_lightning.matching.matcher import (
    MODES,
    Anchors,
    MatchSettings,
    anchor_losses,
    calibrated_losses,
    choose,
    mirrored_poses,
    refined_modes,
)
from nvsm_lightning.matching.pseudo import PseudoLabels
from nvsm_lightning.matching.selection import SelectionSettings, gate_rank, label_weights, select
from nvsm_lightning.methods.final import FinalEstimates
from nvsm_lightning.methods.nemo import BANK_PICTURES, NeMo
from nvsm_lightning.methods.stored import checkpoint_of, read_model
from nvsm_lightning.metrics.pose import pose_error
from nvsm_lightning.pose.likelihood import Evidence
from nvsm_lightning.pose.solver import grid_losses
from nvsm_lightning.render.renderer import FeatureRenderer


class NVSM(FinalEstimates, NeMo):
    """Neural view synthesis and matching. With no rounds (``--trainer.em.rounds 0``) it is NeMo.

    Args:
        match: how pool pictures are matched with synthesised features (E-step).
        selection: which matches become pseudo labels.
        kwargs: as NeMo.
    """

    name = "nvsm"

    def __init__(
        self,
        match: MatchSettings = MatchSettings(),  # noqa: B008
        selection: SelectionSettings = SelectionSettings(),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters()
        self.match_settings, self.selection = match, selection
        self.sources = [match.source]  # of scores; the pose is chosen by the first
        if selection.agree_deg:
            self.sources.append("anchors" if match.source == "bank" else "bank")
        if self.needs_anchors and len(self.model.meshes) > 1:
            raise ConfigError(
                "Anchors are matched with one mesh: give one, or model.match.source bank and selection.agree_deg 0."
            )
        self.anchors: Anchors | None = None
        self.anchor_viewpoints: Tensor | None = None
        self.objective, self.mirrored = "", False
        self.matches: dict[str, Tensor] = {}
        self.beginning: dict[str, Tensor] = {}
        self.products: dict[tuple[str, FeatureRenderer], GridProducts] = {}

    @property
    def needs_anchors(self) -> bool:
        """Whether features of the labelled pictures themselves are matched."""
        return self.sources != ["bank"]

    def setup(self, stage: str) -> None:
        """Keep the weights that a fit begins with, if it will go back to them. (A checkpoint is loaded after this.)

        Raises:
            DataError: there are to be E-steps, and no pool.
        """
        super().setup(stage)
        if stage == "fit" and self.trainer.em.rounds and self.trainer.datamodule is not None:  # type: ignore[attr-defined]
            self.trainer.datamodule.require_pool()  # type: ignore[attr-defined]
        if stage == "fit" and self.trainer.em.restarts_later(-1):  # type: ignore[attr-defined]
            self.beginning = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As usual, with the weights that the fit began with while it will yet go back to them: a resumed fit need not
        be given the same seed and weight file.
        """
        super().on_save_checkpoint(checkpoint)
        if self.beginning and self.trainer.em.restarts_later(self.trainer.datamodule.round):  # type: ignore[attr-defined]
            checkpoint["beginning"] = self.beginning

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""
        super().on_load_checkpoint(checkpoint)
        self.beginning = checkpoint.get("beginning", self.beginning)

    def start_matching(self, round: int, data: Any) -> None:
        """Features of the labelled pictures at their own poses, from the current backbone; the score of this round."""
        vertex, visible, viewpoint, cameras = [], [], [], []
        for batch in data.anchor_dataloader():
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            viewpoint.append(batch["viewpoint"])
            cameras.append(batch["camera"])
            if self.needs_anchors:
                feature_map = self.model.features(batch["image"])
                sigma, seen = self.model.read(feature_map, batch["viewpoint"], batch["camera"].scaled(1 / STRIDE))
                vertex.append(sigma)
                visible.append(seen)
        self.anchor_viewpoints = torch.cat(viewpoint)
        self.anchors = Anchors(torch.cat(vertex), torch.cat(visible), self.anchor_viewpoints) if vertex else None
        grid, ring = self.model.space.grid().to(self.anchor_viewpoints), self.match_settings.anchor_ring_deg
        if vertex and viewpoint_error(grid[:, None], self.anchor_viewpoints).min() > math.radians(ring):
            raise ConfigError(
                f"model.match.anchor_ring_deg {ring}: no pose of the grid is that near to a labelled one."
            )
        # Once for the whole pool: scores of two kinds could not be ranked together.
        self.objective = self.match_settings.objective(Camera.stack(cameras))
        if self.match_settings.engine != "table" and self.objective != "area":
            raise ConfigError(
                f"model.match.engine {self.match_settings.engine} computes the score area, not {self.objective}, which "
                "is not an inner product of maps. Set model.match.score area, or engine table."
            )
        self.mirrored = self.match_settings.mirror and data.mirror

    @property
    def clutter(self) -> Float[Tensor, " dim"]:
        """What the E-step subtracts the similarity of."""
        return self.match_settings.clutter * self.model.bank.clutter_mean

    @property
    def match_columns(self) -> int:
        """Numbers that :meth:`match` gives for a picture: losses, refined modes, losses by the other source if two are
        asked."""
        return len(self.sources) * len(self.model.space.grid()) + 3 * MODES

    def match(self, batch: dict[str, Any]) -> Float[Tensor, "batch column"]:
        """Loss of unlabelled pictures at every grid pose, and what the choice of a pose needs further (E-step); after
        ``start_matching``.
        """
        views = [(self.model.features(batch["image"]), batch["camera"])]
        if self.mirrored:
            camera = mirror_camera(batch["camera"], batch["image"].shape[-1])
            views.append((self.model.features(batch["image"].flip(-1)), camera))
        rows = [self._match(views, number) for number in self.model.trained()]
        if len(rows) == 1:
            return rows[0]
        stacked = torch.stack(rows)  # of several meshes the one that explains the picture best
        best = stacked[..., : len(self.model.space.grid())].amin(-1).argmin(0)
        return stacked[best, torch.arange(len(best), device=best.device)]

    def _match(
        self, views: list[tuple[Float[Tensor, "batch dim h w"], Camera]], number: int
    ) -> Float[Tensor, "batch column"]:
        """Rows of the pictures (and their mirror images) under one mesh."""
        model, settings = self.model, self.match_settings
        gathered = [(feature_map, *model.evidence_of(feature_map, camera, number)) for feature_map, camera in views]
        for _, evidence, _ in gathered:
            evidence.clutter = settings.clutter * evidence.clutter
        found = [self._losses(*gathered[0], source, number) for source in self.sources]
        if self.mirrored:
            twin = mirrored_poses(model.space.grid().to(found[0]))
            mirror = [self._losses(*gathered[1], source, number)[:, twin] for source in self.sources]
            found = [(own + other) / 2 for own, other in zip(found, mirror, strict=True)]
        _, evidence, renderer = gathered[0]
        modes = refined_modes(evidence, found[0], model.space, renderer, self.objective, settings.steps)
        return torch.cat((found[0], modes.flatten(1), *found[1:]), 1)

    def _losses(
        self,
        feature_map: Float[Tensor, "batch dim h w"],
        evidence: Evidence,
        renderer: FeatureRenderer,
        source: str,
        number: int,
    ) -> Float[Tensor, "batch pose"]:
        """Losses at every pose of the grid by one source under mesh ``number``."""
        grid = self.model.space.grid().to(feature_map)
        if self.match_settings.engine != "table":
            return self._products(grid, renderer, source, number).losses(feature_map, evidence.camera)
        if source == "bank":
            return grid_losses(evidence, grid, renderer, self.objective)
        assert self.anchors is not None  # start_matching has made them
        ring, clutter = math.radians(self.match_settings.anchor_ring_deg), self.clutter
        mean = source == "anchors_mean"
        return anchor_losses(feature_map, clutter, evidence.camera, self.anchors, grid, ring, renderer, mean)

    def _products(
        self, grid: Float[Tensor, "pose 3"], renderer: FeatureRenderer, source: str, number: int
    ) -> GridProducts:
        """The maps of one source under mesh ``number``, synthesised once an E-step and camera."""
        key = source, renderer
        if key not in self.products:
            dtype = torch.bfloat16 if self.match_settings.engine == "products_bf16" else torch.float32
            if source == "bank":
                sources, hidden = bank_source(self.model.bank.vertex[self.model.rows[number]], grid), 1.0
            else:
                assert self.anchors is not None  # start_matching has made them
                ring = math.radians(self.match_settings.anchor_ring_deg)
                sources, hidden = anchor_sources(self.anchors, grid, ring), math.inf
            mean = source == "anchors_mean"
            self.products[key] = GridProducts(sources, self.clutter, grid, renderer, hidden, mean, dtype)
        return self.products[key]

    def finish_matching(self, round: int, rows: Float[Tensor, "pool column"], data: Any) -> None:
        """Choose a pose for every picture and the pseudo labels among them, hand these to the data, write them down,
        and refill the bank.

        What was found for every pool picture stays in ``matches`` for reports until the next E-step: viewpoint
        [pool, 3], score, margin, rank and kept [pool].
        """
        assert self.anchor_viewpoints is not None  # start_matching comes first
        rows, anchors, settings = rows.cpu(), self.anchor_viewpoints.cpu(), self.selection
        grid = self.model.space.grid()
        losses, modes, *other = rows.split([len(grid), 3 * MODES, *[len(grid)] * (len(self.sources) - 1)], 1)
        modes = modes.unflatten(1, (MODES, 3))
        found = choose(losses, modes, grid, self.match_settings, math.radians(settings.rival_deg), round)
        disagreement = None
        if other:
            apart = viewpoint_error(grid[:, None], grid[None])
            second = calibrated_losses(other[0], apart, self.match_settings, round)
            disagreement = apart[found.best, second.argmin(1)].where(second.amin(1).isfinite(), math.inf)
        rounds = self.trainer.em.rounds  # type: ignore[attr-defined]
        match = found.viewpoint, found.score, found.margin, anchors
        labels = select(round, rounds, *match, settings, disagreement)
        if len(labels) == 0:
            nothing = f"Round {round + 1}: no picture of the pool of {len(rows)} passed the gates of the E-step. "
            opened = select(round, rounds, *match, replace(settings, ring_deg=180.0), disagreement)
            earlier = len(data.pseudo_labels[0])
            if not earlier and (round == rounds - 1 or len(opened) == 0):
                gates = "ring_deg, min_score, score_quantile, agree_deg"
                raise DataError(f"{nothing}Widen model.selection ({gates}) or give more pool pictures.")
            rank_zero_warn(nothing + (
                f"The {earlier} pseudo labels of the round before stay." if earlier
                else "The next one looks further around the labelled poses."
            ))  # fmt: skip
        kept = torch.zeros(len(rows), dtype=torch.bool).index_fill(0, labels.index, True)
        rank = gate_rank(found.score, found.margin, settings.gate)
        self.matches = {
            "viewpoint": found.viewpoint, "score": found.score, "margin": found.margin, "rank": rank, "kept": kept,
        }  # fmt: skip
        weight = label_weights(rank[labels.index], settings.weight)
        accepted = (labels.index, labels.viewpoint, weight) if len(labels) else data.pseudo_labels
        data.accept(round, *accepted)
        self._report(labels, found.viewpoint, data)
        self.refill_bank(data)
        self.products, self.anchors = {}, None  # gigabytes, perhaps, which nothing needs before the next E-step

    def take_weights(self, teacher: str, data: Any) -> None:
        """Network and bank of a finished fit, for the E-step to come."""
        labelled = [record.key for record in data.labelled]
        weights, _ = read_model(checkpoint_of(teacher), self, "--trainer.em.teacher", labelled)
        self.load_state_dict(weights, strict=False)

    def start_afresh(self, data: Any) -> None:
        """Back to the weights that the fit began with, with an optimiser that remembers nothing (its rate goes on as
        scheduled); the bank is filled from the present labels.
        """
        # from the first process: without a seed each has drawn another head
        self.model.load_state_dict(self.trainer.strategy.broadcast(self.beginning))
        torch.clear_autocast_cache()  # it holds copies of the weights as they were
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()
        self.start_training(data)
        self.refill_bank(data)

    def refill_bank(self, data: Any) -> None:
        """Set the bank from labelled and pseudo-labelled pictures, unless ``bank.refill`` is "once"."""
        if self.model.bank_settings.refill == "each_round":
            self.fill_bank(data.labelled_and_pseudo_dataloader(limit=BANK_PICTURES))

    def _report(self, labels: PseudoLabels, viewpoint: Float[Tensor, "pool 3"], data: Any) -> None:
        """CSV, log entries and one line; the hidden truth of the pool serves here and nowhere else."""
        seen = viewpoint.isfinite().all(1)  # not skipped: damaged pictures, or trainer.em.pool_per_round
        error = torch.rad2deg(pose_error(viewpoint, data.pool_truth().float())).where(seen, torch.nan)
        kept = error[labels.index]
        numbers = {"em/round": labels.round, "em/kept": len(labels) / max(1, int(seen.sum()))}
        text = f"round {labels.round + 1}: {len(labels)} of {len(viewpoint)} pool pictures pseudo-labelled"
        matched = "whole pool" if seen.all() else f"all {int(seen.sum())} that were matched"
        known = kept.isfinite()
        if known.any():
            for degrees in (10, 30):
                numbers[f"em/precision_{degrees}"] = float((kept[known] < degrees).float().mean())
                numbers[f"em/pool_acc_{degrees}"] = float((error[error.isfinite()] < degrees).float().mean())
            numbers["em/flip_180"] = float((kept[known] > 150).float().mean())
            text += f"; within 30 degrees of the hidden truth: {100 * numbers['em/precision_30']:.1f} %"
            text += f" ({matched}: {100 * numbers['em/pool_acc_30']:.1f} %)"
        sources = [record.source if looked else "" for record, looked in zip(data.pool, seen.tolist(), strict=True)]
        for name, (share, precision) in by_source(sources, labels.index, kept).items():
            numbers |= {f"em/kept_{name}": share, f"em/precision_30_{name}": precision}
            text += f"; of {name} {100 * share:.1f} % kept, {100 * precision:.1f} % of them within 30 degrees"
        rank_zero_info(text)
        if self.trainer.is_global_zero:
            path = Path(self.trainer.default_root_dir) / "tables" / f"matches_round_{labels.round:02d}.csv"
            labels.write_csv(path, [record.key for record in data.pool], kept)
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=self.global_step)


def by_source(
    source: Sequence[str], index: Int[Tensor, " label"], error_deg: Float[Tensor, " label"]
) -> dict[str, tuple[float, float]]:
    """For each other data set in the pool (``--data.extra_pool``): the share of its pictures that have a pseudo label,
    and the share of these, where the truth is known, within 30 degrees (NaN: of none)."""
    found = {}
    for name in sorted(set(source) - {""}):
        mine = error_deg[torch.tensor([source[place] == name for place in index.tolist()], dtype=torch.bool)]
        known = mine[mine.isfinite()]
        found[name] = len(mine) / source.count(name), (known < 30).float().mean().item()
    return found
