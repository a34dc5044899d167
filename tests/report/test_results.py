import errno
import json
import math
import os
import subprocess

import pytest
import torch

from nvsm_lightning.errors import NVSMError
from nvsm_lightning.report.results import git_commit, measure, measure_guesses, write_json


def test_measure_gives_every_number_with_an_interval_around_it():
    error = torch.rand(200, generator=torch.Generator().manual_seed(0)) * math.pi
    result = measure(error)
    for key, (low, high) in result["interval"].items():
        assert low < result[key] < high
    assert set(result["interval"]) == {"acc_pi_6", "acc_pi_18", "med_err_deg", "mean_err_deg", "flip_180_rate"}


def test_unknown_truth_is_not_measured():
    error = torch.tensor([0.1, math.nan, 0.2])
    assert measure(error)["n_images"] == 2


def test_guessing_rows_are_there_with_labels_and_random_alone_without():
    truth = torch.tensor([[0.3, 0.1, 0.0], [1.3, 0.1, 0.0]])
    rows = measure_guesses(torch.tensor([[0.3, 0.1, 0.0]]), truth)
    assert rows["prior_only"]["acc_pi_18"] == 50.0
    assert rows["random"]["n_images"] == 2
    assert set(measure_guesses(torch.zeros(0, 3), truth)) == {"random"}


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_full_disk_is_an_own_error_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(NVSMError, match=r"results\.json cannot be written: the disk is full"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_commit_of_a_working_copy_and_none_outside(tmp_path, repository):
    head = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = git_commit()
    if head.returncode:
        assert commit is None
    else:
        assert commit.removesuffix("-dirty") == head.stdout.strip()
    assert git_commit(tmp_path) is None
