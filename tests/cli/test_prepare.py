import json

import pytest
from small_run import write_pictures

from nvsm_lightning.cli import prepare
from nvsm_lightning.cli.main import main
from nvsm_lightning.data import CropSpec, PoseCSV
from nvsm_lightning.data.pascal3d import Pascal3D


def test_the_embedded_set_is_made_and_can_be_read(tmp_path, capsys, monkeypatch):
    words = ["prepare", "toy", "--root", str(tmp_path / "toy"), "--train", "6", "--test", "3", "--seed", "4"]
    assert main(words) == 0
    assert "6 train and 3 test pictures" in capsys.readouterr().out
    assert json.loads((tmp_path / "toy" / "toy.json").read_text())["seed"] == 4
    data = Pascal3D(root=str(tmp_path / "toy"), labels=3)
    data.setup("fit")
    assert len(data.test) == 3


@pytest.mark.parametrize("name", prepare.SETS)
def test_every_other_set_is_explained_with_source_layout_and_the_check(name, capsys):
    assert main(["prepare", name]) == 0
    text = capsys.readouterr().out
    assert prepare.SETS[name][1] in text
    assert "--check" in text


def test_a_check_reads_and_counts(tmp_path, capsys):
    write_pictures(tmp_path, 24)
    assert main(["prepare", "csv", "--root", str(tmp_path), "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["labelled", "7", "pictures"]
    assert [line.split()[1] for line in lines[2:5]] == ["1", "8", "8"]
    assert "azimuth 0 45 ... 315: 1 1 1 1 1 1 1 1" in lines[4]  # the eight test pictures are spread evenly


def test_a_check_of_eth80_is_of_its_horses(tmp_path, capsys):
    write_pictures(tmp_path, 3)
    (tmp_path / "eth80").mkdir()
    for horse, source in zip((1, 6, 8), sorted(tmp_path.glob("*.jpg")), strict=True):
        for view in ("090-000", "090-090", "068-180"):
            (tmp_path / "eth80" / f"horse{horse}-{view}.jpg").write_bytes(source.read_bytes())
    assert main(["prepare", "eth80", "--root", str(tmp_path / "eth80"), "--check", "--labels", "2"]) == 0
    assert "labelled      2 pictures (2 own camera)" in capsys.readouterr().out


def test_a_check_cuts_all_pictures_into_a_cache_that_a_fit_takes(tmp_path, capsys, monkeypatch):
    write_pictures(tmp_path / "set", 24)
    crop = ["--data.crop.height", "32", "--data.crop.width", "64", "--data.crop.pixels_per_unit", "50"]
    words = ["--data.crop_cache", str(tmp_path / "cache"), *crop]
    assert main(["prepare", "csv", "--root", str(tmp_path / "set"), "--check", *words]) == 0
    out = capsys.readouterr().out
    assert "crops of 32 x 64 pixels" in out and f"24 crops in {tmp_path / 'cache'}" in out
    data = PoseCSV(str(tmp_path / "set"), crop=CropSpec(32, 64, 50.0), crop_cache=str(tmp_path / "cache"))
    monkeypatch.setattr("nvsm_lightning.data.datasets.canonical_crop", None)  # nothing is decoded
    data.setup("fit")
    assert sum(len(batch["index"]) for batch in data.pool_dataloader()) == len(data.pool) > 0


def test_a_check_says_what_a_fit_would_meet(tmp_path, capsys):
    assert main(["prepare", "csv", "--root", str(tmp_path), "--check"]) == 2
    assert "labels.csv does not exist" in capsys.readouterr().err
    assert main(["prepare", "csv", "--check"]) == 2
    assert "--root" in capsys.readouterr().err


def test_a_set_for_testing_alone_can_be_checked_and_looked_at(tmp_path, capsys):
    table = write_pictures(tmp_path, 24) / "labels.csv"
    table.write_text(table.read_text().replace(",train", ",test").replace(",val", ",test"))
    words = ["--root", str(tmp_path), "--check", "--sheet", str(tmp_path / "sheet.png")]
    assert main(["prepare", "csv", *words]) == 0
    out = capsys.readouterr().out
    assert "test         24 pictures" in out and (tmp_path / "sheet.png").is_file()


def test_an_unknown_set_is_refused_with_a_suggestion(capsys):
    assert main(["prepare", "pascal3"]) == 2
    assert "Did you mean 'pascal3d'?" in capsys.readouterr().err


def test_underscores_do_as_well(capsys):
    assert main(["prepare", "epfl_cars"]) == 0
