import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nvsm_lightning.features.reading import cells, read_points, read_vertices, similarity_table


@pytest.fixture
def feature_map() -> Tensor:
    return normalize(torch.randn(2, 5, 6, 9, generator=torch.Generator().manual_seed(0)), dim=1)


def points(count: int, low: float, high_u: float, high_v: float) -> Tensor:
    uniform = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(1))
    return low + uniform * (torch.tensor([high_u, high_v]) - low)


def slow_bilinear(picture: Tensor, u: float, v: float) -> Tensor:
    """Bilinear value of one picture at a point, cell (i, j) centred at (j + .5, i + .5), the border repeated."""
    height, width = picture.shape[-2:]
    x, y = min(max(u - 0.5, 0), width - 1), min(max(v - 0.5, 0), height - 1)
    j, i = min(math.floor(x), width - 2), min(math.floor(y), height - 2)
    a, b = x - j, y - i
    top = (1 - a) * picture[:, i, j] + a * picture[:, i, j + 1]
    bottom = (1 - a) * picture[:, i + 1, j] + a * picture[:, i + 1, j + 1]
    return (1 - b) * top + b * bottom


def test_bilinear_reading_equals_the_slow_twin_inside_and_outside(feature_map) -> None:
    uv = points(40, -2.0, 11.0, 8.0)
    read = read_vertices(feature_map, uv)
    for item in range(2):
        for number in range(40):
            expected = slow_bilinear(feature_map[item], *uv[item, number].tolist())
            assert torch.allclose(read[item, number], expected / expected.norm(), atol=1e-5)


def test_a_cell_centre_reads_that_cell(feature_map) -> None:
    i, j = torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")
    centres = torch.stack((j + 0.5, i + 0.5), -1).reshape(1, -1, 2).expand(2, -1, -1)
    for nearest in (False, True):
        read = read_vertices(feature_map, centres, nearest)
        assert torch.allclose(read, cells(feature_map), atol=1e-5), nearest


def test_nearest_reading_takes_the_cell_the_point_falls_into(feature_map) -> None:
    uv = points(60, 0.0, 9.0, 6.0)
    read = read_vertices(feature_map, uv, nearest=True)
    for item in range(2):
        column, row = uv[item].long().unbind(-1)
        assert torch.equal(read[item], feature_map[item][:, row, column].T)


@pytest.mark.parametrize("nearest", [False, True])
def test_single_points_read_what_whole_lists_do_and_so_do_their_gradients(feature_map, nearest) -> None:
    uv = points(40, -2.0, 11.0, 8.0)
    picture, vertex = (torch.rand(2, 40, generator=torch.Generator().manual_seed(3)) < 0.5).nonzero(as_tuple=True)
    slopes = []
    for read in (
        lambda maps: read_vertices(maps, uv, nearest)[picture, vertex],
        lambda maps: read_points(maps, picture, uv[picture, vertex], nearest),
    ):
        for order in (torch.contiguous_format, torch.channels_last):
            maps = feature_map.detach().clone(memory_format=order).requires_grad_()
            value = read(maps)
            (value * torch.arange(5)).sum().backward()
            slopes.append((value, maps.grad))
    for value, slope in slopes[1:]:
        assert torch.allclose(value, slopes[0][0], atol=1e-6) and torch.allclose(slope, slopes[0][1], atol=1e-5)


def test_read_features_have_unit_length_and_pass_gradients_to_the_map_only(feature_map) -> None:
    feature_map.requires_grad_()
    uv = points(10, 0.0, 9.0, 6.0)
    read = read_vertices(feature_map, uv)
    assert torch.allclose(read.norm(dim=-1), torch.ones(2, 10), atol=1e-6)
    read.sum().backward()
    assert feature_map.grad.abs().sum() > 0


def test_cells_run_row_by_row_and_the_table_is_a_double_loop(feature_map) -> None:
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    table = similarity_table(cells(feature_map), features)
    assert table.shape == (2, 54, 4)
    for row in range(6):
        for column in range(9):
            cell = row * 9 + column
            assert torch.equal(cells(feature_map)[0, cell], feature_map[0, :, row, column])
            for vertex in range(4):
                assert table[1, cell, vertex] == pytest.approx(
                    float(feature_map[1, :, row, column] @ features[vertex]), abs=1e-6
                )
