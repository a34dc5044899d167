"""IoU of the occlusion map with the occluder."""

import pytest
import torch

from nvsm_lightning.errors import DataError
from nvsm_lightning.metrics.occlusion import mask_cells, occluder_iou, occlusion_metrics


def cells(*rows: str) -> torch.Tensor:
    return torch.tensor([[float(letter) for letter in row] for row in rows])[None]


# the object is in columns 1-4; an occluder covers columns 0-2 and reaches beyond the object
REGION = cells("0111100", "0111100") > 0
OCCLUDER = cells("1110000", "1110000") > 0


@pytest.mark.parametrize(
    ("occlusion", "iou"),
    [
        (cells("0221100", "0221100"), 1.0),
        (cells("0111100", "0111100"), 0.0),
        (cells("0222200", "0222200"), 0.5),  # all hidden: half of the object is
        (cells("0000222", "0000222"), 0.0),  # pose wrong
        (cells("0022110", "0022110"), 1 / 3),  # shifted by one: 1 of (2 + 1) columns
    ],
)
def test_iou_counts_the_object_only(occlusion, iou):
    assert occluder_iou(occlusion, OCCLUDER, REGION).item() == pytest.approx(iou)


def test_nothing_hidden_and_nothing_called_hidden_has_no_iou():
    result = occluder_iou(cells("0111100"), cells("0000000") > 0, cells("0111100") > 0)
    assert result.isnan().all()


def test_metrics_are_means_over_the_pictures_with_an_occluder():
    perfect, blind = cells("0221100", "0221100"), cells("0111100", "0111100")
    free = torch.zeros_like(OCCLUDER)
    metrics = occlusion_metrics(
        torch.cat((perfect, blind, blind)), torch.cat((OCCLUDER, OCCLUDER, free)), REGION.repeat(3, 1, 1)
    )
    assert metrics == pytest.approx(
        {
            "occluder_iou": 0.5, "occluder_iou_all_hidden": 0.5, "seen_as_hidden": 0.0, "hidden_as_hidden": 50.0,
            "n_occluded": 2,
        }
    )  # fmt: skip
    with pytest.raises(DataError, match="nothing to find"):
        occlusion_metrics(perfect, free, REGION)


def test_a_cell_is_hidden_when_half_of_it_is():
    mask = torch.zeros(1, 16, 24, dtype=torch.bool)
    mask[:, :8, :12] = True  # the second cell is half covered
    mask[:, 8:, 8:11] = True  # less than half
    assert mask_cells(mask, 8).tolist() == [[[True, True, False], [False, False, False]]]
