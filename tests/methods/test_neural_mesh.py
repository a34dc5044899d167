import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.geometry.cameras import Camera, mirror_camera
from nvsm_lightning.geometry.viewpoints import mirror_viewpoint, viewpoint_error, wrap_angle
from nvsm_lightning.matching.synthesis import vertex_features
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.neural_mesh import BankSettings, NeuralMesh
from nvsm_lightning.pose.solver import PoseEstimate, SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.contrast import ContrastSettings, contrastive_loss, shares_of_pairs


def model_of(chunk=8, **changes) -> NeuralMesh:
    torch.manual_seed(0)
    settings = {
        "category": "car", "backbone": BackboneSpec(name="small", dim=16, frozen=[], chunk=chunk),
        "mesh": MeshSpec(vertices=80), "bank": BankSettings(clutter_size=100), "contrast": ContrastSettings(),
        "space": PoseSpace(24, [10.0], [0.0]), "solver": SolverSettings(steps=5),
    }  # fmt: skip
    return NeuralMesh(**(settings | changes))


@pytest.fixture(scope="module")
def batch(make_data) -> dict:
    """All fourteen train pictures with their true poses."""
    data = make_data(labels=14, label_list=None, batch_size=14, mirror=False)
    data.setup("fit")
    return next(iter(data.anchor_dataloader()))


def halves(batch: dict, rank: int) -> dict:
    return {key: value[rank::2] for key, value in batch.items()}


def test_it_learns_poses_in_a_plain_loop(batch) -> None:
    """No Trainer, no LightningModule: the model, an optimiser, and pictures."""
    model = model_of().train()
    model.backbone.calibrate([(batch["image"], batch["camera"])])
    model.accumulate([batch])
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    losses = []
    for step in range(32):
        loss = model.loss(batch, step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], (losses[0], losses[-1])
    estimate = model.eval().estimate(batch["image"], batch["camera"])
    error = torch.rad2deg(viewpoint_error(estimate.viewpoint, batch["viewpoint"]))
    assert error.median() < 10, error


def test_a_step_gives_gradients_to_the_backbone_and_moves_the_bank_once(batch) -> None:
    model = model_of().train()
    vertex, filled = model.bank.vertex.clone(), int(model.bank.clutter_filled)
    result = model.loss(batch, 0)
    result["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not torch.equal(model.bank.vertex, vertex)
    assert int(model.bank.clutter_filled) - filled == 14 * 5
    assert result["loss"].item() == pytest.approx(float(result["main"] + 0.1 * result["background"]), rel=1e-5)


def test_the_loss_looks_at_written_clutter_and_at_vertices_that_are_not_near(batch) -> None:
    model = model_of(chunk=14, contrast=ContrastSettings(near_distance=0.15))
    model.accumulate([{key: value[:2] for key, value in batch.items()}])
    filled = int(model.bank.clutter_filled)
    assert 0 < filled < 100 and model.near_0.any()
    means, clutter = model.bank.vertex.clone(), model.bank.clutter[:filled].clone()
    model.bank.clutter[filled:] = means[0]
    maps = model.features(batch["image"])
    vertex, seen = vertex_features(maps, batch["viewpoint"], batch["camera"].scaled(1 / 8), model.renderer(maps))
    expected = contrastive_loss(vertex, seen, batch["weight"], means, clutter, model.near_0, model.contrast)
    assert float(model.loss(batch, 0)["main"]) == pytest.approx(float(expected.detach()), abs=1e-4)


def test_the_loss_of_the_background_is_that_of_the_batch_in_parts_or_whole(batch) -> None:
    whole, parts = (model_of(chunk=chunk).loss(batch, 0)["background"] for chunk in (14, 7))
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-4)


def test_the_bank_counts_pictures_whatever_their_weight(batch) -> None:
    banks = []
    for weight in (1.0, 0.5):
        model = model_of()
        model.loss({**batch, "weight": torch.full((14,), weight)}, 0)
        banks.append(model.bank.vertex)
    assert torch.equal(*banks)


def test_the_logits_use_the_bank_of_before_the_update(batch) -> None:
    first, second = model_of(), model_of(bank=BankSettings(momentum=0.0, clutter_size=100))
    assert float(first.loss(batch, 0)["main"]) == float(second.loss(batch, 0)["main"])
    assert float(first.loss(batch, 0)["main"]) != float(second.loss(batch, 0)["main"])


