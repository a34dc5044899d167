"""Published results, to stand beside a table and never to be compared with it row by row."""

from collections.abc import Iterator

from nvsm_lightning.bench.statistics import Cell

WHERE = "published, PASCAL3D+ (not comparable)"
# NVSM (NeurIPS 2021), table of PASCAL3D+: mean over the 12 categories at 7, 20 and 50 labels
LABELS = (7, 20, 50)
FEW_SHOT = {
    "NVSM": ((53.8, 61.7, 65.6), (27.0, 34.0, 39.8), (37.5, 28.7, 24.2)),
    "NeMo": ((38.4, 51.7, 69.3), (17.8, 31.9, 45.7), (60.0, 33.3, 22.1)),
    "Res50-General": ((36.1, 45.2, 54.6), (14.7, 25.5, 34.2), (39.1, 26.3, 20.2)),
    "Res50-Specific": ((29.6, 42.8, 50.4), (13.3, 23.0, 29.3), (46.5, 29.4, 23.0)),
    "StarMap": ((30.7, 35.6, 53.8), (4.3, 7.2, 19.0), (49.6, 46.4, 27.9)),
}
# NeMo (ICLR 2021), poster: PASCAL3D+ (L0) and Occluded-PASCAL3D+, all labels; ACC pi/6 and pi/18 at L0 to L3. The row
# of Res50-General could not be read.
OCCLUSION = {
    "NeMo-SingleCuboid": ((85.0, 75.8, 63.5, 45.8), (57.7, 43.7, 30.4, 15.1)),
    "NeMo-MultiCuboid": ((86.7, 77.3, 65.2, 47.1), (63.2, 49.9, 34.5, 17.8)),
    "NeMo": ((84.1, 73.1, 59.9, 41.3), (60.1, 45.1, 30.2, 14.5)),
    "Res50-Specific": ((86.5, 71.4, 56.4, 41.3), (39.7, 29.9, 21.5, 13.8)),
    "StarMap": ((89.4, 71.1, 47.2, 22.9), (59.5, 34.4, 13.9, 3.8)),
}
# NeMo's poster: ACC pi/6 and pi/18 of seen and unseen azimuths of PASCAL3D+
UNSEEN_VIEWS = {
    "NeMo-SingleCuboid": ((88.5, 54.3), (68.6, 27.9)),
    "NeMo-MultiCuboid": ((88.6, 54.7), (70.2, 31.0)),
    "Res50-General": ((91.7, 37.2), (47.9, 5.3)),
    "Res50-Specific": ((91.2, 34.7), (47.9, 4.0)),
    "StarMap": ((93.1, 49.8), (68.6, 13.5)),
}
# NVSM: cars of KITTI, fully visible, partly and largely occluded, at 7, 20 and 50 labels; ACC pi/6 and pi/18, median.
# The last number is the paper's mean over levels and labels, weighted by pictures.
KITTI = {
    "NVSM": (
        ((84.2, 94.6, 97.6), (68.2, 88.6, 92.5), (52.2, 60.9, 63.8), 86.1),
        ((23.2, 81.1, 88.3), (18.7, 81.6, 82.1), (16.4, 39.1, 42.0), 60.0),
        ((20.3, 8.1, 4.1), (24.0, 12.2, 5.3), (27.0, 13.3, 12.2), 12.4),
    ),
    "NeMo": (
        ((34.3, 83.9, 89.8), (14.9, 58.2, 74.6), (4.3, 27.5, 30.4), 58.5),
        ((17.3, 74.9, 81.5), (4.5, 37.8, 61.7), (0.0, 7.2, 11.6), 45.8),
        ((64.1, 5.9, 5.6), (84.1, 13.2, 7.8), (99.9, 59.8, 50.0), 32.6),
    ),
}


def published(labels: int) -> Iterator[tuple[str, dict[str, Cell]]]:
    """(method, cells) of the published rows with so many labels; none for other numbers than 7, 20 and 50."""
    if labels not in LABELS:
        return
    column = LABELS.index(labels)
    for method, values in FEW_SHOT.items():
        keys = ("acc_pi_6", "acc_pi_18", "med_err_deg")
        yield method, {key: Cell(row[column]) for key, row in zip(keys, values, strict=True)}
