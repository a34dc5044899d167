"""Two rows that every table carries: what one gets without looking at the picture.

Both are exact expectations over all guesses rather than one lucky draw, so they need no seed.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics.pose import pose_error

PICTURES = 64  # at a time


def guess_errors(
    guesses: Float[Tensor, "guess 3"], truth: Float[Tensor, "picture 3"]
) -> Float[Tensor, "picture guess"]:
    """Error in radians of every guessed viewpoint for every picture.

    ``pose_metrics(guess_errors(...).flatten())`` is the expected accuracy (and mean error) of predicting one of the
    guesses at random, and the median error over all such predictions.
    """
    if not len(guesses):
        raise DataError("A guessing row needs at least one viewpoint to guess.")

    def errors(part: Float[Tensor, "picture 3"]) -> Float[Tensor, "picture guess"]:
        """Of some pictures: a pair takes 450 bytes on the way, and there may be millions."""
        pairs = pose_error(guesses.repeat(len(part), 1), part.repeat_interleave(len(guesses), 0))
        return pairs.view(len(part), len(guesses))

    return torch.cat([errors(part) for part in truth.split(PICTURES)])


def prior_guesses(labelled: Float[Tensor, "label 3"]) -> Float[Tensor, "label 3"]:
    """The *prior only* row: predict the viewpoint of one of the labelled pictures, drawn uniformly."""
    return labelled[labelled[:, 0].isfinite()]


def random_guesses(labelled: Float[Tensor, "label 3"], azimuths: int = 72) -> Float[Tensor, "azimuth 3"]:
    """The *random* row: a uniform azimuth at the labelled pictures' median elevation and theta (zero where none is
    known).

    ``azimuths`` equally spaced values, offset by half a step, stand for the uniform distribution.
    """
    azimuth = (torch.arange(azimuths) + 0.5) * (2 * math.pi / azimuths)
    rest = [column[column.isfinite()] for column in labelled[:, 1:].unbind(-1)]
    middle = [column.quantile(0.5).item() if len(column) else 0.0 for column in rest]
    return torch.stack((azimuth, torch.full_like(azimuth, middle[0]), torch.full_like(azimuth, middle[1])), -1)
