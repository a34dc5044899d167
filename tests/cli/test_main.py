import errno
import subprocess
import sys

import pytest

from nvsm_lightning.cli import main as module
from nvsm_lightning.cli.main import COMMANDS, did_you_mean, main, one_line
from nvsm_lightning.errors import DataError


class Command:
    """A command that does as told; stands where a command module would."""

    def __init__(self, action):
        self.action = action

    def run(self, argv):
        return self.action(argv)


@pytest.fixture
def command(monkeypatch):
    def install(action):
        monkeypatch.setattr(module.importlib, "import_module", lambda name: Command(action))

    return install


def failing(error):
    def action(argv):
        raise error

    return action


def test_help_lists_every_command_without_importing_anything_slow(repository):
    slow = "bool({'torch', 'numpy', 'lightning', 'yaml'} & set(sys.modules))"
    code = f"import sys; from nvsm_lightning.cli.main import main; main(['--help']); sys.exit({slow})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=False)
    assert done.returncode == 0, "torch or the like was imported" + done.stderr
    assert all(f"  {name}" in done.stdout for name in COMMANDS)


def test_python_minus_m_is_the_same_program(repository):
    words = [sys.executable, "-m", "nvsm_lightning", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=repository, check=True)
    assert done.stdout.startswith("nvsm_lightning ")


def test_an_unknown_command_is_refused_with_a_suggestion(capsys):
    assert main(["fitt"]) == 2
    assert "no command 'fitt'. Did you mean 'fit'?" in capsys.readouterr().err


def test_no_command_prints_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_the_status_of_a_command_is_passed_on(command):
    command(lambda argv: 7 if argv == ["doctor", "--x"] else 0)
    assert main(["doctor", "--x"]) == 7
    assert main(["doctor"]) == 0


def test_own_errors_are_one_line_without_traceback(command, capsys):
    command(failing(DataError("labels.csv:3: no such picture")))
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == "nvsm: error: labels.csv:3: no such picture\n"


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_traceback(how, command, monkeypatch):
    command(failing(DataError("broken")))
    if how == "variable":
        monkeypatch.setenv("NVSM_DEBUG", "1")
    with pytest.raises(DataError):
        main(["fit", *(["--debug"] if how == "flag" else [])])


def test_errors_of_files_are_one_line_and_others_of_the_system_are_not_hidden(command, capsys):
    command(failing(OSError(errno.ENOSPC, "No space left on device", "last.ckpt")))
    assert main(["fit"]) == 2
    assert "the disk is full (last.ckpt)" in capsys.readouterr().err
    command(failing(PermissionError(errno.EACCES, "Permission denied", "runs")))
    assert main(["fit"]) == 2
    assert "Permission denied: runs (--debug" in capsys.readouterr().err
    command(failing(FileNotFoundError("bug")))
    with pytest.raises(FileNotFoundError):
        main(["fit"])


def test_an_interrupt_says_how_to_go_on(command, capsys):
    command(failing(KeyboardInterrupt()))
    assert main(["fit"]) == 130
    assert "--ckpt_path" in capsys.readouterr().err


def test_of_an_error_in_a_loading_worker_only_its_own_words_are_shown():
    wrapped = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1\nnvsm_lightning.errors.DataError: a.jpg is truncated\n'
    )
    assert one_line(wrapped) == "a.jpg is truncated"


def test_nothing_near_gives_no_suggestion():
    assert did_you_mean("zzz", COMMANDS) == ""
