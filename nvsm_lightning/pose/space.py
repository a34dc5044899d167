"""The poses that are searched: a grid of viewpoints and which angles are free."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvsm_lightning.errors import ConfigError

ANGLES = ("azimuth", "elevation", "theta")


@dataclass
class PoseSpace:
    """Viewpoints considered, in degrees. The grid is azimuths x elevations x thetas.

    Attributes:
        azimuths: number of azimuths, equally spaced over the full turn, starting at 0.
        elevations_deg: elevations of the grid.
        thetas_deg: in-plane angles of the grid.
        free: angles that refinement may change; an angle that is not free keeps its grid value.
    """

    azimuths: int = 36
    elevations_deg: list[float] = field(default_factory=lambda: [0.0, 15.0, 30.0])
    thetas_deg: list[float] = field(default_factory=lambda: [0.0])
    free: list[str] = field(default_factory=lambda: list(ANGLES))

    def __post_init__(self) -> None:
        unknown = set(self.free) - set(ANGLES)
        if unknown or self.azimuths < 1 or not self.elevations_deg or not self.thetas_deg:
            raise ConfigError(
                f"pose space needs >= 1 azimuth, elevation and theta, and free angles among {ANGLES}; got {self}."
            )

    def grid(self) -> Float[Tensor, "pose 3"]:
        """All viewpoints in radians; azimuth varies slowest."""
        axes = (
            torch.arange(self.azimuths) * (2 * torch.pi / self.azimuths),
            torch.deg2rad(torch.tensor(self.elevations_deg)),
            torch.deg2rad(torch.tensor(self.thetas_deg)),
        )
        return torch.cartesian_prod(*axes).reshape(-1, 3)

    def free_mask(self) -> Bool[Tensor, "3"]:
        """Which of (azimuth, elevation, theta) refinement may change."""
        return torch.tensor([angle in self.free for angle in ANGLES])


def paper_grid() -> PoseSpace:
    """NeMo's 144 starts: 12 azimuths, elevations -30, 0, 30, 60, thetas -30, 0, 30 degrees."""
    return PoseSpace(12, [-30.0, 0.0, 30.0, 60.0], [-30.0, 0.0, 30.0])
