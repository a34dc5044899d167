"""The embedded synthetic cars: a small PASCAL3D+ folder of our own renders."""

from pathlib import Path

from nvsm_lightning.data.pascal3d import Pascal3D
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import DataError


class ToyCars(Pascal3D):
    """The embedded set made by ``nvsm prepare toy``: synthetic cars in the layout of PASCAL3D+.

    No car is in both the train and the test part.

    Args:
        root: folder of the set.
        val_percent: share of the train list that is set aside for validation, per cent.
        kwargs: the arguments common to all data sets, see ``PoseData``.
    """

    name = "toy_cars"
    synthetic = True

    def __init__(self, root: str = "data/toy_cars", val_percent: float = 20.0, **kwargs) -> None:
        super().__init__(root, val_percent=val_percent, **kwargs)

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """See ``Pascal3D.read``. Raises DataError if the set has not been made."""
        if not (root / "Image_sets").is_dir():
            raise DataError(f"{root} does not hold the embedded set; make it with `nvsm prepare toy --root {root}`.")
        return super().read(root, test_only)
