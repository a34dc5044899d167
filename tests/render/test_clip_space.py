"""Clip-space positions against the projection they come from."""

import torch

from nvsm_lightning.render.clip_space import clip_positions

SIZE = (12, 30)


def test_viewport_transform_brings_every_vertex_back_with_rows_from_the_top(meshes, view):
    """OpenGL's own viewport: cell centre k of n at (2 k + 1) / n - 1, the first row being the lowest y."""
    uvz, _, _ = view(meshes["cuboid"], SIZE, poses=3)
    x, y, _, w = clip_positions(uvz, SIZE).double().unbind(-1)
    torch.testing.assert_close((x / w + 1) / 2 * SIZE[1], uvz[..., 0].double(), atol=1e-4, rtol=0)
    torch.testing.assert_close((y / w + 1) / 2 * SIZE[0], uvz[..., 1].double(), atol=1e-4, rtol=0)


def test_w_is_depth_and_nearer_has_smaller_z_inside_the_clip_range(meshes, view):
    uvz, _, _ = view(meshes["torus"], SIZE, poses=3, distance=1.0)
    _, _, z, w = clip_positions(uvz, SIZE).unbind(-1)
    assert torch.equal(w, uvz[..., 2])
    assert ((z / w).abs() < 1).all()
    order = w.flatten().argsort()
    assert ((z / w).flatten()[order].diff() > -1e-5).all()


def test_one_depth_for_all_is_no_division_by_zero():
    uvz = torch.tensor([[(0.0, 0.0, 2.0), (30.0, 12.0, 2.0)]])
    position = clip_positions(uvz, SIZE)
    torch.testing.assert_close(position[0, :, :2], torch.tensor([(-2.0, -2.0), (2.0, 2.0)]))
    assert position.isfinite().all() and position.is_contiguous()
