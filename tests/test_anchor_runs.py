"""``--data.anchors kmeans`` through the command line: chosen once, by the untrained network; kept by the checkpoint."""

import json
import sys
from pathlib import Path

from nvsm_lightning.cli import lightning_cli
from nvsm_lightning.toy.dataset import make_toy

sys.path.insert(0, str(Path(__file__).parent))
from test_runs import CONFIGS, SMALL


def test_chosen_pictures_are_written_down_and_kept_by_resumed_fits_and_tests(tmp_path) -> None:
    make_toy(tmp_path / "toy", train=20, test=4, size=(70, 100), progress=False)
    (tmp_path / "small.yaml").write_text(SMALL)
    run, checkpoint = tmp_path / "run", str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    files = [CONFIGS / "car_7shot.yaml", CONFIGS / "methods" / "nemo.yaml", tmp_path / "small.yaml"]
    configs = [part for file in files for part in ("--config", str(file))]
    words = ["--data.root", str(tmp_path / "toy"), "--data.anchors", "kmeans", "--run_dir", str(run)]
    lightning_cli.run(["fit", *configs, *words])
    labels, results = (run / "tables" / "labels.txt").read_text(), json.loads((run / "results.json").read_text())
    assert len(set(labels.split())) == results["n_labels"] == 5

    # Another seed would choose others: the checkpoint's count. Its weights are not those that chose them.
    saved = ["--config", str(run / "config.yaml"), "--ckpt_path", checkpoint, "--seed_everything", "5"]
    lightning_cli.run(["test", *saved, "--run_dir", str(tmp_path / "test")])
    again = json.loads((tmp_path / "test" / "results.json").read_text())
    same = ("n_labels", "n_pool", "n_images", "acc_pi_6")
    assert [again[name] for name in same] == [results[name] for name in same]
    lightning_cli.run(["fit", *saved, "--trainer.max_epochs", "3", "--test_after_fit", "false"])
    assert (run / "tables" / "labels.txt").read_text() == labels
