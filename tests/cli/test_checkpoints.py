import pytest
import torch

from nvsm_lightning.cli.checkpoints import check_category, read_hyper_parameters, without_weight_file
from nvsm_lightning.errors import ConfigError, WeightsError


def test_settings_are_read_in_the_form_of_a_configuration(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"hyper_parameters": {"_class_path": "NVSM", "_instantiator": "x", "lr": 1, "category": "car"}}, file)
    assert read_hyper_parameters(str(file)) == {"class_path": "NVSM", "init_args": {"lr": 1, "category": "car"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No checkpoint at"), (b"not a checkpoint", "cannot be read"), ({"w": torch.ones(1)}, "holds no settings")],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    file = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(WeightsError, match=words) as error:
        read_hyper_parameters(str(file))
    assert str(file) in str(error.value)


def test_a_truncated_checkpoint_is_named(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"hyper_parameters": {"_class_path": "NVSM"}, "w": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(WeightsError, match="incomplete"):
        read_hyper_parameters(str(file))


def test_another_category_is_refused_with_both_names():
    stored = {"class_path": "NVSM", "init_args": {"category": "car"}}
    check_category("x.ckpt", stored, "car")
    with pytest.raises(ConfigError, match=r"x\.ckpt was trained for category 'car', but the data is of category 'bus'"):
        check_category("x.ckpt", stored, "bus")


def test_the_weight_file_of_the_training_machine_is_not_needed_again():
    stored = {"class_path": "NVSM", "init_args": {"backbone": {"name": "resnet18", "weights": "/gone.pt"}, "lr": 1}}
    assert without_weight_file(stored)["init_args"] == {"backbone": {"name": "resnet18", "weights": "none"}, "lr": 1}
    assert stored["init_args"]["backbone"]["weights"] == "/gone.pt"
