"""A stand-in for `nvsm fit` and `nvsm test` that writes the files of a run: chosen errors, no network, no training."""

import sys
from pathlib import Path

import pytest

from nvsm_lightning.bench import jobs

FIT = """
import json, os, random, sys
from pathlib import Path
command, words = sys.argv[1], sys.argv[2:]
value = lambda name, other=None: words[words.index(name) + 1] if name in words else other
run = Path(value("--run_dir"))
if command == "fit":
    methods = [word for word in words if word.startswith("configs/methods/")]
    method = Path(methods[-1]).stem if methods else "nemo"
    seed, labels = int(value("--seed_everything")), int(value("--data.labels", 7))
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / "last.ckpt").write_text("weights")
else:
    method, seed, labels = json.loads(Path(value("--config")).read_text())["fake"]
level, category = value("--data.test_root", ""), value("--data.category", "")
hidden = {"L1": 0.1, "L2": 0.3, "L3": 0.5}.get(Path(level).name, 0.0)
cars = json.loads(next((w.split("=")[1] for w in words if w.startswith("--data.test_sequences")), "[8, 9, 10]"))
(run / "tables").mkdir(parents=True, exist_ok=True)
(run / "config.yaml").write_text(json.dumps({"fake": [method, seed, labels]}))
counts = run / "count.txt"
counts.write_text(str(1 + int(counts.read_text()) if counts.exists() else 1))
source = random.Random(f"{seed} {labels} {method}{category}")
levels = ("fully visible", "partly occluded", "largely occluded")
lines = ["key,azimuth_deg,true_azimuth_deg,error_deg,loss,group"]
for car in cars:
    for frame in range(40):
        right = source.random() < 0.75 + 0.1 * (method == "nvsm") + 0.003 * labels - hidden
        error = source.expovariate(0.2) if right else 180 * source.random()
        key = f"{level and 'images/'}car_{car:02d}/{frame}.jpg"
        lines.append(f"{key},0,{9 * frame + 1},{error:.4f},1,{levels[frame % 3]}")
(run / "tables" / "predictions.csv").write_text("\\n".join(lines) + "\\n")
guess = {"acc_pi_6": 16.5 + seed, "acc_pi_18": 5.5, "med_err_deg": 90.0, "mean_err_deg": 90.0, "flip_180_rate": 0.16,
         "n_images": 40 * len(cars)}
if method == "nvsm" and command == "fit":
    for number in range(2):
        rows = [f"{i}.jpg,{number},{source.expovariate(0.02) % 180:.3f}" for i in range(50 + 20 * number)]
        rows.insert(0, "key,round,error_deg")
        (run / "tables" / f"matches_round_{number:02d}.csv").write_text("\\n".join(rows) + "\\n")
    logged = ["em/round,em/kept,em/pool_acc_10,em/pool_acc_30", "0,0.3,0.1,0.2", ",,,", "0,0.5,0.6,0.8", "1,,0.7,0.9"]
    (run / "metrics.csv").write_text("\\n".join(logged) + "\\n")
dataset = "kitti" if any(word.endswith("kitti.yaml") for word in words) else "epfl_cars"
(run / "results.json").write_text(json.dumps({
    "method": method, "dataset": dataset, "synthetic": False, "azimuth_only": True, "n_labels": labels,
    "seed": seed, "part": "val" if "--data.test_on" in words else "test",
    "baselines": {"prior_only": guess, "random": guess}, "n_pool": 200, "git_commit": "0123456789" * 4}))
"""


@pytest.fixture
def fake_fit(tmp_path, monkeypatch) -> Path:
    """`nvsm` replaced; the script counts its calls in count.txt of each run."""
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-S", str(script)))
    return script
