"""One writer per run directory.

The lock is the kernel's (`flock`), so it ends with the process that holds it, however that process ends. What the
file says about the holder is for people only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from beamside.errors import RunDirectoryError

NAME = "lock"
_TRIES, _PAUSE_S = 5, 0.02
"""`holder` holds a shared lock for an instant; a starting run outlasts that, and no longer."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run directory."""

    pid: int
    host: str
    since: str

    def words(self) -> str:
        """For people."""
        return f"process {self.pid} on {self.host}, since {self.since}" if self.pid else "another process"


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the run directory `folder`, which exists, until the block ends.

    Raises:
        RunDirectoryError: another process holds it; the error names the holder.
    """
    path = folder / NAME
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(handle):
            raise _held(folder, _read(path))
        me = Holder(os.getpid(), platform.node(), datetime.now(UTC).isoformat(timespec="seconds"))
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(me)).encode(), 0)
        yield
    finally:
        os.close(handle)


def refuse_if_held(folder: Path) -> None:
    """The same error at once, before anything heavy is loaded; `hold` has the last word.

    Raises:
        RunDirectoryError: another process holds the folder; the error names the holder.
    """
    found = holder(folder)
    if found is not None:
        raise _held(folder, found)


def _held(folder: Path, found: Holder) -> RunDirectoryError:
    return RunDirectoryError(
        f"the run is held by {found.words()}.",
        where=str(folder),
        remedy="Wait for it, end it with 'beamside stop', or name another run directory.",
    )


def holder(folder: Path) -> Holder | None:
    """Who holds the run directory now, or None when nobody does."""
    path = folder / NAME
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return _read(path)
        raise
    finally:
        os.close(handle)
    return None


def _lock(handle: int) -> bool:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if left:
                time.sleep(_PAUSE_S)
        else:
            return True
    return False


def _read(path: Path) -> Holder:
    try:
        return Holder(**json.loads(path.read_text()))
    except (ValueError, TypeError):  # the holder is between taking the lock and writing its name
        return Holder(0, "", "")
