"""Jobs with a stand-in for `nvsm fit`: a small script that writes what a fit would leave."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from nvsm_lightning.bench import jobs
from nvsm_lightning.bench.jobs import Job, run_jobs
from nvsm_lightning.errors import ConfigError, NVSMError

FIT = """
import json, os, sys, time
from pathlib import Path
words = sys.argv[2:]  # the first is the command
run = Path(words[words.index("--run_dir") + 1])
(run / "config.yaml").write_text("{}")
(run / "checkpoints").mkdir(exist_ok=True)
(run / "checkpoints" / "last.ckpt").write_text("")
if "--fail" in words:
    print("nvsm: error: no such picture")
    sys.exit(2)
if "--wait" in words:
    time.sleep(60)
seen = run / "calls.json"
calls = json.loads(seen.read_text()) if seen.exists() else []
seen.write_text(json.dumps([*calls, {"words": words, "threads": os.environ["OMP_NUM_THREADS"]}]))
if "--untested" not in words:
    (run / "results.json").write_text(json.dumps({"acc_pi_6": len(words)}))
"""


@pytest.fixture
def fit(tmp_path, monkeypatch) -> Path:
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-S", str(script)))
    return script


def calls(run: Path) -> list[dict]:
    return json.loads((run / "calls.json").read_text())


def test_each_job_runs_once_and_a_second_time_only_when_its_settings_changed(fit, tmp_path):
    settings = tmp_path / "small.yaml"
    settings.write_text("a: 1")
    plan = [Job("a", ("--config", str(settings))), Job("deep/b", ("--x", "1"))]
    out = tmp_path / "out"
    assert run_jobs(plan, out, parallel=2) == {"a": {"acc_pi_6": 4}, "deep/b": {"acc_pi_6": 4}}
    settings.write_text("# a remark says nothing new\na:   1\n")
    run_jobs(plan, out)
    assert [len(calls(out / name)) for name in ("a", "deep/b")] == [1, 1] and not list(out.glob("*_replaced_*"))
    settings.write_text("a: 2")
    run_jobs([plan[0], Job("deep/b", ("--x", "1", "--y"))], out)
    assert [len(calls(out / name)) for name in ("a", "deep/b")] == [1, 1]
    assert "--y" in calls(out / "deep/b")[0]["words"]
    assert "--ckpt_path" not in calls(out / "a")[0]["words"], "a checkpoint of other settings is not resumed"
    assert len(list(out.glob("a_replaced_*/results.json"))) == 1, "a finished run is not thrown away"


@pytest.mark.parametrize(
    "words",
    [
        ("--data.label_list", "{}"),
        ("--data.anchors", "manual:{}"),
        ("--data.anchors=manual:{}",),
        ("--data.label_list={}",),
    ],
)
def test_other_labels_in_a_list_make_another_job(fit, tmp_path, words):
    chosen, out = tmp_path / "seven.txt", tmp_path / "out"
    plan = [Job("a", tuple(word.format(chosen) for word in words))]
    for text, runs in (("a.jpg", 1), ("a.jpg", 1), ("b.jpg", 2)):
        chosen.write_text(text)
        run_jobs(plan, out)
        assert len(list(out.rglob("calls.json"))) == runs


@pytest.mark.parametrize("setting", ["label_list: {}", "anchors: 'manual:{}'"])
def test_so_does_a_list_named_inside_of_a_configuration(fit, tmp_path, setting):
    chosen, out, file = tmp_path / "seven.txt", tmp_path / "out", tmp_path / "set.yaml"
    file.write_text(f"data:\n  init_args:\n    {setting.format(chosen)}\n")
    for text, runs in (("a.jpg", 1), ("a.jpg", 1), ("b.jpg", 2)):
        chosen.write_text(text)
        run_jobs([Job("a", ("--config", str(file)))], out)
        assert len(list(out.rglob("calls.json"))) == runs


@pytest.mark.parametrize("within", [False, True])
def test_what_a_job_has_started_is_ended_before_the_job_is(monkeypatch, within):
    """Else a fit that does not react outlives the job that would have killed it."""
    waited = []
    process = SimpleNamespace(popen=SimpleNamespace(pid=0, poll=lambda: None), log=SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(jobs.os, "killpg", lambda pid, name: None)
    clock = iter(range(10_000))
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(jobs.time, "sleep", waited.append)
    monkeypatch.setenv(jobs.WITHIN, "1") if within else monkeypatch.delenv(jobs.WITHIN, raising=False)
    jobs._stop([process])
    assert (2 * len(waited) < jobs.PATIENCE * 2) == within


@pytest.mark.parametrize("words", [("--trainer.em.teacher", "{}"), ("--guard={}",)])
def test_another_run_made_anew_makes_another_job(fit, tmp_path, words):
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    teacher.mkdir()
    plan = [Job("a", tuple(word.format(teacher) for word in words))]
    for text, runs in (("{}", 1), ("{}", 1), ('{"seed": 1}', 2)):
        (teacher / "results.json").write_text(text)
        run_jobs(plan, out)
        assert len(list(out.rglob("calls.json"))) == runs


def test_a_fit_that_its_guard_has_compared_with_another_may_be_made_anew(fit, tmp_path):
    run_jobs([Job("a", ("--x", "1"))], tmp_path)
    (tmp_path / "a" / "labelled_only").mkdir()
    (tmp_path / "a" / "labelled_only" / "job.json").write_text("{}")
    run_jobs([Job("a", ("--x", "2"))], tmp_path)
    assert len(list(tmp_path.glob("a_replaced_*"))) == 1
    (tmp_path / "a" / "fold_1").mkdir()
    (tmp_path / "a" / "fold_1" / "job.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds other fits"):
        run_jobs([Job("a", ("--x", "3"))], tmp_path)


def test_a_job_that_may_end_untested_is_asked_every_time(fit, tmp_path):
    job = Job("a", ("--untested",))
    with pytest.raises(NVSMError, match="1 of 1 fits failed"):
        run_jobs([job], tmp_path)
    for count in (2, 3):
        assert run_jobs([replace(job, tested=False)], tmp_path) == {}
        assert len(calls(tmp_path / "a")) == count and "--ckpt_path" in calls(tmp_path / "a")[-1]["words"]


def test_a_test_of_changed_inputs_is_made_again_and_a_folder_in_use_is_refused(fit, tmp_path):
    read, out = tmp_path / "labels.csv", tmp_path / "out"
    for text, runs in (("a", 1), ("a", 1), ("b", 2)):
        read.write_text(text)
        run_jobs([Job("a", (), "test", (str(read),))], out)
        assert len(list(out.rglob("calls.json"))) == runs
    with jobs._locked(out / ".lock"), pytest.raises(ConfigError, match="nother process"):
        run_jobs([Job("a", ())], out)


def test_an_interrupted_job_is_resumed(fit, tmp_path):
    job = Job("a", ("--x", "1"))
    run_jobs([job], tmp_path)
    (tmp_path / "a" / "results.json").unlink()
    run_jobs([job], tmp_path)
    run = tmp_path / "a"
    words = ["--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/checkpoints/last.ckpt", "--run_dir", str(run)]
    assert calls(run)[1]["words"] == words


def test_failures_are_named_with_the_end_of_their_log_and_the_others_still_run(fit, tmp_path):
    with pytest.raises(NVSMError, match=r"(?s)1 of 2 fits failed.*no such picture.*Failed: bad\."):
        run_jobs([Job("bad", ("--fail",)), Job("good", ())], tmp_path)
    assert calls(tmp_path / "good")


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("5", "5")])
def test_cores_are_divided_unless_the_user_did(given, expected, fit, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(jobs, "_cores", lambda: 6)
    run_jobs([Job("a", ())], tmp_path, parallel=2)
    assert calls(tmp_path / "a")[0]["threads"] == expected


def test_a_run_made_by_hand_is_not_overwritten(fit, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="not made by this command"):
        run_jobs([Job("a", ())], tmp_path)
    with pytest.raises(ConfigError, match="different names"):
        run_jobs([Job("b", ()), Job("b", ("--x",))], tmp_path)


def processes(word: Path) -> list[str]:
    """Command lines with ``word`` in them, of the processes that this user may look at."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            lines.append((process / "cmdline").read_bytes().decode(errors="replace"))
    return [line for line in lines if str(word) in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_fits_and_says_how_to_go_on(number, fit, tmp_path):
    main = (
        "from pathlib import Path; from nvsm_lightning.bench import jobs\n"
        f"jobs.COMMAND = ({sys.executable!r}, '-S', {str(fit)!r})\n"
        "try:\n"
        f"    jobs.run_jobs([jobs.Job('a', ('--wait',)), jobs.Job('b', ())], Path({str(tmp_path / 'out')!r}))\n"
        "except KeyboardInterrupt as error:\n"
        "    print(error)\n"
    )
    # A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    bench = subprocess.Popen([sys.executable, "-c", main], stdout=subprocess.PIPE, text=True, preexec_fn=heard)
    try:
        checkpoint, end = tmp_path / "out" / "a" / "checkpoints" / "last.ckpt", time.monotonic() + 60
        while not checkpoint.exists():
            assert bench.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        assert len(processes(fit)) == 2 or not Path("/proc").exists()
        bench.send_signal(number)
        said, _ = bench.communicate(timeout=60)
    finally:
        bench.kill()
        bench.wait()
    assert "The same command goes on in" in said
    assert not processes(fit)
    assert not (tmp_path / "out" / "b").exists()
    assert os.path.exists(tmp_path / "out" / "a" / "log.txt")
