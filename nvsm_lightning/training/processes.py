"""The processes of a distributed run watch each other: when one ends, all end, with a message that says what to do.

A collective of PyTorch notices a lost process only when it is reached, which in a long E-step may take minutes, and
then by a time-out or an obscure error. Here every process holds a connection to the first one; the operating system
closes it when a process ends, however that happened, and the other side knows at once.
"""

import os
import secrets
import sys
import threading
import warnings
from multiprocessing import ProcessError
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

EXIT_ERROR = 2
GRACE = 1.0  # seconds in which this process may fail of the same error by itself, with its own message
DONE, FAILED = "done", "failed"


class ProcessWatch(Callback):
    """Ends this process when another one of the same run has ended before its work was done."""

    def __init__(self) -> None:
        self._ended: threading.Event | None = None
        self._peers: dict[int, Connection] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connect with the other processes, which are there by now."""
        if trainer.world_size > 1:
            self._ended, self._peers, listener = threading.Event(), {}, None
            try:
                listener = _connect(trainer, self._peers)
            except (OSError, EOFError, ProcessError) as error:
                warnings.warn(
                    f"Process {trainer.global_rank} cannot watch the others ({error}): if one ends, it may hang.",
                    stacklevel=2,
                )
            arguments = (listener, self._peers, self._ended, trainer.global_rank, trainer.world_size, remedy(trainer))
            threading.Thread(target=_watch, args=arguments, name="process-watch", daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Part in peace."""
        self._leave(DONE)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others, and go on with one's own error."""
        self._leave(FAILED)

    def _leave(self, word: str) -> None:
        if self._ended is not None and not self._ended.is_set():
            self._ended.set()
            for peer in list(self._peers.values()):
                _tell(peer, word)


def remedy(trainer: Trainer) -> str:
    """How the run goes on."""
    checkpoints = Path(trainer.default_root_dir) / "checkpoints"
    return f"To go on, give --ckpt_path {checkpoints / 'last.ckpt'} (if it is there; else start anew)."


def _connect(trainer: Trainer, peers: dict[int, Connection]) -> Listener | None:
    """Connect every process with the first one, and put that into ``peers``; the first has a listener instead, from
    which it takes the others. Only who has the key, which the process group hands round, is let in."""
    environment: Any = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    address, first = environment.main_address, trainer.global_rank == 0
    listener, key, error = None, secrets.token_bytes(), ""
    if first:
        local = trainer.num_nodes == 1
        try:
            listener = Listener(("127.0.0.1" if local else "", 0), authkey=key, backlog=trainer.world_size)
        except OSError as reason:
            error = str(reason)
    port = listener.address[1] if listener else 0
    port, key, error = trainer.strategy.broadcast((port, key, error))
    if error:
        raise OSError(error)
    if listener is None:
        peers[0] = Client(("127.0.0.1" if trainer.num_nodes == 1 else address, port), authkey=key)
        peers[0].send(trainer.global_rank)
    return listener


def _watch(
    listener: Listener | None, peers: dict[int, Connection], ended: threading.Event, rank: int, world: int, advice: str
) -> None:
    """Wait for what the others say until this process has ended its part, or one of them is gone."""
    while listener is not None and len(peers) < world - 1:
        try:  # here and not in the main thread: one that cannot reach this process goes on without
            peer = listener.accept()
            peers[peer.recv()] = peer
        except (OSError, EOFError, ProcessError):
            continue
    open_ = dict(peers)
    while open_ and not ended.is_set():
        ready = wait(list(open_.values()))
        for other, peer in [(number, peer) for number, peer in open_.items() if peer in ready]:
            try:
                word = peer.recv()
            except (EOFError, OSError):
                word = ""  # gone without a word
            if word == DONE:
                del open_[other]
                continue
            if word == FAILED and ended.wait(GRACE):
                return  # this process has failed too
            lost, failed = word if isinstance(word, tuple) else (other, word == FAILED)
            if ended.is_set():
                return
            for connection in open_.values():
                _tell(connection, (lost, failed))  # the others hear of it from the first
            what = "ended with an error" if failed else "is gone (killed, or out of memory)"
            text = f"nvsm: error: process {lost} of {world} (counted from 0) {what}; process {rank} ends too. {advice}"
            print(f"\n{text}", file=sys.stderr, flush=True)
            os._exit(EXIT_ERROR)  # the main thread may hang in a collective for ever


def _tell(peer: Connection, word: str | tuple[int, bool]) -> None:
    try:
        peer.send(word)
    except OSError:
        pass  # it is gone itself
