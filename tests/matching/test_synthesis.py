import pytest
import torch

from nvsm_lightning.features.reading import read_vertices
from nvsm_lightning.geometry.cameras import project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.matching.synthesis import map_similarity, synthesise, vertex_features
from nvsm_lightning.pose.likelihood import gather_evidence, object_scores


def test_hidden_vertices_are_zero_and_seen_ones_read_the_map(pictures) -> None:
    vertex, visible = vertex_features(pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    uvz = project(pictures.mesh.vertices, rotation_from_viewpoint(pictures.viewpoint), pictures.camera)
    assert torch.equal(visible, pictures.renderer.visible(uvz)) and 0.2 < visible.float().mean() < 0.7
    assert (vertex[~visible] == 0).all()
    for nearest in (False, True):
        vertex, _ = vertex_features(
            pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer, nearest
        )
        assert torch.equal(vertex[visible], read_vertices(pictures.feature_map, uvz[..., :2], nearest)[visible])


def test_the_features_read_from_a_picture_are_the_texture(pictures) -> None:
    vertex, visible = vertex_features(pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    similarity = (vertex * pictures.texture).sum(-1)[visible]
    # Vertices on the outline read a mixture with the ground.
    assert similarity.median() > 0.95 and (similarity > 0.6).float().mean() > 0.8


def test_synthesis_at_the_own_pose_gives_the_picture_back(pictures) -> None:
    vertex, visible = vertex_features(pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    again = synthesise(vertex, pictures.viewpoint, pictures.camera, pictures.renderer)
    seen = synthesise(visible.float()[..., None], pictures.viewpoint, pictures.camera, pictures.renderer)[:, 0]
    inner = (again * pictures.feature_map).sum(1)
    assert inner[seen > 0.999].median() > 0.9 and inner.max() <= 1 + 1e-5
    assert (again[:, :, seen.amax(0) == 0] == 0).all()  # zero outside the mesh
    # No other pose of the same features is as similar to the picture.
    own = map_similarity(again, pictures.feature_map)
    for shift in range(1, 8):
        other = synthesise(vertex, pictures.viewpoint.roll(shift, 0), pictures.camera, pictures.renderer)
        assert (map_similarity(other, pictures.feature_map) < own).all()


def test_similarity_falls_with_the_distance_in_azimuth(pictures, make_pictures) -> None:
    """Features of a picture rendered at azimuth + delta: against the picture itself, and against others from there."""
    vertex, _ = vertex_features(pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    to_itself, to_others = [], []
    for delta in (0, 15, 30, 45, 60, 75, 90):
        both = []
        for sign in (1, -1):
            turned = pictures.viewpoint + torch.tensor([sign * delta * torch.pi / 180, 0, 0])
            drawn = synthesise(vertex, turned, pictures.camera, pictures.renderer)
            there = make_pictures(turned).feature_map
            both.append((map_similarity(drawn, pictures.feature_map).mean(), map_similarity(drawn, there).mean()))
        to_itself.append(float(both[0][0] + both[1][0]) / 2)
        to_others.append(float(both[0][1] + both[1][1]) / 2)
    assert to_itself[0] == max(to_itself) and to_itself[:4] == sorted(to_itself[:4], reverse=True), to_itself
    assert to_others == sorted(to_others, reverse=True), to_others


@pytest.mark.parametrize("shift", [0, 3])
def test_the_table_gives_the_similarity_of_the_rendered_map(pictures, shift) -> None:
    vertex, _ = vertex_features(pictures.feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    poses = pictures.viewpoint.roll(shift, 0)
    for anchor in (0, 5):
        drawn = synthesise(vertex[anchor], poses, pictures.camera, pictures.renderer)
        evidence = gather_evidence(pictures.feature_map, vertex[anchor], pictures.clutter, pictures.camera)
        score, _ = object_scores(evidence, poses[:, None], pictures.renderer)
        expected = map_similarity(drawn, pictures.feature_map)
        assert torch.allclose(score[:, 0].mean(-1), expected, atol=1e-5) and expected.abs().max() > 0.02


def test_map_similarity_is_the_mean_over_cells(pictures) -> None:
    a, b = pictures.feature_map[0], pictures.feature_map[1]
    cells = [float(a[:, row, column] @ b[:, row, column]) for row in range(16) for column in range(40)]
    assert float(map_similarity(a[None], b[None])) == pytest.approx(sum(cells) / 640, abs=1e-5)


def test_gradients_reach_the_feature_map_through_the_seen_vertices(pictures) -> None:
    feature_map = pictures.feature_map.clone().requires_grad_()
    vertex, visible = vertex_features(feature_map, pictures.viewpoint, pictures.camera, pictures.renderer)
    (vertex * pictures.texture.roll(1, 1)).sum().backward()
    assert (feature_map.grad.abs().sum((1, 2, 3)) > 0).all() and visible.any(1).all()
