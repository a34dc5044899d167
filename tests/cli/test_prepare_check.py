"""What ``nvsm prepare NAME --check`` says of whole, damaged and absent published data sets."""

from pathlib import Path

import pytest

from nvsm_lightning.cli.main import main
from nvsm_lightning.cli.prepare import SETS


@pytest.fixture
def layouts(monkeypatch):
    """The writers of ``tests/data/published_layouts.py``."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "data"))
    import published_layouts

    return published_layouts


def checked(name: str, root: Path, *more: str) -> int:
    return main(["prepare", name, "--root", str(root), "--check", *more])


def test_kitti_has_a_table_of_contents(layouts, tmp_path, capsys):
    root = layouts.write_kitti(tmp_path / "kitti")
    assert checked("kitti", root, "--data.min_side", "20") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("22 objects in 11 pictures") and lines[1] == "contents:"
    rows = [tuple(line.replace("objects; azimuth 0 45 ... 315:", "").split()) for line in lines[2:10]]
    assert ("car", "test", "fully", "visible", "4") in {row[:5] for row in rows}
    assert sum(int(line.split(" objects")[0].split()[-1]) for line in lines if " objects; " in line) == 22
    assert "left out: 1 listed frames that are not there; the first: 000006" in lines
    assert "damaged: none" in lines
    fit = lines[lines.index("as a fit takes it:") + 1 :]
    assert [line.split()[:2] for line in fit[:2]] == [["labelled", "7"], ["pool", "5"]]
    assert fit[-1] == "  crops of 160 x 384 pixels"


def test_damage_is_listed_and_the_rest_is_counted(layouts, tmp_path, capsys):
    root = layouts.write_pascal3d(tmp_path / "release")
    cut = root / "Images/car_imagenet/n02814530_0009.JPEG"  # of the test part
    cut.write_bytes(cut.read_bytes()[:-200])
    (root / "Annotations/car_imagenet/n02814531_0001.mat").write_bytes(b"<html>404</html>")
    assert checked("pascal3d", root, "--data.filter", "none", "--data.source", "both") == 2
    written = capsys.readouterr()
    assert "damaged: 2" in written.out
    assert "n02814530_0009.JPEG cannot be decoded" in written.out and "n02814531_0001.mat cannot be read" in written.out
    assert "a fit would stop: 1 pictures with a pose are damaged" in written.out
    assert "2 damaged; restore them" in written.err


def test_masks_are_looked_at_and_all_categories_can_be_counted(layouts, tmp_path, capsys):
    pascal = layouts.write_pascal3d(tmp_path / "release")
    occluded = layouts.write_occluded(tmp_path / "occluded", pascal)
    words = ("--category", "all", "--data.occluded_root", str(occluded))
    assert checked("occluded-pascal3d", pascal, *words) == 0
    text = capsys.readouterr().out
    assert "FGL1_BGL1" in text and "1 not usable in the val list" in text and "as a fit takes it" not in text
    mask = next(occluded.rglob("*.npz"))
    mask.write_bytes(mask.read_bytes()[:-200])
    assert checked("occluded-pascal3d", pascal, *words) == 2
    assert f"{mask.name} cannot be read" in capsys.readouterr().out


def test_too_few_pictures_for_a_fit_are_no_damage(layouts, tmp_path, capsys):
    root = layouts.write_objectnet(tmp_path / "ObjectNet3D")
    assert checked("objectnet3d", root, "--category", "bed", "--labels", "50") == 0
    assert "a fit would stop: 50 labels were asked for" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pascal3d", "occluded-pascal3d", "objectnet3d", "kitti"])
def test_of_an_absent_set_it_is_said_where_it_is_had_and_what_to_do(name, tmp_path, capsys):
    assert checked(name, tmp_path / "nowhere") == 2
    written = capsys.readouterr()
    assert SETS[name][1] in written.out and "what to do:\n  - " in written.out
    assert "does not exist" in written.err
