import json
import os
from types import SimpleNamespace

import pytest
import torch

from nvsm_lightning.bench.jobs import command_of
from nvsm_lightning.cli import guard, lightning_cli
from nvsm_lightning.errors import ConfigError, WeightsError
from nvsm_lightning.methods.guard import label_margin, mirror_agreement, pool_poses, standard_score
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.toy.dataset import make_toy

SMALL = """
data:
  class_path: ToyCars
  init_args:
    {labels: 4, epoch_images: 8, batch_size: 4, pool_limit: 10, crop: {height: 64, width: 128, pixels_per_unit: 100}}
model:
  class_path: METHOD
  init_args: {backbone: {name: small, dim: 16}, mesh: {vertices: 80}, space: {azimuths: 12}, solver: {steps: 2}}
trainer:
  max_epochs: 1
  accelerator: cpu
  em: {rounds: ROUNDS, epochs_per_round: 1}
  limit_val_batches: 0
  logger: false
report: {overlays: 0}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard")
    make_toy(folder / "toy", train=16, test=4, size=(70, 100), progress=False)
    for method, rounds in (("NeMo", 0), ("NVSM", 1)):
        (folder / f"{method}.yaml").write_text(SMALL.replace("METHOD", method).replace("ROUNDS", str(rounds)))
    fit(folder, "NeMo", "nemo")
    return folder


def fit(place, method, name, *words) -> None:
    gates = ("--model.selection.ring_deg", "180") if method == "NVSM" else ()
    settings = ("--config", str(place / f"{method}.yaml"), "--data.root", str(place / "toy"))
    lightning_cli.run(["fit", *settings, "--run_dir", str(place / name), *gates, *words])


def weights(path) -> dict:
    return torch.load(path, weights_only=True)["state_dict"]


def answer(monkeypatch, *margins: float) -> None:
    """Let the labels have such margins by the two models, EM's first; the mirror images tell nothing."""
    weighed = torch.tensor([1.0, 2.0, 3.0])  # three labels, of mean 2
    agree = torch.tensor([True, True, False])
    found = iter([{"label_margin": each / 2 * weighed, "mirror_agreement": agree} for each in margins])
    monkeypatch.setattr(guard, "_asked", lambda *_: next(found))


def poses(run) -> str:
    return (run / "tables" / "predictions.csv").read_text()


@pytest.mark.parametrize("better", ["em", "labelled_only"])
def test_the_weights_that_labels_and_pool_speak_for_are_kept_and_tested(place, monkeypatch, capfd, better) -> None:
    monkeypatch.setenv("NVSM_PRECISION", "32-true")
    answer(monkeypatch, *((0.9, 0.5) if better == "em" else (0.5, 0.9)))
    run = place / better
    fit(place, "NVSM", better, "--guard", str(place / "nemo"), "--trainer.precision", "auto")
    assert "precision: 32-true" in (run / "config.yaml").read_text()  # what was chosen, so that a resumed fit keeps it
    assert f"kept {better.replace('_', '-')}" in capfd.readouterr().out
    told = json.loads((run / "guard.json").read_text())
    assert told["kept"] == better and told[better]["label_margin"] == pytest.approx(0.9)
    nemo = weights(place / "nemo" / "checkpoints" / "last.ckpt")
    last = weights(run / "checkpoints" / "last.ckpt")
    same = all(torch.equal(last[key], value) for key, value in nemo.items() if key.startswith("model."))
    assert same == (better == "labelled_only") == (run / "checkpoints" / "em.ckpt").exists()
    assert (poses(run) == poses(place / "nemo")) == same
    lightning_cli.run([
        "test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints" / "last.ckpt"),
        "--run_dir", str(run / "again"),
    ])  # fmt: skip
    assert poses(run / "again") == poses(run)


def test_what_was_measured_of_the_weights_goes_with_them(place, monkeypatch) -> None:
    nemo = torch.load(place / "nemo" / "checkpoints" / "last.ckpt", weights_only=False)
    nemo["pose_calibration"] = {"temperature": 7.0, "n_images": 3}
    torch.save(nemo, place / "warm.ckpt")
    answer(monkeypatch, 0.5, 0.9)
    fit(place, "NVSM", "warm", "--guard", str(place / "warm.ckpt"), "--model.match.final_calibration", "robust")
    last = torch.load(place / "warm" / "checkpoints" / "last.ckpt", weights_only=False)
    assert last["pose_calibration"]["temperature"] == 7.0
    assert "pose_null" not in last and "pose_null" in torch.load(place / "warm" / "checkpoints" / "em.ckpt")
    assert json.loads((place / "warm" / "results.json").read_text())["posterior"]["temperature"] == 7.0


