"""The sheet of labelled pictures that ``nvsm prepare NAME --sheet`` draws."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nvsm_lightning.cli import label_sheet
from nvsm_lightning.cli.main import main
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import DataError


@pytest.fixture
def records(tmp_path):
    """Labelled pictures of grey, azimuths from 0 on."""

    def make(count: int, name: str, viewpoint: bool = True) -> list[Record]:
        made = []
        for number in range(count):
            path = tmp_path / f"{name}_{number}.png"
            Image.new("RGB", (60, 40), (90, 90, 90)).save(path)
            pose = (0.7 * number % 6.2, 0.1, 0.0) if viewpoint else None
            made.append(Record(path, path.name, "car", "train", pose, box=(5.0, 5.0, 55.0, 35.0)))
        return made

    return make


def data_of(labelled=(), pool=(), val=(), test=()) -> SimpleNamespace:
    return SimpleNamespace(name="cars", category="car", labelled=labelled, pool=pool, val=val, test=test)


def drawn(monkeypatch) -> list[str]:
    keys, crop = [], label_sheet.canonical_crop
    monkeypatch.setattr(label_sheet, "canonical_crop", lambda *of: keys.append(of[1].key) or crop(*of))
    return keys


def test_labels_of_the_fit_come_first_and_hidden_ones_not_at_all(tmp_path, records, monkeypatch) -> None:
    keys = drawn(monkeypatch)
    data = data_of(records(7, "mine"), records(5, "hidden"), records(30, "val"), records(30, "test"))
    line = label_sheet.label_sheet(data, tmp_path / "out" / "sheet.png")
    assert line.split()[:1] == [str(len(keys))] and 20 <= len(keys) <= label_sheet.PICTURES
    assert {key.split("_")[0] for key in keys} == {"mine", "val", "test"}
    assert sum(key.startswith("mine") for key in keys) == 7
    azimuth = {record.key: record.viewpoint[0] for record in (*data.labelled, *data.val, *data.test)}
    assert [azimuth[key] for key in keys] == sorted(azimuth[key] for key in keys)
    assert Image.open(tmp_path / "out" / "sheet.png").size[0] > 4 * label_sheet.WIDTH


def test_more_labels_than_have_room(tmp_path, records, monkeypatch) -> None:
    keys = drawn(monkeypatch)
    label_sheet.label_sheet(data_of(records(40, "mine"), test=records(9, "test")), tmp_path / "sheet.png")
    assert len(keys) == label_sheet.PICTURES and all(key.startswith("mine") for key in keys)


def test_another_azimuth_is_another_picture(tmp_path, records) -> None:
    one, other = records(1, "a"), records(2, "a")[1:]
    pictures = []
    for labelled in (one, other):
        label_sheet.label_sheet(data_of(labelled), tmp_path / "sheet.png")
        pictures.append(np.asarray(Image.open(tmp_path / "sheet.png"))[40:160])  # without the caption
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()


def test_nothing_to_draw_and_nowhere_to_write(tmp_path, records) -> None:
    with pytest.raises(DataError, match="no picture has a label"):
        label_sheet.label_sheet(data_of(pool=records(3, "hidden")), tmp_path / "sheet.png")
    with pytest.raises(DataError, match="give a file such as"):
        label_sheet.label_sheet(data_of(records(1, "a")), tmp_path / "sheet.unknown")


def test_the_command_checks_and_draws(tmp_path, records, capsys) -> None:
    rows = [f"{record.key},{record.viewpoint[0] * 57.3:.1f},5,0" for record in records(20, "a")]
    (tmp_path / "labels.csv").write_text("file,azimuth_deg,elevation_deg,theta_deg\n" + "\n".join(rows))
    assert main(["prepare", "csv", "--root", str(tmp_path), "--sheet", str(tmp_path / "sheet.jpg")]) == 0
    out = capsys.readouterr().out
    assert "labelled      7 pictures" in out and str(tmp_path / "sheet.jpg") in out
    assert (tmp_path / "sheet.jpg").is_file()
