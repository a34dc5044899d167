import math

import pytest
import torch

from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.geometry.cameras import Camera, canonical_camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error
from nvsm_lightning.methods import StarMap
from nvsm_lightning.methods.category_mesh import MeshSpec

HEIGHT, WIDTH, UNIT = 96, 192, 160.0


def make(**changes) -> StarMap:
    torch.manual_seed(0)
    settings = {"backbone": BackboneSpec(name="small", dim=16, center=False), "mesh": MeshSpec(vertices=400)}
    method = StarMap(**(settings | changes)).eval()
    method.log = method.log_dict = lambda *args, **kwargs: None
    return method


def poses(count: int) -> torch.Tensor:
    azimuth = torch.arange(count) * (2 * math.pi / count) + 0.2
    return torch.stack((azimuth, 0.2 + 0.1 * azimuth.sin(), 0.1 * azimuth.cos()), -1)


def cameras(count: int, distance: float = 2.0) -> Camera:
    return canonical_camera(HEIGHT, WIDTH, UNIT, distance).expanded(count)


def predicting(method: StarMap, viewpoint: torch.Tensor, camera: Camera) -> None:
    """Let the method see the truth, whatever the picture."""
    mask, points, depth = method.targets(viewpoint, camera.scaled(1 / 8), (HEIGHT // 8, WIDTH // 8))
    method.forward = lambda image: (20 * mask.float() - 10, points, depth)


def test_a_perfect_prediction_gives_the_pose_and_no_loss() -> None:
    method, viewpoint, camera = make(), poses(12), cameras(12)
    predicting(method, viewpoint, camera)
    batch = {"image": torch.zeros(12, 3, HEIGHT, WIDTH), "camera": camera, "viewpoint": viewpoint,
             "weight": torch.ones(12)}  # fmt: skip
    found, left = method.estimate(batch)
    assert viewpoint_error(found, viewpoint).rad2deg().max() < 0.2 and left.max() < 1e-4
    assert method.training_step(batch, 0).item() < 1e-3


def test_targets_are_points_of_the_seen_surface() -> None:
    method = make()
    size = (HEIGHT // 8, WIDTH // 8)
    front = torch.zeros(1, 3)
    mask, points, depth = method.targets(front, cameras(1).scaled(1 / 8), size)
    half = method.mesh.vertices.amax(0)
    seen = points[0, :, mask[0]]
    assert mask.any() and not mask.all()
    assert torch.allclose(seen[1], -half[1], atol=1e-3), "in front the face at -y is seen"
    assert torch.allclose(depth[mask], -half[1], atol=1e-3) and (seen[0].abs() <= half[0] + 1e-3).all()
    row = mask[0].any(1).nonzero()[0, 0]
    line = points[0, 0, row][mask[0, row]]
    assert (line.diff() > 0).all(), "the object's left is on the right of a picture of its front"


def test_cells_beyond_the_stored_picture_show_no_object() -> None:
    method, camera = make(), cameras(1)
    frame = torch.tensor([[0.0, 0.0, WIDTH / 2, HEIGHT]])
    cut = Camera(camera.distance, camera.focal, camera.principal, camera.box, frame)
    size = (HEIGHT // 8, WIDTH // 8)
    mask, _, _ = method.targets(poses(1), cut.scaled(1 / 8), size)
    whole, _, _ = method.targets(poses(1), camera.scaled(1 / 8), size)
    assert not mask[..., size[1] // 2 :].any() and torch.equal(mask[..., : size[1] // 2], whole[..., : size[1] // 2])


def test_a_picture_without_heat_still_has_a_pose() -> None:
    method, viewpoint, camera = make(), poses(2), cameras(2)
    mask, points, depth = method.targets(viewpoint, camera.scaled(1 / 8), (HEIGHT // 8, WIDTH // 8))
    method.forward = lambda image: (8 * mask.float() - 12, points, depth)  # scores of 0.018 and 6e-6
    found, _ = method.estimate({"image": torch.zeros(2, 3, HEIGHT, WIDTH), "camera": camera})
    assert viewpoint_error(found, viewpoint).rad2deg().max() < 1


def test_one_hot_cell_is_no_pose_that_fits_perfectly() -> None:
    """A similarity of one or two cells leaves nothing, and would win over any real one."""
    method, viewpoint, camera = make(), poses(1), cameras(1)
    mask, points, depth = method.targets(viewpoint, camera.scaled(1 / 8), (HEIGHT // 8, WIDTH // 8))
    heat = 8 * mask.float() - 12
    row, column = mask[0].nonzero()[0].tolist()
    for hot in (column, column + 1):
        heat[0, row, hot] = 5.0
        method.forward = lambda image: (heat, points, depth)
        found, left = method.estimate({"image": torch.zeros(1, 3, HEIGHT, WIDTH), "camera": camera})
        assert viewpoint_error(found, viewpoint).rad2deg().max() < 3 and left.isfinite().all()


def test_mirror_averaging_takes_the_pose_that_fits_better() -> None:
    method, viewpoint, camera = make(mirror_average=True), poses(1), cameras(1)
    mask, points, depth = method.targets(mirror_viewpoint(viewpoint), camera.scaled(1 / 8), (HEIGHT // 8, WIDTH // 8))
    calls = []

    def forward(image):
        calls.append(image)
        noise = torch.zeros_like(points) if len(calls) == 2 else torch.randn(points.shape)
        return 20 * mask.float() - 10, points + noise, depth

    method.forward = forward
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    found, left = method.estimate({"image": image, "camera": camera})
    assert torch.equal(calls[1], image.flip(-1)) and left.max() < 1e-4
    assert viewpoint_error(found, viewpoint).rad2deg().max() < 0.2


def test_training_learns_the_pictures_and_a_checkpoint_brings_it_back(make_data, make_trainer, tmp_path) -> None:
    backbone = BackboneSpec(name="small", dim=16, frozen=[])
    method, data = make(backbone=backbone, learning_rate=1e-3, head_learning_rate=3e-3), make_data(epoch_images=48)
    del method.log, method.log_dict
    trainer = make_trainer(epochs=4)
    losses = []
    step = method.training_step
    method.training_step = lambda *args: losses.append(step(*args)) or losses[-1]
    trainer.fit(method, data)
    assert method.backbone.center.norm() > 0.1, "features are centred before training"
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])
    del method.training_step
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    torch.manual_seed(5)
    again = StarMap.load_from_checkpoint(tmp_path / "x.ckpt").eval()
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        for ours, theirs in zip(method.eval().estimate(batch), again.estimate(batch), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["project", "upsample"])
def test_both_heads_of_the_backbone_do(name) -> None:
    method = make(backbone=BackboneSpec(name="resnet18", head=name, dim=8))
    with torch.no_grad():
        heat, points, depth = method(torch.rand(1, 3, 64, 96))
    assert heat.shape == depth.shape == (1, 8, 12) and points.shape == (1, 3, 8, 12)
