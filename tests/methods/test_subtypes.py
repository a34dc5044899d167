"""Several meshes a category: a bank each, the mesh of the known subtype or the likeliest, all tried at test time."""

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.geometry.cameras import mirror_camera
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.methods import NVSM, NeMo
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.neural_mesh import BankSettings, NeuralMesh
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.contrast import ContrastSettings
from nvsm_lightning.training.schedule import EMSchedule


@pytest.fixture
def model_of():
    def make(file, **changes) -> NeuralMesh:
        torch.manual_seed(0)
        settings = {
            "category": "car", "backbone": BackboneSpec(name="small", dim=16, frozen=[]),
            "mesh": MeshSpec(file=str(file)), "bank": BankSettings(clutter_size=100), "contrast": ContrastSettings(),
            "space": PoseSpace(12, [10.0], [0.0]), "solver": SolverSettings(steps=3),
        }  # fmt: skip
        return NeuralMesh(**(settings | changes))

    return make


@pytest.fixture(scope="module")
def batch(make_data):
    data = make_data(labels=14, label_list=None, batch_size=14, mirror=False)
    data.setup("fit")
    return next(iter(data.anchor_dataloader()))


def known(batch, *subtype):
    return {**batch, "subtype": torch.tensor(subtype * 14)[:14]}


def test_pictures_move_the_bank_of_their_subtype_alone(model_of, meshes, batch):
    model = model_of(meshes).train()
    before = model.bank.vertex.clone()
    model.loss(known(batch, 5), 0)["loss"].backward()
    moved = (model.bank.vertex != before).any(1)
    assert not moved[model.rows[0]].any() and moved[model.rows[1]].any()
    assert model.seen.tolist() == [False, True] and model.trained() == [1]
    model.loss(known(batch, 2, 5), 1)
    assert model.trained() == [0, 1]
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_pictures_of_one_subtype_give_the_loss_and_the_bank_of_its_mesh_alone(model_of, meshes, batch):
    several, one = model_of(meshes).train(), model_of(meshes / "02.off").train()
    with torch.no_grad():
        several.load_state_dict(one.state_dict() | {"bank.vertex": several.bank.vertex, "seen": several.seen})
        several.bank.vertex[several.rows[0]] = one.bank.vertex
    for step in range(2):
        losses = [model.loss(known(batch, 2), step) for model in (several, one)]
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(several.bank.vertex[several.rows[0]], one.bank.vertex)
    several.accumulate([known(batch, 2)])
    one.accumulate([known(batch, 2)])
    torch.testing.assert_close(several.bank.vertex[several.rows[0]], one.bank.vertex)
    for ours, theirs in zip(*(m.eval().estimate(batch["image"], batch["camera"]).viewpoint for m in (several, one)),
                            strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs)  # the mesh never seen is never taken


def test_unknown_subtypes_first_fill_every_bank_and_then_the_likeliest(model_of, meshes, batch):
    model = model_of(meshes)
    model.backbone.calibrate([(batch["image"], batch["camera"])])
    model.accumulate([known(batch, 0)])
    assert model.trained() == [0, 1]
    before = model.bank.vertex.clone()
    feature_map = model.features(batch["image"])
    likeliest = model.likeliest(feature_map, batch["viewpoint"], batch["camera"].scaled(1 / 8))
    model.loss({key: value for key, value in batch.items() if key != "subtype"}, 0)
    for number in (0, 1):
        moved = (model.bank.vertex != before)[model.rows[number]].any()
        assert bool(moved) == bool((likeliest == number).any())
    assert (likeliest == 0).float().mean() > 0.5  # the mesh that is in the pictures
    assert model.numbers(torch.tensor([0, 2, 3, 5]), 4).tolist() == [-1, 0, -1, 1]


def test_at_test_time_the_lowest_loss_wins_unless_the_subtype_is_told(model_of, meshes, batch):
    model = model_of(meshes)
    model.accumulate([known(batch, 2, 5)])
    image, camera = batch["image"], batch["camera"]
    free = model.estimate(image, camera)
    told = [model.estimate(image, camera, torch.full((14,), subtype)) for subtype in (2, 5)]
    assert torch.equal(free.loss, torch.minimum(told[0].loss, told[1].loss))
    best = torch.where((told[0].loss <= told[1].loss)[:, None], told[0].viewpoint, told[1].viewpoint)
    assert torch.equal(free.viewpoint, best)
    assert not torch.equal(told[0].loss, told[1].loss)
    assert torch.equal(model.estimate(image, camera, torch.zeros(14)).loss, free.loss)
    twos = torch.full((14,), 2)
    mirrored = model.estimate(image.flip(-1), mirror_camera(camera, image.shape[-1]), twos)
    both = model.mirror_estimate(image, camera, told[0], twos)
    assert torch.equal(both.loss, torch.minimum(told[0].loss, mirrored.loss))
    assert not torch.equal(both.loss, model.mirror_estimate(image, camera, told[0]).loss)
    maps = model.occlusion(image, camera, batch["viewpoint"])
    assert maps.shape == (14, 6, 12) and {0.0} < set(maps.unique().tolist()) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize("kind", [NeMo, NVSM])
def test_both_methods_train_and_test_with_several_meshes(kind, meshes, make_method, make_data, make_trainer):
    method = make_method(kind, mesh=MeshSpec(file=str(meshes)))
    make_trainer(EMSchedule(rounds=1 if kind is NVSM else 0), 1).fit(method, make_data())
    assert method.model.trained() == [0, 1]
    state = method.state_dict()
    again = make_method(kind, mesh=MeshSpec(file=str(meshes)))
    again.load_state_dict(state)
    assert again.model.trained() == [0, 1]
    data = make_data()
    data.setup("test")
    shown = next(iter(data.test_dataloader()))
    viewpoint, loss = again.eval().estimate(shown)
    assert viewpoint.isfinite().all() and loss.isfinite().all()


def test_the_true_subtype_is_used_only_by_the_variant_that_says_so(meshes, make_method, batch):
    plain = make_method(NeMo, mesh=MeshSpec(file=str(meshes))).eval()
    oracle = make_method(NeMo, mesh=MeshSpec(file=str(meshes)), oracle_subtype=True).eval()
    plain.model.accumulate([known(batch, 2, 5)])
    oracle.load_state_dict(plain.state_dict())
    assert (plain.name, oracle.name) == ("nemo", "nemo_oracle_subtype")
    (_, hidden), (_, also_hidden) = (plain.estimate(known(batch, subtype)) for subtype in (2, 5))
    assert torch.equal(hidden, also_hidden)
    (_, two), (_, five) = (oracle.estimate(known(batch, subtype)) for subtype in (2, 5))
    assert torch.equal(torch.minimum(two, five), hidden) and not torch.equal(two, five)


def test_synthesis_from_single_pictures_wants_one_mesh(meshes, make_method):
    with pytest.raises(ConfigError, match="one mesh"):
        make_method(NVSM, mesh=MeshSpec(file=str(meshes)), match=MatchSettings(source="anchors"))
