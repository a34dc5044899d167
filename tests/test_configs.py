"""Every shipped configuration is read by the real command line, in every combination that the README offers."""

import itertools
from pathlib import Path

import pytest
import torch

from nvsm_lightning.bench.study import read_folds, read_variants
from nvsm_lightning.cli import lightning_cli
from nvsm_lightning.cli.left_out import left_out
from nvsm_lightning.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = {
    folder: sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))
    for folder in ("datasets", "methods", "hardware", "folds", "ablations", "sweeps", "options")
}
READERS = {
    "toy": "ToyCars",
    "epfl_cars": "EPFLCars",
    "stanford_cars": "StanfordCars",
    "csv": "PoseCSV",
    "pascal3d": "Pascal3D",
    "occluded_pascal3d": "OccludedPascal3D",
    "objectnet3d": "ObjectNet3D",
    "kitti": "KITTI",
    "eth80": "ETH80",
}
FULL_SIZE = ("pascal3d", "occluded_pascal3d", "objectnet3d")


@pytest.fixture
def parse(monkeypatch):
    """Parse words as ``nvsm`` would, without building or running anything; returns the settings of the command."""

    def parsed(*words):
        seen = {}

        class Stop(Exception):
            pass

        def stop(self):
            seen["config"] = self.config[self.subcommand]
            raise Stop

        monkeypatch.setattr(lightning_cli.NVSMCLI, "instantiate_classes", stop)
        with pytest.raises(Stop):
            lightning_cli.run(list(words))
        return seen["config"]

    return parsed


def files(*names):
    return [word for name in names for word in ("--config", str(CONFIGS / f"{name}.yaml"))]


