"""Published few-shot results, to stand beside a table and never to be compared with it row by row."""

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


def published(labels: int) -> Iterator[tuple[str, dict[str, Cell]]]:
    """(method, cells) of the published rows with so many labels; none for other numbers than 7, 20 and 50."""
    if labels not in LABELS:
        return
    column = LABELS.index(labels)
    for method, values in FEW_SHOT.items():
        keys = ("acc_pi_6", "acc_pi_18", "med_err_deg")
        yield method, {key: Cell(row[column]) for key, row in zip(keys, values, strict=True)}
