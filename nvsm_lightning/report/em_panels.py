"""``EMPanels``: pictures of each E-step, into ``media/`` of the run and to every logger that takes pictures.

The true poses of the pool, where a data set has them, serve these pictures and nothing else.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.metrics.pose import pose_error
from nvsm_lightning.report.callback import data_of, degrees, item_of, mesh_of, save_picture
from nvsm_lightning.report.em_plots import confusion, confusion_picture, gate_picture, round_numbers
from nvsm_lightning.report.gallery import contact_sheet, worst_median_best
from nvsm_lightning.report.overlays import PREDICTED, captioned, overlay, to_image
from nvsm_lightning.report.painter import Painter


class EMPanels(Callback):
    """Pictures of every E-step, ``media/round_XX_*.png`` of round XX.

    These are ``gates`` (kept share, precision, histograms of score and margin), ``matches`` (kept pictures with the
    cuboid at their pseudo pose), ``azimuth`` (pseudo against true azimuth, where that is known) and ``features``
    (feature maps by PCA).

    A method takes part by leaving ``matches`` (``viewpoint``, ``score``, ``margin``, ``rank`` and ``kept`` of every
    pool picture, NaN: skipped) after its E-step, and by mapping pictures to feature maps when it is called.

    Args:
        enabled: whether anything is drawn.
        matches: pictures in each row of the gallery: best, median and worst of those kept, by rank.
        maps: pool pictures whose feature maps are drawn, evenly spaced over the pool, in every round the same.
        width: of a picture, pixels.
    """

    def __init__(self, enabled: bool = True, matches: int = 5, maps: int = 6, width: int = 256) -> None:
        self.enabled, self.matches, self.maps, self.width = enabled, matches, maps, width
        self.rounds: dict[int, dict[str, float]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The numbers of the rounds so far: a resumed fit goes on with its panels."""
        return {"rounds": self.rounds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart of :meth:`state_dict`."""
        self.rounds = dict(state_dict["rounds"])

    def on_e_step_end(self, trainer: Trainer, pl_module: LightningModule, number: int) -> None:
        """Draw round ``number`` (from 0). The EM loop calls this without gradients and in evaluation mode."""
        matches = getattr(pl_module, "matches", None)
        if not (self.enabled and trainer.is_global_zero and matches):
            return
        data = data_of(trainer)
        truth = data.pool_truth().float()  # type: ignore[attr-defined]
        seen = matches["viewpoint"].isfinite().all(1)
        error = torch.where(seen, pose_error(matches["viewpoint"], truth), torch.nan)
        self.rounds[number] = round_numbers(matches["kept"], error, matches["score"])
        title = self._title(trainer, number)

        def save(name: str, picture: Image.Image) -> None:
            """Write a panel of this round and hand it to the loggers."""
            save_picture(trainer, picture, f"round_{number:02d}_{name}", f"em/{name}")

        save("gates", gate_picture(self.rounds, matches, title))
        known = seen & truth[:, 0].isfinite()
        if known.any():
            azimuth = matches["viewpoint"][:, 0]
            parts = (("kept", known & matches["kept"]), ("all matched", known))
            panels = [(f"{name}: {int(part.sum())}", confusion(azimuth[part], truth[part, 0])) for name, part in parts]
            save("azimuth", confusion_picture(panels, title))
        pool = data.pool_dataloader().dataset  # type: ignore[attr-defined]
        if self.matches and matches["kept"].any():
            save("matches", self._gallery(pool, pl_module, matches, error, title))
        if self.maps:
            save("features", self._features(pool, pl_module, seen.nonzero()[:, 0], title))

    def _title(self, trainer: Trainer, number: int) -> str:
        values = self.rounds[number]
        rounds = getattr(getattr(trainer, "em", None), "rounds", number + 1)
        text = f"round {number + 1} of {rounds}: {values['count']:.0f} of {values['seen']:.0f} pool pictures kept"
        if "precision_30" in values:
            text += (
                f"; within 10 / 30 degrees {100 * values['precision_10']:.1f} / {100 * values['precision_30']:.1f} %"
            )
        return text

    def _gallery(
        self,
        pool: Any,
        module: LightningModule,
        matches: Mapping[str, Tensor],
        error: Float[Tensor, " pool"],
        title: str,
    ) -> Image.Image:
        """Three rows of kept pictures: best, median and worst by rank."""
        kept = matches["kept"].nonzero()[:, 0]
        chosen = worst_median_best(-matches["rank"][kept], self.matches)
        pictures = []
        for name, called in (("best", "best"), ("median", "median"), ("worst", "worst kept")):
            for place in chosen[name].tolist():
                index = int(kept[place])
                item, viewpoint = item_of(pool, index), matches["viewpoint"][index]
                drawn = overlay(item["image"], item["camera"], mesh_of(module), [(viewpoint, PREDICTED)], self.width)
                words = f"{called}: score {matches['score'][index]:.3f}, margin {matches['margin'][index]:.3f}"
                off = "" if error[index].isnan() else f", error {degrees(error[index]):.0f} degrees"
                pictures.append(captioned(drawn, [words, f"azimuth {degrees(viewpoint[0]):.0f}{off}"]))
        columns = len(chosen["best"])
        return contact_sheet(pictures, f"{title}. Cuboid at the pseudo pose, its front tinted", columns)

    def _features(self, pool: Any, module: LightningModule, seen: Tensor, title: str) -> Image.Image:
        """Pairs of a picture and the first three principal components of its feature map."""
        places = torch.linspace(0, len(seen) - 1, min(self.maps, len(seen))).round().long()
        items = [item_of(pool, int(index)) for index in seen[places]]
        images = torch.stack([item["image"] for item in items])
        maps = module(images.to(module.device)).float().cpu()
        camera = Camera.stack([item["camera"] for item in items]).scaled(maps.shape[-1] / images.shape[-1])
        shown = camera.shows((maps.shape[-2], maps.shape[-1]))  # the others lie beyond the stored picture
        paint = Painter(maps, shown)
        pictures = []
        for image, feature_map, inside in zip(images, maps, shown, strict=True):
            picture = to_image(image)
            size = (self.width, round(picture.height * self.width / picture.width))
            pictures += [picture.resize(size, Image.Resampling.BICUBIC), paint(feature_map, inside.float(), size)]
        return contact_sheet(pictures, f"{title}. Feature maps: first three principal components")
