"""``nvsm`` as it is, but one process kills itself in an E-step while the others are still busy matching.

Run as a script by tests/test_processes.py; every process of the fit runs it. ``KILL`` = "rank round".
"""

import os
import signal
import time

from nvsm_lightning.cli.main import main
from nvsm_lightning.methods import NVSM

MATCHING = 600.0  # seconds that the others would go on matching
start, match = NVSM.start_matching, NVSM.match


def say(line: str) -> None:
    """Writes the line and its end at once: ``print`` makes two writes of it where Python keeps no buffer
    (``PYTHONUNBUFFERED``), and the other process may write in between.
    """
    os.write(1, f"{line}\n".encode())


def start_matching(self: NVSM, round: int, data: object) -> None:
    self.matching_round = round
    start(self, round, data)


def matching(self: NVSM, batch: dict) -> object:
    rank, round = map(int, os.environ["KILL"].split())
    if self.matching_round == round:
        if self.global_rank == rank:
            say(f"killed at {time.monotonic()}")
            os.kill(os.getpid(), signal.SIGKILL)
        say(f"process {os.getpid()} matches")
        time.sleep(MATCHING)
    return match(self, batch)


if __name__ == "__main__":
    NVSM.start_matching, NVSM.match = start_matching, matching  # type: ignore[method-assign, assignment]
    raise SystemExit(main())
