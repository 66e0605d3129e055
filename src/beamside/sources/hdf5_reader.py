"""HDF5 from a distance: a child process reads, this side asks, and a crash there is a typed error here.

No pickle crosses the pipe: answers are JSON and raw bytes whose number is checked against the shape they claim before
anything is allocated.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.scan_layout import DatasetInfo

_CHILD = Path(__file__).with_name("hdf5_child.py")
_PIPE_BYTES = 1 << 20
_SET_PIPE_SIZE = 1031
MOST_BYTES = 1 << 29


class UnsettledError(FormatError):
    """The file is still being written in a way that cannot be read now; look again later."""


class Hdf5Reader:
    """One file, read in a process of its own; every call may be made from any thread.

    live: the file may be growing (SWMR). timeout_s: longest wait for one answer.

    Raises, from every method:
        FormatError: the file or a dataset is damaged, absurd or absent; also where reading it crashed HDF5.
        UnsettledError: a writer holds the file.
    """

    def __init__(self, path: Path, *, live: bool = False, timeout_s: float = 60.0) -> None:
        self.path, self.live, self.timeout_s = path, live, timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def where(self) -> str:
        """The file, for messages."""
        return str(self.path)

    def reopen(self) -> None:
        """See the file as it is now."""
        with self._lock:
            if self._child is not None:
                self._open()

    def info(self, name: str, since: int = 0) -> DatasetInfo | None:
        """Shape, type, unit and written rows of a dataset; None where there is none.

        since: rows before this one are known to be written, so holes are looked for from here.
        """
        found, _ = self._ask(name, op="info", since=since)
        if found is None:
            return None
        shape, holes = tuple(found["shape"]), tuple(found["holes"])
        return DatasetInfo(name, shape, found["dtype"], found["unit"], found["written"], holes, found["deep"])

    def children(self, name: str) -> list[str]:
        """Names below a group."""
        found, _ = self._ask(name, op="children")
        return list(found)

    def array(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows start to stop of a dataset of numbers; all of it where stop is None."""
        about, blob = self._ask(name, op="read", start=start, stop=stop)
        if "text" in about:
            raise self._fault(name, "holds text where numbers were expected")
        return np.frombuffer(blob, dtype=np.dtype(about["dtype"])).reshape(about["shape"])

    def text(self, name: str) -> str:
        """A dataset of one text; "" where there is none."""
        if self.info(name) is None:
            return ""
        about, _ = self._ask(name, op="read", start=0, stop=None)
        return str(about.get("text", ""))

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def __del__(self) -> None:
        with suppress(Exception):
            self._end()

    def _ask(self, name: str, **request: Any) -> tuple[Any, bytearray]:
        with self._lock:
            if self._child is None or self._child.poll() is not None:
                self._start()
            return self._exchange(name, {"path": name, **request})

    def _start(self) -> None:
        self._end()
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which then asks no more
        )
        assert self._child.stdout is not None
        with suppress(OSError):
            fcntl.fcntl(self._child.stdout, _SET_PIPE_SIZE, _PIPE_BYTES)
        self._open()

    def _open(self) -> None:
        try:
            self._exchange("", {"op": "open", "path": str(self.path), "live": self.live})
        except FormatError:
            self._end()
            raise

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _exchange(self, name: str, request: dict[str, Any]) -> tuple[Any, bytearray]:
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        deadline = time.monotonic() + self.timeout_s
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            answer = json.loads(self._line(child, name, deadline))
            if "error" in answer:
                kind = UnsettledError if answer["error"] == "unsettled" else FormatError
                raise self._fault(name, str(answer["what"]), kind)
            about = answer["ok"]
            return about, self._blob(child, name, about, deadline)
        except (BrokenPipeError, EOFError):
            code = child.wait()
            self._end()
            died = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
            raise self._fault(name, f"reading it ended the reader {died}") from None

    def _line(self, child: subprocess.Popen[bytes], name: str, deadline: float) -> bytes:
        line = bytearray()
        # Byte by byte up to the line's end, so that nothing of the bytes that follow is taken with it.
        while not line.endswith(b"\n"):
            line += self._some(child, name, 1, deadline)
        return bytes(line)

    def _blob(self, child: subprocess.Popen[bytes], name: str, about: Any, deadline: float) -> bytearray:
        if not isinstance(about, dict) or "bytes" not in about:
            return bytearray()
        size = int(about["bytes"])
        if size != math.prod(about["shape"]) * np.dtype(about["dtype"]).itemsize or not 0 <= size <= MOST_BYTES:
            self._end()
            raise self._fault(name, "the reader's answer contradicts itself")
        blob = bytearray(size)
        view, at = memoryview(blob), 0
        while at < size:
            self._wait(child, name, deadline)
            assert child.stdout is not None
            got = os.readv(child.stdout.fileno(), [view[at:]])
            if not got:
                raise EOFError
            at += got
        return blob

    def _some(self, child: subprocess.Popen[bytes], name: str, most: int, deadline: float) -> bytes:
        self._wait(child, name, deadline)
        assert child.stdout is not None
        data = os.read(child.stdout.fileno(), most)
        if not data:
            raise EOFError
        return data

    def _wait(self, child: subprocess.Popen[bytes], name: str, deadline: float) -> None:
        left = deadline - time.monotonic()
        assert child.stdout is not None
        if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
            self._end()
            raise self._fault(name, f"reading it took longer than {self.timeout_s:g} s and was given up")

    def _fault(self, name: str, what: str, kind: type[FormatError] = FormatError) -> FormatError:
        text = f"dataset '{name}': {what}." if name else f"{what}."
        remedy = "Wait until it is closed, or watch it." if kind is UnsettledError else "Copy or write the file again."
        return kind(text, where=str(self.path), remedy=remedy)
