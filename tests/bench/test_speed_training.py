"""The benches of training and prediction do what they say; how fast is not tested."""

import json

import torch

from nvsm_lightning.bench import speed_predict, speed_training
from nvsm_lightning.bench.speed_timing import Times
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.methods import NeMo
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.neural_mesh import NeuralMesh


def test_the_rivals_of_a_step_do_the_same_backward_pass(monkeypatch) -> None:
    size = speed_training.Size(32, 64, 60)
    model, batch = speed_training.make_model(size), speed_training.make_batch(size)
    slopes = []
    monkeypatch.setattr(
        NeuralMesh, "zero_grad", lambda self: slopes.append([p.grad.clone() for p in self.parameters()])
        or [setattr(p, "grad", None) for p in self.parameters()],
    )  # fmt: skip
    before = model.bank.vertex.clone()
    ways = speed_training.rivals(model, batch, False)
    for name in ("backbone", "backbone in chunks"):
        ways[name]()
    assert torch.equal(model.bank.vertex, before)
    assert all(torch.allclose(a, b, rtol=1e-2, atol=1e-3 * float(a.abs().max())) for a, b in zip(*slopes, strict=True))
    ways["training step"]()
    assert not torch.equal(model.bank.vertex, before) and all(slope.abs().sum() > 0 for slope in slopes[2])


def test_the_overhead_is_that_of_the_medians() -> None:
    times = {name: Times(median, 0, 0, 0, 3) for name, median in (("backbone", 2.0), ("training step", 2.3))}
    assert round(speed_training.overhead(times, "backbone"), 6) == 15


def test_the_loader_is_measured_on_crops_that_are_equal(tmp_path) -> None:
    rows = speed_training._loader(tmp_path, speed_training.Size(32, 64, 60), 0.0)
    assert [row.name.split(", ", 1)[1] for row in rows] == [
        "decoded", "from the disk cache", "from memory", "from memory, augmented",
    ]  # fmt: skip
    assert all(row.value > 0 for row in rows) and len(list((tmp_path / "crops").glob("*/*.npy"))) == 4


def test_prediction_takes_the_way_of_the_command(tmp_path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    speed_predict.write_photographs(pictures, 3)
    torch.manual_seed(0)
    space, solver = speed_predict.SETTINGS["fast search"]
    method = NeMo("car", BackboneSpec("small"), MeshSpec(vertices=60), space=space, solver=solver).eval()
    speed_predict.bare(method, pictures)
    speed_predict.predict(method, pictures, tmp_path / "run")
    assert not (tmp_path / "run" / "predictions.json").exists()
    speed_predict.predict(method, pictures, tmp_path / "run", 1)
    content = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert [each["file"] for each in content["predictions"]] == ["000.jpg", "001.jpg", "002.jpg"]
