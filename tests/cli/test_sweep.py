from pathlib import Path

import pytest
import yaml

from nvsm_lightning.bench import trials
from nvsm_lightning.bench.sweep_file import read_sweep
from nvsm_lightning.cli import lightning_cli, sweep
from nvsm_lightning.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_parameters_as_wandb_writes_them_reach_their_settings(file, monkeypatch):
    class Parsed(Exception):
        pass

    def stop(self):
        raise Parsed(self.config[self.subcommand])

    monkeypatch.setattr(lightning_cli.NVSMCLI, "instantiate_classes", stop)
    monkeypatch.chdir(REPOSITORY)
    read = read_sweep(str(file))
    for trial in read.trials()[:: max(1, len(read.trials()) - 1)]:  # the first and the last
        words = read.arguments(trial)
        assert all(f"--{name}={value}" in words for name, value in trial.items())
        with pytest.raises(Parsed) as parsed:
            lightning_cli.run(["fit", *words])
        config = parsed.value.args[0]
        assert config["data.init_args.test_on"] == "val"
        for name, value in trial.items():
            place, key = name.replace("model.", "model.init_args.", 1).rsplit(".", 1)
            assert getattr(config[place], key) == value


def test_a_wrong_parameter_ends_the_sweep_before_its_first_fit(tmp_path, capsys, monkeypatch):
    content = yaml.safe_load(SHIPPED[0].read_text())
    content["parameters"] = {"model.selection.gates": {"values": ["margin"]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(trials, "run_jobs", lambda *arguments: pytest.fail("a fit was begun"))
    assert main(["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "--selection.gates=margin. Did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the sweep file comes first"),
        (["gone.yaml"], "there is no file gone.yaml"),
        ([str(SHIPPED[0]), "--run_dir", "x"], "--run_dir is set by the sweep itself"),
        ([str(SHIPPED[0]), "--data.test_on=test"], "--data.test_on is set by the sweep itself"),
        ([str(SHIPPED[0]), "--engine", "wandb", "--run_dir", "x"], "--run_dir is set by the sweep itself"),
        ([str(SHIPPED[0]), "--engine", "wandb", "--out", "x"], "--out: of --engine local only"),
        ([str(SHIPPED[0]), "--model.selection.gate", "margin"], "--model.selection.gate is swept"),
    ],
)
def test_misuse_gives_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "run_jobs", lambda *arguments: pytest.fail("a fit was begun"))
    assert main(["sweep", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_server_of_wandb_needs_an_account_and_says_so(monkeypatch, capsys):
    import wandb

    def no_account(content, entity, project):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "sweep", no_account)
    monkeypatch.setattr(sweep.shutil, "which", lambda name: name)
    assert main(["sweep", str(SHIPPED[0]), "--engine", "wandb"]) == 2
    told = capsys.readouterr().err
    assert "did not take the sweep" in told and "`wandb login`" in told
    assert "--engine local runs the same file" in told


@pytest.mark.parametrize("entity", [None, "a_team"])
def test_the_server_gets_the_file_with_further_options_in_its_command(entity, monkeypatch, tmp_path):
    import wandb

    taken = {}
    monkeypatch.setattr(wandb, "sweep", lambda content, **owner: taken.update(content=content, owner=owner) or "id")
    monkeypatch.setattr(wandb, "agent", lambda name, count, **owner: taken.update(agent=(name, owner, count)))
    monkeypatch.setattr(sweep.shutil, "which", lambda name: name)
    content = yaml.safe_load(SHIPPED[0].read_text()) | ({"entity": entity} if entity else {})
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--engine", "wandb", "--count", "3", "--data.root", "X"]
    assert main(words) == 0
    assert taken["content"] == {**content, "command": [*content["command"][:-1], "--data.root", "X", "${args}"]}
    assert taken["owner"] == {"entity": entity, "project": content["project"]}
    assert taken["agent"] == ("id", taken["owner"], 3)
