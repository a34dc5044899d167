"""Many fits or tests as one piece of work: each in its own process and run folder, skipped when done, fits resumed."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import yaml
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from nvsm_lightning.bench.config_files import settings_in
from nvsm_lightning.errors import ConfigError, NVSMError

COMMAND = (sys.executable, "-m", "nvsm_lightning")
TAIL = 15  # lines of the log of a failed fit that are shown
REPLACED = "_replaced_"  # and a time: what the folder of a fit is called that was made anew
COMPARED = "labelled_only"  # folder in a run: the fit that its guard has compared it with
PATIENCE = 15.0  # seconds that a fit has to end by itself when everything is stopped
WITHIN = "NVSM_WITHIN_A_JOB"  # set for what a job starts: it must end its own jobs before its own time is up


@dataclass(frozen=True)
class Job:
    """One fit, or another command that writes ``results.json`` into its run folder.

    Attributes:
        name: its run folder below that of the whole piece of work; may contain ``/``.
        arguments: what follows ``nvsm fit``, without ``--run_dir``.
        command: of ``nvsm``.
        inputs: further files that it reads; a run on other contents is not of this job.
        tested: whether ``results.json`` tells that it has ended. One that may end without (a fit whose data have no
            test part) is started every time, which resumes a finished fit behind its last epoch.
    """

    name: str
    arguments: tuple[str, ...]
    command: str = "fit"
    inputs: tuple[str, ...] = ()
    tested: bool = True


def run_jobs(jobs: Sequence[Job], folder: Path, parallel: int = 1) -> dict[str, dict[str, Any]]:
    """Run every job that has not been run and return the content of each tested job's ``results.json`` by name.

    A run with ``results.json`` and the same arguments and configuration files is not run again; one with
    ``checkpoints/last.ckpt`` is resumed; one with other arguments or files is begun anew, the finished one being kept
    under the name ``<run>_replaced_<time>``. A failure does not stop the others. What a fit prints is kept in
    ``log.txt`` of its run folder. ``OMP_NUM_THREADS`` of each is the number of cores divided by ``parallel``, unless it
    is set.

    Raises:
        ConfigError: two jobs of one name, a folder in use by another process, or one that holds another run.
        NVSMError: some jobs failed; the text names them and shows the end of their logs.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with all fits ended; the text says how to go on.
    """
    if parallel < 1 or len({job.name for job in jobs}) < len(jobs):
        raise ConfigError(f"Jobs need different names and at least one process; got {parallel} and {len(jobs)} jobs.")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"), _terminated_as_interrupted():
        waiting = [job for job in jobs if not finished(job, folder)]
        board = _Board(len(jobs), len(jobs) - len(waiting), parallel)
        failed = _run(waiting, folder, parallel, board) if waiting else {}
    if failed:
        texts = [f"{name} ({folder / name / 'log.txt'}):\n{tail}" for name, tail in failed.items()]
        raise NVSMError(
            "\n\n".join([f"{len(failed)} of {len(jobs)} fits failed.", *texts])
            + f"\n\nFailed: {', '.join(failed)}. The same command tries them again and keeps the finished ones; "
            "a folder that is removed is begun anew."
        )
    return {job.name: read_results(folder / job.name) for job in jobs if job.tested}


def read_results(run: Path) -> dict[str, Any]:
    """``results.json`` of a run folder."""
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def finished(job: Job, folder: Path) -> bool:
    """Whether ``results.json`` of this very job is there.

    Raises:
        ConfigError: the folder holds a run that is not of a bench or sweep.
    """
    run = folder / job.name
    if (run / "config.yaml").is_file() and not (run / "job.json").is_file():
        raise ConfigError(f"{run} holds a run that was not made by this command; choose another --out, or remove it.")
    return job.tested and (run / "results.json").is_file() and _same(job, run)


def fingerprint(job: Job) -> dict[str, Any]:
    """What decides whether a stored run is of this job: arguments, a checksum of each ``--config`` file, label list,
    teacher and input; lists and teachers may be named inside of the files."""
    files = _given(job.arguments, "--config", "-c")
    inside = [(name, value) for file in files for name, value in settings_in(file) if isinstance(value, str)]
    names = files + _given(job.arguments, "--data.label_list")
    names += [value for name, value in inside if name == "label_list"]
    words = [*job.arguments, *(value for name, value in inside if name == "anchors")]
    names += [word.partition("manual:")[2] for word in words if "manual:" in word]
    # another run (a teacher, or what the guard compares with) as its results tell it: made anew, it has others
    given = _given(job.arguments, "--trainer.em.teacher", "--guard")
    runs = [Path(name) for name in (*given, *(value for name, value in inside if name in ("teacher", "guard")))]
    names += [str(run / "results.json" if run.is_dir() else run) for run in runs if run.exists()]
    names += job.inputs
    checksums = {name: _checksum(Path(name)) if Path(name).is_file() else None for name in names}
    return {"arguments": list(job.arguments), "files": checksums}


def _given(words: Sequence[str], *options: str) -> list[str]:
    """Values of these options, given as two words or with an equals sign."""
    after = [value for word, value in pairwise(words) if word in options]
    return after + [value for word in words for name, _, value in [word.partition("=")] if value and name in options]


def _checksum(path: Path) -> int:
    """Of what a file says: comments and layout of YAML do not count."""
    content = path.read_bytes()
    if path.suffix in (".yaml", ".yml"):
        with contextlib.suppress(yaml.YAMLError):  # the fit will say what is wrong with it
            content = repr(yaml.safe_load(content)).encode()
    return zlib.crc32(content)


def command_of(job: Job, folder: Path) -> tuple[str, ...]:
    """The command line of a job: resumed when its run folder has a checkpoint of it, else from the beginning."""
    run = folder / job.name
    checkpoint = run / "checkpoints" / "last.ckpt"
    if checkpoint.is_file() and (run / "config.yaml").is_file() and _same(job, run):
        return (
            *COMMAND,
            "fit",
            "--config",
            str(run / "config.yaml"),
            "--ckpt_path",
            str(checkpoint),
            "--run_dir",
            str(run),
        )
    return (*COMMAND, job.command, *job.arguments, "--run_dir", str(run))


def _same(job: Job, run: Path) -> bool:
    try:
        return json.loads((run / "job.json").read_text(encoding="utf-8")) == fingerprint(job)
    except (OSError, ValueError):
        return False


# ---------------------------------------------------------------------- processes


@dataclass
class _Process:
    job: Job
    run: Path
    popen: subprocess.Popen
    log: IO[str]
    began: float = field(default_factory=time.monotonic)


def _run(waiting: list[Job], folder: Path, parallel: int, board: "_Board") -> dict[str, str]:
    """Run the jobs, ``parallel`` at a time; returns the end of the log of each that failed."""
    queue, running, failed = list(waiting), list[_Process](), dict[str, str]()
    environment = {"OMP_NUM_THREADS": str(max(1, _cores() // parallel)), **os.environ, WITHIN: "1"}
    try:
        with board:
            while queue or running:
                while queue and len(running) < parallel:
                    running.append(_start(queue.pop(0), folder, environment))
                time.sleep(0.1)
                for process in [one for one in running if one.popen.poll() is not None]:
                    running.remove(process)
                    process.log.close()
                    written = not process.job.tested or (process.run / "results.json").is_file()
                    good = process.popen.returncode == 0 and written
                    if not good:
                        failed[process.job.name] = _tail(process.run / "log.txt")
                    board.ended(process, good)
                board.show(running, len(queue))
    except BaseException as error:
        _stop(running)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"interrupted; all fits were ended. The same command goes on in {folder}: finished fits are kept, the "
                "others resume from their last epoch."
            ) from None
        raise
    return failed


def _start(job: Job, folder: Path, environment: dict[str, str]) -> _Process:
    run = folder / job.name
    if not _same(job, run):  # what other settings left must neither count as a result nor be resumed
        if any(file.parent.name != COMPARED for file in run.glob("*/job.json")):
            raise ConfigError(f"{run} holds other fits (folds of an earlier bench); choose another --out.")
        if (run / "results.json").is_file():  # hours of work, perhaps: moved aside
            run.rename(run.with_name(f"{run.name}{REPLACED}{datetime.now():%Y-%m-%d_%H-%M-%S}"))
        elif (run / "job.json").is_file():
            shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True, exist_ok=True)
        (run / "job.json").write_text(json.dumps(fingerprint(job), indent=2) + "\n", encoding="utf-8")
    command = command_of(job, folder)
    log = (run / "log.txt").open("a", encoding="utf-8")
    log.write(f"{'' if log.tell() == 0 else chr(10)}$ {' '.join(command[1:])}\n")
    log.flush()
    # A session of its own: Ctrl-C reaches this process alone, which ends the fits (with all their processes) in order.
    popen = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    return _Process(job, run, popen, log)


def _stop(running: list[_Process]) -> None:
    """End the fits: asked first, killed after a while."""
    for name in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            try:
                os.killpg(process.popen.pid, name)
            except ProcessLookupError:
                pass
        end = time.monotonic() + (PATIENCE / 3 if WITHIN in os.environ else PATIENCE)
        while time.monotonic() < end and any(process.popen.poll() is None for process in running):
            time.sleep(0.05)
    for process in running:
        process.log.close()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return "\n".join(f"  {line}" for line in [line for line in lines if line.strip()][-TAIL:])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder: two commands writing into the same runs would spoil both. A killed process frees it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"Another process is running fits in {path.parent}; wait for it.") from error
        yield


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the fits as Ctrl-C does (signals can be handled in the main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        """SIGTERM ends the work as Ctrl-C does."""
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---------------------------------------------------------------------- progress


class _Board:
    """What runs now, and how long the rest will take; where there is no terminal, a line for each end."""

    def __init__(self, total: int, done: int, parallel: int) -> None:
        self.console = Console()
        self.total, self.done, self.failed, self.parallel = total, done, 0, parallel
        self.began, self.seconds = time.monotonic(), list[float]()
        self.live = Live(console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "_Board":
        if self.done:
            self.console.print(f"{self.done} of {self.total} fits are there already", highlight=False)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def ended(self, process: _Process, good: bool) -> None:
        """Count a job that has ended, and print a line about it."""
        seconds = time.monotonic() - process.began
        self.seconds += [seconds] if good else []
        self.done, self.failed = self.done + good, self.failed + (not good)
        state = "done" if good else f"[red]failed[/red] (status {process.popen.returncode})"
        self.console.print(
            f"{self.done + self.failed}/{self.total} {escape(process.job.name)}: {state} after {_clock(seconds)}"
            f"{self._left(0.0)}",
            highlight=False,
        )

    def show(self, running: list[_Process], waiting: int) -> None:
        """What runs, how far the bench is and about how long the rest takes."""
        now = time.monotonic()
        elapsed = [now - process.began for process in running]
        lines = [f"  {one.job.name}  running {_clock(time)}" for one, time in zip(running, elapsed, strict=True)]
        counts = f"{self.done} of {self.total} fits done, {len(running)} running, {waiting} waiting"
        counts += f", {self.failed} failed" if self.failed else ""
        counts += f"   {_clock(now - self.began)}{self._left(sum(elapsed, 0.0))}"
        self.live.update(Text("\n".join([*lines, counts])))

    def _left(self, elapsed: float) -> str:
        """From the mean time of the fits finished here; those resumed are shorter, so it is a guess."""
        todo = self.total - self.done - self.failed
        if not self.seconds or not todo:
            return ""
        mean = sum(self.seconds) / len(self.seconds)
        return f"; about {_clock(max(0.0, todo * mean - elapsed) / min(self.parallel, todo))} left"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