def test_the_background_is_drawn_by_the_step(batch) -> None:
    drawn = [float(model_of().loss(batch, step)["background"]) for step in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_processes_draw_the_background_that_one_would_draw(batch, monkeypatch) -> None:
    drawn = []
    original = NeuralMesh._background
    monkeypatch.setattr(NeuralMesh, "_background", lambda *a: drawn.append(original(*a)) or drawn[-1])
    monkeypatch.setattr("nvsm_lightning.methods.neural_mesh.shares_of_pairs", lambda pairs, world: pairs * 0 + 1)
    model = model_of()
    model.loss(batch, 7)
    for rank in range(2):
        model.loss(halves(batch, rank), 7, rank, 2)
    for alone, shared in zip(drawn[:2], drawn[2:], strict=True):  # 14 pictures in chunks of 8: two parts
        assert torch.equal(alone, shared)


def test_accumulation_does_not_depend_on_the_batches(batch) -> None:
    model, other = model_of().eval(), model_of().eval()
    model.accumulate([batch])
    parts = [{key: value[start : start + 4] for key, value in batch.items()} for start in range(0, 14, 4)]
    other.accumulate(parts)
    assert torch.allclose(model.bank.vertex, other.bank.vertex, atol=1e-5)
    assert torch.allclose(model.bank.clutter_mean, other.bank.clutter_mean, atol=1e-5)


def test_the_share_of_pairs_of_a_single_process_is_one() -> None:
    assert shares_of_pairs(torch.tensor([17.0]), 1).tolist() == [1]


def test_the_parts_of_a_batch_make_the_loss_of_the_whole(batch) -> None:
    """The mean over all visible pairs, however the batch is divided; each part weighs by its pairs."""
    whole, parts = model_of(chunk=14), model_of(chunk=4)
    weighted = {**batch, "weight": torch.linspace(0.1, 1, 14)}
    first, second = whole.loss(weighted, 0), parts.loss(weighted, 0)
    assert torch.allclose(first["main"], second["main"], atol=1e-5)
    assert torch.allclose(whole.bank.vertex, parts.bank.vertex, atol=1e-5)


@pytest.mark.parametrize("nearest", [False, True])
def test_accumulation_sets_the_means_of_all_visible_features(batch, nearest) -> None:
    model = model_of(bank=BankSettings(clutter_size=100, legacy_nearest=nearest)).eval()
    before = model.bank.vertex.clone()
    parts = [halves(batch, 0), halves(batch, 1)]
    parts[0]["weight"] = torch.full((7,), 0.5)
    model.accumulate(parts)
    total, count = torch.zeros_like(before), torch.zeros(len(before))
    with torch.no_grad():
        for part, weight in zip(parts, (0.5, 1.0), strict=True):
            maps = model.features(part["image"])
            vertex, visible = vertex_features(
                maps, part["viewpoint"], part["camera"].scaled(1 / 8), model.renderer(maps), nearest
            )
            for picture in range(7):
                for k in visible[picture].nonzero()[:, 0].tolist():
                    total[k] += weight * vertex[picture, k]
                    count[k] += weight
    seen = count > 0
    assert seen.any() and not seen.all()  # the underside is never seen
    assert torch.allclose(model.bank.vertex[seen], total[seen] / total[seen].norm(dim=1, keepdim=True), atol=1e-4)
    assert torch.equal(model.bank.vertex[~seen], before[~seen]) and int(model.bank.clutter_filled) == 100


def test_accumulation_is_exact_under_autocast(batch) -> None:
    model, other = model_of().eval(), model_of().eval()
    maps = model.features(batch["image"]).detach()
    for either in (model, other):
        either.features = lambda image: maps
    model.accumulate([batch])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other.accumulate([batch])
    assert torch.allclose(model.bank.vertex, other.bank.vertex, atol=1e-6)


def test_crops_must_fit_the_stride() -> None:
    with pytest.raises(ConfigError, match=r"sides divisible by 8; got \(20, 32\)"):
        model_of().features(torch.zeros(1, 3, 20, 32))


def test_estimates_do_not_depend_on_the_batch(batch) -> None:
    model = model_of().eval()
    model.accumulate([batch])
    together = model.estimate(batch["image"], batch["camera"])
    alone = model.estimate(batch["image"][3:4], batch["camera"][3:4])
    assert torch.allclose(alone.viewpoint[0], together.viewpoint[3], atol=1e-3)
    assert together.viewpoint.shape == (14, 3) and together.loss.shape == (14,)


def test_a_renderer_first_made_in_inference_mode_serves_the_solver(batch) -> None:
    """Moving a mesh to another device copies it, and a copy made in inference mode can never meet autograd."""
    model = model_of(engine="torch").eval()  # the compiled one takes no gradient
    model.accumulate([batch])
    expected = model.estimate(batch["image"][:2], batch["camera"][:2])

    class Elsewhere:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def to(self, device: torch.device) -> Tensor:
            return self.tensor.clone()

    model._renderers.clear()
    model.meshes = [SimpleNamespace(vertices=Elsewhere(m.vertices), faces=Elsewhere(m.faces)) for m in model.meshes]
    with torch.inference_mode():
        estimate = model.estimate(batch["image"][:2], batch["camera"][:2])
    assert torch.allclose(estimate.viewpoint, expected.viewpoint, atol=1e-5)


def test_the_mirror_estimate_keeps_the_lower_loss_or_the_middle_of_one_peak(batch) -> None:
    model = model_of().eval()
    model.accumulate([batch])
    image, camera = batch["image"][:4], batch["camera"][:4]
    own = model.estimate(image, camera)
    mirrored = model.estimate(image.flip(-1), mirror_camera(camera, image.shape[-1]))
    assert torch.equal(camera.principal[:, 0], torch.full((4,), image.shape[-1] / 2))
    best = model.mirror_estimate(image, camera, own)
    assert torch.equal(best.loss, torch.minimum(own.loss, mirrored.loss))
    for item in range(4):
        one, other = own.viewpoint[item], mirror_viewpoint(mirrored.viewpoint)[item]
        kept = one if own.loss[item] <= mirrored.loss[item] else other
        apart = viewpoint_error(one, other)
        if apart < math.radians(15):
            assert torch.allclose(viewpoint_error(best.viewpoint[item], kept), apart / 2, atol=2e-3)
        else:
            assert torch.equal(best.viewpoint[item], kept)
    near = PoseEstimate(mirror_viewpoint(mirrored.viewpoint) + 0.1, own.loss, own.start, own.scored)
    middle = model.mirror_estimate(image, camera, near).viewpoint
    assert torch.allclose(wrap_angle(middle - near.viewpoint), torch.full((4, 3), -0.05), atol=1e-5)
    hopeless = PoseEstimate(own.viewpoint, torch.full((4,), torch.inf), own.start, own.scored)
    forced = model.mirror_estimate(image, camera, hopeless)
    assert torch.equal(forced.viewpoint, mirror_viewpoint(mirrored.viewpoint)) and torch.equal(
        forced.loss, mirrored.loss
    )


def test_occlusion_labels_have_the_size_of_the_map(batch) -> None:
    model = model_of().eval()
    model.accumulate([batch])
    labels = model.occlusion(batch["image"], batch["camera"], batch["viewpoint"])
    assert labels.shape == (14, 6, 12) and set(labels.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert (labels[:, 0, 0] == 0).all() and (labels[:, 3, 6] > 0).all()


def test_where_there_is_no_picture_nothing_of_an_object_is_seen(batch) -> None:
    model = model_of().eval()
    model.accumulate([batch])
    *camera, frame = batch["camera"].tensors()
    frame = frame.clone()
    frame[:, 0] = 48.0  # the stored picture begins in the middle of the crop
    labels = model.occlusion(batch["image"], Camera(*camera, frame), batch["viewpoint"])
    assert (labels[:, :, :6] == 0).all() and (labels[:, :, 6:] > 0).any()


def test_the_state_is_weights_bank_and_centre_alone(batch) -> None:
    model, other = model_of().eval(), model_of().eval()
    model.backbone.calibrate([(batch["image"], batch["camera"])])
    model.accumulate([batch])
    other.load_state_dict(model.state_dict())
    assert not any("near" in name or "renderer" in name for name in model.state_dict())
    ours, theirs = (either.estimate(batch["image"][:3], batch["camera"][:3]) for either in (model, other))
    assert torch.equal(ours.viewpoint, theirs.viewpoint) and math.isfinite(float(ours.loss.sum()))
