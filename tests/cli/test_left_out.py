import yaml
from jsonargparse import Namespace

from nvsm_lightning.cli.left_out import left_out
from nvsm_lightning.features.backbone import TrunkSpec

MODEL = Namespace(
    class_path="X",
    init_args=Namespace(backbone=Namespace(name="small", frozen=[]), trunk=TrunkSpec(), rate=0.1, extra=None),
)


def files(tmp_path, *contents):
    paths = [tmp_path / f"{number}.yaml" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return [str(path) for path in paths]


def test_settings_at_every_depth_are_named_once_and_in_order(tmp_path):
    first = {"model": {"init_args": {"rate": 1, "space": {"azimuths": 3}, "backbone": {"name": "x", "dim": 3}}}}
    second = {"model": {"class_path": "X", "init_args": {"trunk": {"chunk": 4, "head": "y"}, "space": {}}}}
    assert left_out(files(tmp_path, first, second), MODEL) == ["space", "backbone.dim", "trunk.head"]


def test_files_without_settings_of_a_model_say_nothing(tmp_path):
    contents = ("", {"trainer": {"devices": 1}}, {"model": {"class_path": "X"}}, {"model": "X"}, {"model": None})
    assert left_out(files(tmp_path, *contents), MODEL) == []
    assert left_out(["{trainer: {devices: 1}}"], MODEL) == []


def test_a_setting_that_is_nothing_yet_has_no_inner_names(tmp_path):
    assert left_out(files(tmp_path, {"model": {"init_args": {"extra": {"deep": 1}}}}), MODEL) == []
    assert left_out(files(tmp_path, {"model": {"init_args": {"extra": 1}}}), Namespace(class_path="X")) == ["extra"]