@pytest.mark.parametrize("averaged", [False, True])
def test_a_fit_resumed_behind_the_guard_keeps_its_choice(place, monkeypatch, averaged) -> None:
    """Interrupted in the final test; also where the checkpoint holds an average beside the weights in training."""
    answer(monkeypatch, 0.5, 0.9)
    run = place / f"again_{averaged}"
    average = "{class_path: nvsm_lightning.training.averaging.MovingAverage, init_args: {decay: 0.5}}"
    words = ("--trainer.callbacks+", average) if averaged else ()
    fit(place, "NVSM", run.name, "--guard", str(place / "nemo"), *words)
    told, tested, em = (run / "guard.json").read_text(), poses(run), weights(run / "checkpoints" / "em.ckpt")
    (run / "results.json").unlink()
    last = str(run / "checkpoints" / "last.ckpt")
    lightning_cli.run(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", last, "--run_dir", str(run)])
    assert (run / "guard.json").read_text() == told and poses(run) == tested == poses(place / "nemo")
    again = weights(run / "checkpoints" / "em.ckpt")
    assert all(torch.equal(again[key], value) for key, value in em.items())
    further = ["fit", "--config", str(run / "config.yaml"), "--run_dir", str(run), "--trainer.max_epochs", "2"]
    for name in (last, "last"):
        with pytest.raises(ConfigError, match=r"holds the model of the labelled pictures alone.*em\.ckpt"):
            lightning_cli.run([*further, "--ckpt_path", name])
    lightning_cli.run([*further, "--ckpt_path", str(run / "checkpoints" / "em.ckpt"), "--guard", "none"])
    assert poses(run) != tested


def test_another_models_labels_are_noticed(place, monkeypatch) -> None:
    answer(monkeypatch, 0.5, 0.5)
    with pytest.warns(UserWarning, match="trained with other labelled pictures"):
        fit(place, "NVSM", "others", "--guard", str(place / "nemo"), "--seed_everything", "5")


def trainer_like(**changes) -> SimpleNamespace:
    """What the guard looks at of a trainer."""
    saver = SimpleNamespace(filename="last", dirpath=None)
    own = {"em": SimpleNamespace(rounds=1), "world_size": 1, "max_epochs": 1, "checkpoint_callback": saver}
    return SimpleNamespace(default_root_dir="run", **(own | changes))


def test_several_processes_do_not_wait_for_a_whole_fit() -> None:
    with pytest.raises(ConfigError, match="give its run: --guard RUN"):
        guard.check("fit", None, NeMo(), SimpleNamespace(mirror=True), trainer_like(world_size=2))


@pytest.mark.parametrize(
    "saver",
    [None, SimpleNamespace(filename="best", dirpath=None), SimpleNamespace(filename="last", dirpath="elsewhere")],
)
def test_a_fit_without_its_checkpoint_is_refused_before_it_begins(saver) -> None:
    with pytest.raises(ConfigError, match=r"needs the checkpoint run/checkpoints/last\.ckpt"):
        guard.check("fit", None, NeMo(), SimpleNamespace(mirror=True), trainer_like(checkpoint_callback=saver))


def test_a_guard_without_anything_to_guard_says_so() -> None:
    with pytest.warns(UserWarning, match="nothing to guard"):
        assert not guard.check("fit", None, NeMo(), None, trainer_like(em=SimpleNamespace(rounds=0)))


def test_each_model_is_asked_about_the_pool_with_its_own_weights(place, monkeypatch) -> None:
    asked, measured, beginnings, ask = [], [], [], guard._asked

    def remembering(method, untrained, data, trainer):
        asked.append(({key: value.clone() for key, value in method.state_dict().items()}, method.model.null))
        beginnings.append(untrained.model.backbone.state_dict())
        measured.append(ask(method, untrained, data, trainer))
        poses = pool_poses(method, data.pool_dataloader())  # so small a pool is asked whole
        margin = label_margin(untrained, data.pool_dataloader(), poses, data.anchor_dataloader())
        assert torch.equal(measured[-1]["label_margin"], margin) and len(margin) == 4
        assert torch.equal(measured[-1]["mirror_agreement"], mirror_agreement(poses))
        return measured[-1]

    monkeypatch.setattr(guard, "_asked", remembering)
    words = ("--model.match.final_calibration", "robust")
    fit(place, "NVSM", "asked", "--guard", str(place / "nemo" / "checkpoints" / "last.ckpt"), *words)
    told = json.loads((place / "asked" / "guard.json").read_text())
    for name, found in zip(("em", "labelled_only"), measured, strict=True):
        assert told[name] == pytest.approx({what: float(each.double().mean()) for what, each in found.items()})
    scores = {what: standard_score(each, measured[1][what]) for what, each in measured[0].items()}
    assert told["standard_errors_for_em"] == scores
    assert told["kept"] == ("labelled_only" if sum(scores.values()) < 0 else "em")
    em = place / "asked" / "checkpoints" / ("em.ckpt" if told["kept"] == "labelled_only" else "last.ckpt")
    for (state, _), path in zip(asked, (em, place / "nemo" / "checkpoints" / "last.ckpt"), strict=True):
        saved = {key: value for key, value in weights(path).items() if key.startswith("model.")}
        assert saved and all(torch.equal(state[key], value) for key, value in saved.items())
    assert asked[0][1] is not None and asked[1][1] is None  # the null is of EM's scores
    trained = {key.removeprefix("model.backbone."): value for key, value in asked[0][0].items()}
    head = next(key for key in beginnings[0] if key.startswith("head"))
    assert torch.equal(beginnings[0][head], beginnings[1][head])  # the untrained network is neither's
    assert not torch.equal(beginnings[0][head], trained[head])


def test_the_guard_trains_the_other_model_itself_if_it_is_asked_to(place, monkeypatch) -> None:
    monkeypatch.setattr(guard, "run_jobs", lambda jobs, run: lightning_cli.run(list(command_of(jobs[0], run))[3:]))
    answer(monkeypatch, 0.1, 0.9)
    fit(place, "NVSM", "by_itself", "--guard", "fit")
    other = place / "by_itself" / "labelled_only"
    told = json.loads((place / "by_itself" / "guard.json").read_text())
    assert told["kept"] == "labelled_only" and told["compared_with"] == str(other / "checkpoints" / "last.ckpt")
    assert json.loads((other / "results.json").read_text())["method"] == "nemo"
    assert poses(place / "by_itself") == poses(other)


def test_what_cannot_be_compared_ends_before_the_fit_or_says_why(place) -> None:
    with pytest.raises(ConfigError, match="there is no nowhere"):
        fit(place, "NVSM", "no", "--guard", "nowhere")
    with pytest.raises(ConfigError, match=r"data\.mirror false"):
        fit(place, "NVSM", "no", "--guard", "fit", "--data.mirror", "false")
    with pytest.raises(WeightsError, match="another network or mesh"):
        fit(place, "NVSM", "no", "--guard", str(place / "nemo"), "--model.mesh.vertices", "150")


def test_the_labelled_only_fit_has_this_runs_settings_and_none_of_its_processes(place, monkeypatch, tmp_path) -> None:
    seen = {}

    def run_jobs(jobs, folder):
        seen.update(command=command_of(jobs[0], folder), rank=os.environ.get("LOCAL_RANK"))

    monkeypatch.setattr(guard, "run_jobs", run_jobs)
    monkeypatch.setenv("LOCAL_RANK", "0")
    guard.fit_labelled_only(tmp_path, SimpleNamespace(anchors="kmeans"))
    assert seen["rank"] is None and os.environ["LOCAL_RANK"] == "0"
    words = seen["command"]
    assert str(tmp_path / "config.yaml") in words and words[-1] == str(tmp_path / "labelled_only")
    assert words[words.index("--data.anchors") + 1] == f"manual:{tmp_path}/tables/labels.txt"  # not chosen anew
    fit(place, "NVSM", "own")
    lightning_cli.run(["fit", "--config", str(place / "own" / "config.yaml"), "--config",
                       str(tmp_path / "labelled_only.yaml"), "--run_dir", str(tmp_path / "run")])  # fmt: skip
    assert json.loads((tmp_path / "run" / "results.json").read_text())["method"] == "nemo"
