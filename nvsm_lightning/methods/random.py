"""Random: a guess that knows neither the picture nor which azimuths are frequent."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.methods.prior import Prior
from nvsm_lightning.metrics.baselines import random_guesses


class Random(Prior):
    """Predicts a random azimuth at the median elevation and theta of the labelled pictures.

    Args:
        kwargs: as Prior.
    """

    name = "random"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters()

    def guesses_from(self, labelled: Float[Tensor, "label 3"]) -> Float[Tensor, "guess 3"]:
        """Azimuths every degree: between them lies less than any error counted."""
        return random_guesses(labelled, 360)
