"""Prior: what one gets from the labels without looking at the picture, as a method beside the others.

The row of the same name in every result table is the exact expectation over all guesses
(:mod:`nvsm_lightning.metrics.baselines`); this method draws one guess a picture.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nvsm_lightning.features.backbone import TrunkSpec
from nvsm_lightning.methods.category_mesh import MeshSpec, category_mesh
from nvsm_lightning.methods.unlearned import Unlearned
from nvsm_lightning.metrics.baselines import prior_guesses


class Prior(Unlearned):
    """Predicts the viewpoint of one of the labelled pictures, drawn for each picture by seed and index.

    Args:
        category: object category; follows --data.category.
        backbone: not looked at; there so that one command line fits all methods.
        mesh: what overlays draw.
    """

    name = "prior"
    kept = ("guesses", "seed")
    guesses: Tensor
    seed: Tensor

    def __init__(
        self,
        category: str = "car",
        backbone: TrunkSpec = TrunkSpec(),  # noqa: B008
        mesh: MeshSpec = MeshSpec(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.mesh = category_mesh(mesh, category)
        self.register_buffer("guesses", torch.zeros(1, 3))
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))

    def guesses_from(self, labelled: Float[Tensor, "label 3"]) -> Float[Tensor, "guess 3"]:
        """What is drawn from."""
        return prior_guesses(labelled)

    def start_training(self, data: Any) -> None:
        """Keep the viewpoints of the labelled pictures (without mirror images, as in the tables)."""
        labelled = [batch["viewpoint"][~batch["mirrored"]] for batch in data.anchor_dataloader()]
        self.guesses = self.guesses_from(torch.cat(labelled)).to(self.device)
        self.seed.fill_(data.seed)

    def estimate(self, batch: dict[str, Any]) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, " batch"]]:
        """One of the guesses for each picture; no guess is better than another."""
        first = int(self.seed) * 1_000_003
        streams = [torch.Generator().manual_seed(first + index) for index in batch["index"].tolist()]
        drawn = [int(torch.randint(len(self.guesses), (1,), generator=stream)) for stream in streams]
        return self.guesses[drawn], self.guesses.new_zeros(len(drawn))
