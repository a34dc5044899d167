"""Stanford cars with a full camera for every picture: the pose table, in its own folders."""

from nvsm_lightning.data.pose_csv import PoseCSV


class StanfordCars(PoseCSV):
    """Stanford cars with cameras: ``labels.csv`` beside ``images/``, split column included.

    Args:
        root: folder that holds ``labels.csv`` and ``images/``.
        images: folder of the pictures below it.
        group_column: the car model.
        kwargs: the arguments common to all data sets, see ``PoseData``.
    """

    name = "stanford_cars"
    upright = False  # its labels are of the pictures as stored

    def __init__(self, root: str, images: str = "images", group_column: str = "class_id", **kwargs) -> None:
        super().__init__(root, images=images, group_column=group_column, **kwargs)
