from importlib import metadata
from types import SimpleNamespace

from nvsm_lightning.cli import doctor
from nvsm_lightning.cli.main import main


def test_the_report_covers_every_section_and_ends_well_here(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "weights", lambda: iter([(None, "")]))  # tested below
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 2**30))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for title in ("versions", "devices", "renderer", "data sets", "weights", "disk"):
        assert f"\n{title}\n" in f"\n{text}"
    assert "cpu: numba drew 21 cells of a test triangle" in text


def test_a_nearly_full_disk_is_told(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**29))
    assert not next(iter(doctor.disk()))[0]


def test_the_faster_precision_is_advised(capsys):
    assert "2.6 times" in doctor.precision_advice(2.6) and "auto is bf16-mixed" in doctor.precision_advice(2.6)
    assert "0.8 times" in doctor.precision_advice(0.8) and "auto is 32-true" in doctor.precision_advice(0.8)
    assert any("times as fast in bf16 as in float32" in text for _, text in doctor.devices())


def test_a_missing_package_is_named_and_makes_the_status_bad(capsys, monkeypatch):
    def version(name):
        if name == "kornia":
            raise metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    for name in ("devices", "engines", "weights", "disk"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    assert main(["doctor"]) == 1
    assert "MISS kornia is not installed: pip install kornia" in capsys.readouterr().out


def test_an_engine_that_fails_is_reported_not_raised(monkeypatch):
    def broken(*_):
        raise RuntimeError("no driver\nmore")

    monkeypatch.setattr("nvsm_lightning.render.engines.rasterize", broken)
    assert (False, "cpu: no driver") in list(doctor.engines())


def test_data_sets_are_found_by_what_marks_them(tmp_path):
    (tmp_path / "epfl_cars" / "tripod-seq").mkdir(parents=True)
    found = {text.split(":")[0]: good for good, text in doctor.data_sets(tmp_path)}
    assert found == {"toy": None, "epfl-cars": True, "stanford-cars": None, "pascal3d": None}


def test_weights_in_the_cache_of_torch_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    assert next(doctor.weights())[0] is None
    (tmp_path / "hub" / "checkpoints" / "resnet18-abc.pth").touch()
    good, text = next(doctor.weights())
    assert good
    assert text.endswith("resnet18-abc.pth")
