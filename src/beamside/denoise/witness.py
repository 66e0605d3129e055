"""A process that knows nothing of the run, kept at hand: it was forked before the run began and has read nothing since.

Starting an interpreter and loading torch takes more time than scoring a model in it. So a command that trains forks
itself once, before it has read options or data. Whenever a model is to be scored, that process forks again: the child
reads the message of `verify`, answers and ends, so no model meets what an earlier one left.

A process with threads must not be forked; then nobody is kept, and `gate` starts an interpreter for each model.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_ASK, _DONE = b"?", b"."


@dataclass
class Witness:
    """The kept process: two pipes to it."""

    pid: int
    to: int
    answers: int

    def ask(self, pieces: Iterable[bytes]) -> str | None:
        """The answer of `verify` to its message; None when the process is gone, or died over it."""
        with suppress(BrokenPipeError):
            _write(self.to, _ASK)
            for piece in pieces:
                _write(self.to, piece)
            _write(self.to, bytes(8))
        length = _read(self.answers, 8)
        said = _read(self.answers, int.from_bytes(length, "little")) if len(length) == 8 else b""
        # Only then has the child ended, with its memory.
        return said.decode() if _read(self.answers, 1) == _DONE else None


_kept: list[Witness] = []


def present() -> Witness | None:
    """The one that is kept for this process."""
    return _kept[-1] if _kept else None


@contextmanager
def kept() -> Iterator[None]:
    """Keep a witness during the block. To be entered before anything of a run is read."""
    # Loaded before the fork, so that no model pays for it.
    import torch

    from beamside.denoise import gate, model_file, verify  # noqa: F401

    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if _threads() > 1 or cuda:
        yield
        return
    found = _fork()
    _kept.append(found)
    try:
        yield
    finally:
        _kept.remove(found)
        os.close(found.to)
        os.close(found.answers)
        os.waitpid(found.pid, 0)


def _threads() -> int:
    """Of this process; more than one where the system does not tell."""
    folder = Path("/proc/self/task")
    return len(list(folder.iterdir())) if folder.is_dir() else 2


def _fork() -> Witness:
    questions, to = os.pipe()
    answers, out = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(questions)
        os.close(out)
        return Witness(pid, to, answers)
    status = 70
    try:
        # It ends with the pipe, that is with the run, however that ends: Ctrl-C is meant for the run.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(to)
        os.close(answers)
        _serve(questions, out)
        status = 0
    finally:
        os._exit(status)


def _serve(questions: int, out: int) -> None:
    """One child a question; ends when nobody asks any more, or when a child has died over a question half read."""
    gc.freeze()
    while os.read(questions, 1) == _ASK:
        pid = os.fork()
        if not pid:
            _answer(questions, out)
        _, status = os.waitpid(pid, 0)
        if status:
            return
        _write(out, _DONE)


def _answer(questions: int, out: int) -> None:
    from beamside.denoise import verify

    status = 70
    try:
        with os.fdopen(questions, "rb", buffering=0, closefd=False) as stream:
            said = verify.answer_from(_Whole(stream.fileno())).encode()
        _write(out, len(said).to_bytes(8, "little") + said)
        status = 0
    finally:
        os._exit(status)


class _Whole:
    """Reads as many bytes as asked for, and no more, so that nothing of the next question is taken."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def read(self, count: int) -> bytes:
        return _read(self._handle, count)


def _read(handle: int, count: int) -> bytes:
    """Fewer only at the end."""
    parts = []
    while count and (part := os.read(handle, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
