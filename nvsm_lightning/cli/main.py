"""``nvsm``: knows the names of the commands and one line about each, and imports a command only when it is chosen.

Importing torch and Lightning takes many seconds, so nothing here may import them: ``nvsm --help`` answers at once.
"""

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

import nvsm_lightning
from nvsm_lightning.errors import NVSMError

# name: (module that holds `run(argv) -> int | None`, one line of help)
COMMANDS = {
    "fit": ("nvsm_lightning.cli.lightning_cli", "learn from a few labelled pictures and a pool, then test"),
    "validate": ("nvsm_lightning.cli.lightning_cli", "measure a checkpoint on the validation pictures"),
    "test": ("nvsm_lightning.cli.lightning_cli", "measure a checkpoint on the test pictures"),
    "predict": ("nvsm_lightning.cli.lightning_cli", "poses of a folder of pictures: JSON and overlay pictures"),
    "bench": ("nvsm_lightning.cli.bench", "many fits in one table: methods by labels, variants of a setting"),
    "match": ("nvsm_lightning.cli.match", "how well features match pictures at shifted poses: table, plots, gallery"),
    "sweep": ("nvsm_lightning.cli.sweep", "trials of a sweep file of Weights & Biases, here or through its server"),
    "prepare": ("nvsm_lightning.cli.prepare", "make or check a data set"),
    "doctor": ("nvsm_lightning.cli.doctor", "versions, devices, renderer engines, data and weights found here"),
}
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Own errors and those of files and disks become one line on standard error and status 2; ``--debug`` or
    ``NVSM_DEBUG=1`` shows the traceback instead.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("NVSM_DEBUG", "") not in ("", "0")
    if "--debug" in arguments:
        arguments.remove("--debug")
        debug = True
    try:
        return dispatch(arguments)
    except BrokenPipeError:  # `nvsm --help | head`
        sys.stdout = open(os.devnull, "w")  # Python flushes it at exit
        return EXIT_ERROR
    except (NVSMError, OSError) as error:
        if debug or not (isinstance(error, NVSMError) or error.errno == errno.ENOSPC or error.filename):
            raise
        return fail(one_line(error))
    except KeyboardInterrupt as stop:
        text = str(stop) or "interrupted. A fit goes on from <run>/checkpoints/last.ckpt with --ckpt_path."
        return fail(text, EXIT_INTERRUPTED)


def dispatch(arguments: Sequence[str]) -> int:
    """Answer help and version at once, import and run the command otherwise."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), flush=True)
        return 0 if arguments else EXIT_ERROR
    if arguments[0] in ("-V", "--version"):
        print(f"nvsm_lightning {nvsm_lightning.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        return fail(f"no command {arguments[0]!r}.{did_you_mean(arguments[0], COMMANDS)} `nvsm --help` lists them all.")
    return importlib.import_module(COMMANDS[arguments[0]][0]).run(arguments) or 0


def help_text() -> str:
    """What ``nvsm --help`` prints."""
    lines = [f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nvsm <command> [options]     nvsm <command> --help     nvsm --version",
            "",
            "3D object pose from a few labelled pictures and a pool of unlabelled ones.",
            "",
            "commands:",
            *lines,
            "",
            "first steps:",
            "  nvsm fit --config configs/car_7shot.yaml",
            "  nvsm test --config <run>/config.yaml --ckpt_path <run>/checkpoints/last.ckpt",
            "",
            "all settings: nvsm fit --data.help PoseCSV (of a data set), nvsm fit --model.help NVSM (of a method);",
            "--print_config behind a command shows what it would use.",
            "",
            "--debug (or NVSM_DEBUG=1) shows the traceback of an error.",
        ]
    )


def did_you_mean(word: str, known: "Sequence[str] | dict") -> str:
    """`` Did you mean 'x'?`` with the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def one_line(error: BaseException) -> str:
    """The error's own message; of an error re-raised from a data-loading worker, only what the worker said."""
    if isinstance(error, OSError) and error.errno != errno.ENOSPC:
        return f"{error.strerror}: {error.filename} (--debug shows where)"
    if isinstance(error, OSError):
        return f"the disk is full ({error.filename or 'while writing'}). Free some space and resume with --ckpt_path."
    text = str(error)
    if "Original Traceback" in text:  # torch.utils.data wraps a worker's error into text of the same type
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1]
    return text.strip()


def fail(message: str, status: int = EXIT_ERROR) -> int:
    """Print ``nvsm: error: message`` on standard error, red on a terminal, and return the exit status."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    start, end = ("\033[31m", "\033[0m") if colour else ("", "")
    print(f"{start}nvsm: error: {message}{end}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
