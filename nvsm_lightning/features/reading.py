"""Reading a feature map at projected vertices."""

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Int64
from torch import Tensor


def read_vertices(
    feature_map: Float[Tensor, "batch dim h w"], uv: Float[Tensor, "batch vertex 2"], nearest: bool = False
) -> Float[Tensor, "batch vertex dim"]:
    """Features at map coordinates ``uv`` (cell (i, j) has its centre at (j + .5, i + .5)): ``F(P_theta x_r)`` of NVSM.

    Bilinear, then normalised again (a mean of two unit vectors is shorter than one); ``nearest=True`` reads the cell
    that the vertex falls into, as NeMo's code does. Coordinates outside the map read its border.
    """
    size = uv.new_tensor((feature_map.shape[-1], feature_map.shape[-2]))
    grid = (2 * uv / size - 1)[:, :, None]
    mode = "nearest" if nearest else "bilinear"
    read = nnf.grid_sample(feature_map, grid.to(feature_map), mode=mode, padding_mode="border", align_corners=False)
    read = read[..., 0].transpose(1, 2)
    return read if nearest else nnf.normalize(read, dim=-1)


def read_points(
    feature_map: Float[Tensor, "batch dim h w"],
    picture: Int64[Tensor, " point"],
    uv: Float[Tensor, "point 2"],
    nearest: bool = False,
) -> Float[Tensor, "point dim"]:
    """:func:`read_vertices` of single points, each of one ``picture`` of the batch: for the half of the vertices that
    is seen.

    Whole rows of a map whose channels lie together are gathered, which ``grid_sample`` does channel by channel: three
    times as fast, its backward pass four times. Values and gradients differ in the last bits.
    """
    height, width = feature_map.shape[-2:]
    table = cells(feature_map).flatten(0, 1)
    last = uv.new_tensor((width - 1, height - 1))
    place = torch.minimum((uv - 0.5).clamp_min(0), last)
    corner = place.round() if nearest else torch.minimum(place.floor(), (last - 1).clamp_min(0))
    column, row = corner.long().unbind(-1)
    index = (picture * height + row) * width + column
    if nearest:
        return table.index_select(0, index)
    right, below = min(1, width - 1), width * min(1, height - 1)
    x, y = ((place - corner).to(table)[:, None]).unbind(-1)
    upper = (1 - x) * table.index_select(0, index) + x * table.index_select(0, index + right)
    lower = (1 - x) * table.index_select(0, index + below) + x * table.index_select(0, index + below + right)
    return nnf.normalize((1 - y) * upper + y * lower, dim=-1)


def cells(feature_map: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch hw dim"]:
    """The map as a list of cells, row by row."""
    return feature_map.flatten(2).transpose(1, 2)


def similarity_table(
    cells: Float[Tensor, "batch hw dim"], features: Float[Tensor, "vertex dim"]
) -> Float[Tensor, "batch hw vertex"]:
    """Dot product of every cell with every vertex feature.

    Since ``<F(p), sum_k b_k f_k> = sum_k b_k <F(p), f_k>``, every render-and-compare loss of NeMo and NVSM and its pose
    gradient follow from this table without rendering a feature map: one matrix product a picture.
    """
    return torch.matmul(cells, features.T)
