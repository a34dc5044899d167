"""Every command of the README exists: `nvsm` lines are parsed by the real command line, targets are in the Makefile."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from nvsm_lightning.bench import finished, kitti, occlusion, speed, study, trials, unseen_views
from nvsm_lightning.cli import doctor, label_sheet, lightning_cli, prepare, prepare_mesh, prepare_occluded
from nvsm_lightning.cli.main import COMMANDS
from nvsm_lightning.data.pose_csv import read_table

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


LINES = [line for block in blocks("bash") for line in block.splitlines()]
NVSM = [line for line in LINES if line.startswith("nvsm ")]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
MADE = [re.sub(r"\$\(\w+\)", "1", line) for line in re.findall(r"@\$\(BIN\)/(nvsm (?:prepare|fit) .*)", MAKEFILE)]


def test_the_readme_has_commands_and_all_are_of_a_known_kind():
    assert len(NVSM) > 10 and len(MADE) >= 2
    others = [line for line in LINES if line not in NVSM]
    assert all(
        re.match(r"make |source \.venv/bin/activate$|pip install --no-build-isolation git\+", line) for line in others
    )


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.M))
    for line in LINES:
        if line.startswith("make "):
            assert line.split()[1] in targets


@pytest.mark.parametrize("line", NVSM + MADE)
def test_nvsm_lines_are_understood(line, monkeypatch, tmp_path):
    words = shlex.split(line)[1:]
    assert words[0] in COMMANDS
    monkeypatch.chdir(REPOSITORY)
    if words[0] == "prepare":
        calls = []
        monkeypatch.setattr("nvsm_lightning.toy.dataset.make_toy", lambda root, **settings: calls.append(root))
        monkeypatch.setattr(prepare, "check", lambda data: calls.append(data) or [])
        monkeypatch.setattr(label_sheet, "label_sheet", lambda data, file: "")
        monkeypatch.setattr(prepare_occluded, "make", lambda out, *_: calls.append(out) or [])
        monkeypatch.setattr(prepare_occluded, "keep", lambda part, out: None)
        monkeypatch.setattr(prepare_mesh, "read_cad", lambda path: {})
        monkeypatch.setattr(prepare_mesh, "save", lambda out, meshes, models: calls.append(out) or [])
        assert prepare.run(words) == 0
        assert calls
    elif words[0] in ("bench", "sweep"):
        jobs = []
        for module in (study, trials, finished):
            monkeypatch.setattr(module, "run_jobs", lambda these, *rest: jobs.extend(these) or stop())
        monkeypatch.setattr(
            kitti, "find_runs", lambda folders: [(folder, {"dataset": "cars", "part": "test"}) for folder in folders]
        )
        monkeypatch.setattr(unseen_views, "write_lists", lambda folder, *rest: (folder / "seen.txt", 7))
        monkeypatch.setattr(occlusion, "make_level", lambda *_: None)
        monkeypatch.setattr(speed, "measurers", lambda: {"raster": lambda budget: jobs.append(budget) or stop()})
        with pytest.raises(Stop):
            importlib.import_module(COMMANDS[words[0]][0]).run(words)
        assert jobs
    elif words[0] == "doctor":
        monkeypatch.setattr(doctor, "versions", lambda: iter([(True, "")]))
        for name in ("devices", "engines", "weights"):
            monkeypatch.setattr(doctor, name, lambda: iter(()))
        assert doctor.run(words) == 0
    else:
        run = finished_run(tmp_path)
        parse([word.replace("RUN", str(run)) for word in words], monkeypatch)


class Stop(Exception):
    """Ends a command where its work would begin."""


def stop(*arguments):
    raise Stop


def finished_run(folder: Path) -> Path:
    """What the README calls RUN: a folder with a configuration and a checkpoint."""
    import torch

    (folder / "checkpoints").mkdir()
    torch.save(
        {"hyper_parameters": {"_class_path": "nvsm_lightning.methods.NVSM"}}, folder / "checkpoints" / "last.ckpt"
    )
    config = yaml.safe_load((REPOSITORY / "configs" / "car_7shot.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse as ``nvsm`` would and stop before anything is built."""

    class Parsed(Exception):
        pass

    def stop(self):
        raise Parsed

    monkeypatch.setattr(lightning_cli.NVSMCLI, "instantiate_classes", stop)
    with pytest.raises(Parsed):
        importlib.import_module(COMMANDS[words[0]][0]).run(words)


def test_the_table_of_poses_in_the_readme_can_be_read(tmp_path):
    (tmp_path / "labels.csv").write_text(blocks("csv")[0])
    rows = read_table(tmp_path / "labels.csv", required=("file", "azimuth_deg", "elevation_deg", "theta_deg"))
    assert len(rows) == 4
    columns = set(rows[0][1])
    described = set(
        re.findall(r"`([a-z0-9_ ]+)`", "".join(line.split("|")[1] for line in README.splitlines() if line[:2] == "| "))
    )
    assert columns <= {name for words in described for name in words.split()}


def test_no_path_of_one_machine_is_written_down():
    assert not re.search(r"/(home|root|work|tmp|Users)/", README)