def test_every_file_is_covered():
    listed = {f"{folder}/{name}" for folder, names in NAMES.items() for name in names} | {"car_7shot"}
    assert {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml")} == listed
    assert set(NAMES["datasets"]) == set(READERS)


@pytest.mark.parametrize(("data", "method"), list(itertools.product(NAMES["datasets"], NAMES["methods"])))
def test_data_and_method_combine(parse, data, method):
    config = parse("fit", *files("car_7shot", f"datasets/{data}", f"methods/{method}"))
    assert config["data"]["class_path"].endswith(READERS[data])
    assert config["model"]["class_path"].rsplit(".", 1)[-1].lower() == method.replace("_", "")
    assert (config["trainer.em"].rounds > 0) == (method == "nvsm")
    assert config["data.init_args.labels"] == 7
    if method == "nvsm":  # the file of the method leaves the data set's schedule, as benches stack both
        alone = parse("fit", *files("car_7shot", f"datasets/{data}"))
        assert config["trainer.em"] == alone["trainer.em"]
    network = "small" if data == "toy" else "resnet50" if data in FULL_SIZE else "resnet18"
    assert config["model.init_args.backbone"].name == network  # survives the change of the method
    cuboid = 400 if data == "toy" else 1000 if data in FULL_SIZE else 600
    assert config["model.init_args.mesh"].vertices == cuboid
    if "learning_rate" in config["model.init_args"]:
        tuned = data in ("toy", "epfl_cars", "stanford_cars", "csv")
        assert config["model.init_args.learning_rate"] == (3e-4 if tuned else 1e-4)


@pytest.mark.parametrize("method", sorted(set(NAMES["methods"]) - {"nvsm"}))
def test_every_method_takes_the_weight_file_that_a_bench_gives_to_all(parse, method):
    words = ("--model.backbone.weights", "file.pt", "--model.mesh.vertices", "80")
    config = parse("fit", *files("car_7shot", "datasets/stanford_cars", f"methods/{method}"), *words)
    assert config["model.init_args.backbone"].weights == "file.pt"


RIVALS = sorted(set(NAMES["methods"]) - {"nvsm", "nemo"})


@pytest.mark.parametrize("method", RIVALS)
def test_settings_that_a_method_lacks_are_named_and_not_dropped_in_silence(parse, method):
    names = ("car_7shot", "datasets/stanford_cars", f"methods/{method}")
    missing = left_out([str(CONFIGS / f"{name}.yaml") for name in names], parse("fit", *files(*names))["model"])
    trained = method not in ("nearest", "prior", "random")
    rates = [] if trained else ["learning_rate", "milestones"]
    assert missing == [*rates[:1], "space", *rates[1:], "match", "selection", "solver"]


@pytest.mark.parametrize(("method", "expected"), [("nemo", ["match", "selection"]), ("nvsm", [])])
def test_nemo_and_nvsm_lack_nothing_but_the_e_step(parse, method, expected):
    names = ("car_7shot", "datasets/stanford_cars", f"methods/{method}")
    assert (
        left_out([str(CONFIGS / f"{name}.yaml") for name in names], parse("fit", *files(*names))["model"]) == expected
    )


@pytest.mark.parametrize("method", RIVALS)
def test_what_a_method_lacks_is_refused_on_the_command_line_and_in_files_after_its_own(method, capsys):
    with pytest.raises(SystemExit):
        lightning_cli.run(["fit", *files("car_7shot", f"methods/{method}"), "--model.solver.steps", "3"])
    assert "unrecognized arguments: --solver.steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        lightning_cli.run(["fit", *files("car_7shot", f"methods/{method}", "datasets/csv")])
    assert "give the file that chooses" in capsys.readouterr().err


@pytest.mark.parametrize("hardware", NAMES["hardware"])
def test_hardware_combines(parse, hardware):
    config = parse("fit", *files("car_7shot", f"hardware/{hardware}"))
    assert config["trainer.accelerator"] == ("gpu" if hardware == "gpu" else "cpu")
    assert config["trainer.devices"] == (2 if hardware == "ddp" else 1)


def test_the_names_that_users_type_reach_their_settings(parse):
    words = (
        "--data.root",
        "here",
        "--model.backbone.weights",
        "file.pt",
        "--trainer.em.rounds",
        "2",
        "--seed_everything",
        "5",
    )
    more = ("--data.test_root", "there", "--data.labels", "20", "--run_dir", "out", "--data.category", "car")
    config = parse("fit", *files("car_7shot", "datasets/epfl_cars"), *words, *more)
    assert config["data.init_args.root"] == "here"
    assert config["data.init_args.test_root"] == "there"
    assert config["data.init_args.labels"] == 20
    assert config["model.init_args.backbone"].weights == "file.pt"
    assert config["trainer.em"].rounds == 2
    assert config["seed_everything"] == 5
    assert config["model.init_args.category"] == "car"
    assert config["run_dir"] == "out"


def test_the_moving_average_joins_the_other_callbacks(parse):
    plain, averaged = (parse("fit", *files("car_7shot", *more))["trainer.callbacks"] for more in ((), ("options/ema",)))
    names = [callback["class_path"].rsplit(".", 1)[-1] for callback in averaged]
    assert names == [*(callback["class_path"].rsplit(".", 1)[-1] for callback in plain), "MovingAverage"]


def test_a_further_pool_is_a_data_set_of_its_own(parse):
    names = ("car_7shot", "datasets/epfl_cars", "options/extra_pool_stanford")
    plain = parse("fit", *files(*names))["data.init_args"]
    assert [source.class_path.rsplit(".", 1)[-1] for source in plain.extra_pool] == ["StanfordCars"]
    assert plain.root == "data/epfl_cars" and plain.extra_pool[0].init_args.root == "data/stanford_cars"
    words = ("--data.extra_pool+=StanfordCars", "--data.extra_pool.root", "here", "--data.extra_pool.pool_limit", "9")
    typed = parse("fit", *files(*names[:2]), *words)["data.init_args.extra_pool"]
    assert typed[0].init_args.root == "here" and typed[0].init_args.pool_limit == 9


@pytest.mark.parametrize("name", NAMES["ablations"])
def test_every_option_of_an_ablation_is_understood(name, parse):
    variants = read_variants(str(CONFIGS / "ablations" / f"{name}.yaml"))
    # All at once, which is quick: every name and value is checked as it is read.
    words = [word for options in variants.values() for word in options]
    assert (
        parse("fit", *files("car_7shot"), *words)["model"].as_dict()
        != parse("fit", *files("car_7shot"))["model"].as_dict()
    )
    assert len(set(variants.values())) == len(variants), "two variants are the same"


@pytest.mark.parametrize("name", NAMES["folds"])
def test_every_fold_is_understood(name, parse):
    folds = [
        parse("fit", *files("car_7shot", f"datasets/{name}"), *fold)
        for fold in read_folds(f"{CONFIGS}/folds/{name}.yaml")
    ]
    tests = [tuple(fold["data.init_args.test_sequences"]) for fold in folds]
    assert len(set(tests)) == len(folds)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_other_commands_read_the_same_files(parse, command, tmp_path):
    torch.save({"hyper_parameters": {"_class_path": "nvsm_lightning.methods.NVSM"}}, tmp_path / "last.ckpt")
    words = ["--ckpt_path", str(tmp_path / "last.ckpt")]
    assert parse(command, *files("car_7shot"), *words)["model"]["class_path"].endswith("NVSM")
    with pytest.raises(ConfigError, match=f"nvsm {command} needs a trained model: --ckpt_path"):  # before anything else
        parse(command, *files("car_7shot"))


@pytest.mark.parametrize(
    ("labels", "method", "warmup", "epochs"),
    [(7, "nvsm", 0, 20), (19, "nvsm", 0, 20), (20, "nvsm", 6, 26), (50, "nemo", 0, 20)],
)
def test_many_labels_are_trained_on_before_the_first_e_step(parse, monkeypatch, labels, method, warmup, epochs):
    words = ["--data.labels", str(labels)]
    config = parse("fit", *files("car_7shot", "datasets/stanford_cars", f"methods/{method}"), *words)
    said: list[str] = []
    monkeypatch.setattr(lightning_cli, "rank_zero_info", said.append)
    for _ in range(2):  # the configuration that a run keeps asks for no more
        lightning_cli.NVSMCLI._warm_up(config)
        assert (config["trainer.em.warmup_epochs"], config["trainer.max_epochs"]) == (warmup, epochs)
    assert bool([text for text in said if f"{labels} labelled pictures" in text]) == (warmup > 0)
