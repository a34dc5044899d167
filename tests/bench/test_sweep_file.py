import math
import random
import statistics
from pathlib import Path

import pytest
import yaml

from nvsm_lightning.bench.sweep_file import draw, grid_values, read_sweep
from nvsm_lightning.errors import ConfigError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs" / "sweeps").glob("*.yaml"))
COMMAND = ["nvsm", "fit", "--config", "a.yaml", "${args}"]
GRID = {"method": "grid", "command": COMMAND, "parameters": {"a.b": {"values": [1, 2]}, "c": {"value": "x"}}}


@pytest.fixture
def read(tmp_path):
    """``read(**changes)``: the grid above with other keys (None: without), read as a file."""

    def reading(**changes):
        content = {key: value for key, value in {**GRID, **changes}.items() if value is not None}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_sweep(str(path))

    return reading


def test_a_grid_is_every_combination(read):
    sweep = read(parameters={"a": {"values": [1, 2]}, "b": {"min": 3, "max": 5}, "c": {"value": True}})
    assert [tuple(trial.values()) for trial in sweep.trials()] == [(a, b, True) for a in (1, 2) for b in (3, 4, 5)]
    assert len(sweep.trials(4)) == 4
    assert (sweep.metric, sweep.maximize) == ("val/acc_pi_6", True)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_wandb_starts_the_very_command_that_is_run_here(file):
    """With W&B's own reading of the file and its own expansion of ``${args}``."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")  # not public: an upgrade may move it
    sweep, content = read_sweep(str(file)), utils.load_sweep_config(str(file))
    for trial in sweep.trials():
        assert trial.keys() == content["parameters"].keys()
        flags = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in trial.items()}})
        words = []
        for word in utils.create_sweep_command(list(content["command"])):
            words += flags[word[2:-1]] if word.startswith("${") else [word]
        assert tuple(words) == ("nvsm", "fit", *sweep.arguments(trial))


def test_random_trials_depend_on_their_number_alone_and_occur_once(read):
    sweep = read(method="random", parameters={"a": {"min": 0.0, "max": 1.0}, "b": {"values": ["x", "y"]}})
    trials = sweep.trials(6, seed=1)
    assert sweep.trials(3, seed=1) == trials[:3]
    assert sweep.trials(3, seed=2) != trials[:3]
    few = read(method="random", run_cap=50, parameters={"a": {"values": [1, 2, 3]}}).trials()
    assert sorted(trial["a"] for trial in few) == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "low", "high", "middle"),
    [
        ({"distribution": "uniform", "min": 1, "max": 3}, 1, 3, 2),
        ({"min": 1, "max": 3}, 1, 3, 2),
        ({"distribution": "log_uniform", "min": 0.0, "max": 2.0}, 1, math.exp(2), math.e),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, 1e-4, 1e-2, 1e-3),
        ({"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}, 0, 1, 0.5),
        ({"distribution": "normal", "mu": 5.0, "sigma": 2.0}, -math.inf, math.inf, 5),
        ({"distribution": "log_normal", "mu": 1.0, "sigma": 0.5}, 0, math.inf, math.e),
    ],
    ids=lambda value: str(value.get("distribution")) if isinstance(value, dict) else "",
)
def test_distributions_have_their_ends_and_their_median(read, settings, low, high, middle):
    settings = read(method="random", parameters={"a": settings}).parameters["a"]
    source = random.Random(0)
    values = sorted(draw(settings, source) for _ in range(4001))
    assert low <= values[0] and values[-1] <= high
    assert values[2000] == pytest.approx(middle, rel=0.06)
    if math.isfinite(high):  # it goes to its ends
        assert values[0] <= low + 0.02 * (middle - low) and values[-1] >= high - 0.02 * (high - middle)
    if settings["distribution"] == "normal":
        assert statistics.stdev(values) == pytest.approx(2, rel=0.05)
    if settings["distribution"] == "log_normal":
        assert statistics.stdev(map(math.log, values)) == pytest.approx(0.5, rel=0.05)
    if "q" in settings:
        assert set(values) == {0, 0.25, 0.5, 0.75, 1}


def test_probabilities_weigh_values(read):
    parameters = {"a": {"values": ["x", "y"], "probabilities": [0.9, 0.1]}}
    settings = read(method="random", parameters=parameters).parameters["a"]
    source = random.Random(0)
    assert sum(draw(settings, source) == "x" for _ in range(1000)) == pytest.approx(900, abs=40)
    with pytest.raises(ConfigError, match="a grid needs values"):
        grid_values("a", settings)


def test_a_quantised_parameter_on_a_grid_stops_before_its_upper_end():
    assert grid_values("a", {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5}) == [0.0, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes"}, "'bayes' needs the server of Weights & Biases: --engine wandb"),
        ({"method": "grind"}, "The local engine knows grid and random"),
        ({"metric": {"name": "test/acc_pi_6", "goal": "maximize"}}, "not of the validation part"),
        ({"metric": {"name": "em/precision_30", "goal": "maximize"}}, "not of the validation part"),
        ({"metric": {"name": "val/acc_pi_6", "goal": "up"}}, "goal: maximize or minimize"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 3}},
            "'early_terminate' is nothing the local engine knows",
        ),
        ({"command": None}, "must be that of a fit"),
        ({"command": ["nvsm", "fit"]}, "must be that of a fit"),
        ({"command": ["nvsm", "fit", "${args_json_file}", "${args}"]}, r"\$\{args_json_file\} in the command"),
        ({"parameters": {}}, "names no parameter"),
        ({"parameters": {"a": 3}}, r"a: expected `\{values"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "one dotted name"),
        ({"parameters": {"a": {"values": 3}}}, "must be a list"),
        ({"parameters": {"a": {"min": 3}}}, "int_uniform|uniform lacks max"),
        ({"parameters": {"a": {"min": 3, "max": 3}}}, "min 3 is not below max 3"),
        ({"parameters": {"a": {"min": "1e-5", "max": 1e-3}}}, "min '1e-5' is no number"),
        ({"parameters": {"a": {"values": [1], "q": 2}}}, "categorical has q"),
        ({"parameters": {"a": {"distribution": "beta"}}}, "'beta' is not known here"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [1]}}}, "one probability for each value"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": 1}}}, "one probability for each value"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [0, 0]}}}, "none below 0 and not all 0"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": ["a", 1]}}}, "probabilities must be numbers"),
        ({"parameters": {"a": {"distribution": "int_uniform", "min": 1.0, "max": 3}}}, "needs whole numbers"),
        ({"parameters": {"a": {"distribution": "q_uniform", "min": 0, "max": 3, "q": 0}}}, "q 0 is no step"),
        ({"parameters": {"a": {"distribution": "normal", "mu": "0", "sigma": 1}}}, "mu '0' is no number"),
        ({"run_cap": "ten"}, "run_cap 'ten' is no number of trials"),
        ({"run_cap": 0}, "run_cap 0 is no number of trials"),
    ],
)
def test_what_cannot_be_run_here_is_refused_with_a_reason(read, changes, message):
    with pytest.raises(ConfigError, match=message):
        read(**changes)


def test_a_random_sweep_wants_a_bound_and_a_grid_wants_values(read):
    with pytest.raises(ConfigError, match="--count N, or run_cap"):
        read(method="random").trials()
    with pytest.raises(ConfigError, match="a: a grid needs values; uniform has none"):
        read(parameters={"a": {"min": 0.0, "max": 1.0}}).trials()


def test_a_file_that_is_not_there_or_no_sweep(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        read_sweep(str(tmp_path / "gone.yaml"))
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="a sweep file needs `method:`"):
        read_sweep(str(tmp_path / "list.yaml"))
