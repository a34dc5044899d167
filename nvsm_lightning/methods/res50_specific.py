"""Res50-Specific: Res50-General with bins of its own for every category."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.methods.res50_general import Res50General


class Res50Specific(Res50General):
    """A linear layer of its own for each category, which is known at test time. Trained on the pictures of one category
    it computes what Res50General computes.

    Args:
        categories: the categories that have bins; empty = that of the data. A batch that says which category each of
            its pictures shows (``batch["category"]``, names) is read by these; any other by ``category``.
        kwargs: as Res50General.
    """

    name = "res50_specific"

    def __init__(self, categories: list[str] = [], **kwargs: Any) -> None:  # noqa: B006
        self.categories = list(categories)
        super().__init__(**kwargs)
        self.save_hyperparameters()
        self.categories = self.categories or [self.category]
        if self.category not in self.categories:
            raise ConfigError(f"model.categories {self.categories} lacks the category of the data, {self.category!r}.")

    def heads(self) -> int:
        """One a category."""
        return max(1, len(self.categories))

    def scores(
        self, image: Float[Tensor, "batch 3 height width"], batch: dict[str, Any]
    ) -> Float[Tensor, "batch 3 bin"]:
        """Scores by the head of each picture's category."""
        names = batch.get("category", [self.category] * len(image))
        try:
            head = torch.tensor([self.categories.index(name) for name in names], device=image.device)
        except ValueError as error:
            raise ConfigError(
                f"A picture shows a category that has no bins ({error}); add it to model.categories."
            ) from error
        scores = self.head(self.backbone(image)).unflatten(1, (self.heads(), 3, self.bins.count))
        return scores[torch.arange(len(image), device=image.device), head].float()
