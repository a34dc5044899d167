"""Feature maps as colours."""

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from nvsm_lightning.report.overlays import to_image


class Painter:
    """Features as colours, as NVSM shows them: the first three principal directions of some maps, scaled to 0..1.

    Args:
        maps: whose directions are taken.
        shown: cells that count; by default all.
    """

    def __init__(
        self, maps: Float[Tensor, "picture dim h w"], shown: Bool[Tensor, "picture h w"] | None = None
    ) -> None:
        cells = maps.float().permute(0, 2, 3, 1)
        rows = cells.flatten(0, 2) if shown is None or not shown.any() else cells[shown]
        self.mean = rows.mean(0)
        self.axes = torch.linalg.eigh((rows - self.mean).T @ (rows - self.mean))[1][:, -3:].flip(-1)
        colours = (rows - self.mean) @ self.axes
        self.low, self.high = colours.quantile(torch.tensor([0.02, 0.98]).to(colours), dim=0)

    def __call__(
        self, feature_map: Float[Tensor, "dim h w"], seen: Float[Tensor, "h w"] | None, size: tuple[int, int]
    ) -> Image.Image:
        """A picture of ``size`` (width, height); white where ``seen`` is 0. Interpolated features are shorter than one
        and are made unit vectors first.
        """
        unit = torch.nn.functional.normalize(feature_map.float(), dim=0)
        colours = ((unit.permute(1, 2, 0) - self.mean) @ self.axes - self.low) / (self.high - self.low).clamp_min(1e-6)
        colours = colours.clamp(0, 1)
        if seen is not None:
            colours = torch.where(seen[..., None] > 0.25, colours, 1.0)
        return to_image(colours.permute(2, 0, 1)).resize(size, Image.Resampling.NEAREST)
