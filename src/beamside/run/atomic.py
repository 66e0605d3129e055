"""Every write of a run that must survive a kill goes through this module, and nowhere else.

A file or folder is made beside its place under a hidden name, flushed to the disk, and renamed into place. Readers see
the old one or the new one, never half of it. `write`, `fsync` and `rename` are the only three calls that touch the
disk, so a fault can be injected in one place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beamside.errors import RunDirectoryError

_REMEDIES = {
    errno.ENOSPC: "Free some space on that disk, then go on by 'beamside resume'.",
    errno.EDQUOT: "Free some of your quota on that disk, then go on by 'beamside resume'.",
    errno.EIO: "The disk or its connection fails: look at it, copy the run away, then go on by 'beamside resume'.",
    errno.EROFS: "The disk has become read-only: look at it, then go on by 'beamside resume'.",
}
_UNNUMBERED = "Look at that disk and its free space, then go on by 'beamside resume'."

PARTIAL = ".partial"
"""Ending of the hidden name under which something unfinished lies."""


@contextmanager
def disk_failures(place: Path) -> Iterator[None]:
    """Failures of the disk inside the block as RunDirectoryError, which says what to do; other errors as they are.

    Some libraries say how many bytes they could not write and give no error number; those count as the disk's too.
    """
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is not None and number not in _REMEDIES:
            raise
        why = str(error) if number is None else error.strerror or os.strerror(number)
        raise RunDirectoryError(
            f"it could not be written ({why}). Nothing half-written counts; the newest checkpoint before it is whole.",
            where=str(place),
            remedy=_UNNUMBERED if number is None else _REMEDIES[number],
        ) from error


def write(path: Path, data: bytes) -> None:
    """Write `data` to a new or truncated file, and flush it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync(path: Path) -> None:
    """Flush a file or folder that is already written to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Rename within one file system; atomic."""
    os.rename(source, target)


def partial_name(path: Path) -> Path:
    """The hidden name beside `path` under which it is made."""
    return path.with_name(f".{path.name}{PARTIAL}")


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one instant, replacing what was there."""
    beside = partial_name(path)
    write(beside, data)
    rename(beside, path)
    fsync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when the block ends without an error it appears at `path`, flushed and whole.

    A folder that is already at `path` is replaced: it moves aside first, because a folder cannot be renamed over
    another.
    """
    beside = partial_name(path)
    remove(beside)
    beside.mkdir(parents=True)
    yield beside
    for found in sorted(beside.rglob("*")):
        fsync(found)
    fsync(beside)
    if path.exists():
        remove(path)
    rename(beside, path)
    fsync(path.parent)


def remove(path: Path) -> None:
    """Remove a folder so that no half of it is ever seen under its own name; nothing happens if it is absent."""
    if not path.exists():
        return
    if not path.name.endswith(PARTIAL):
        doomed = path.with_name(f".{path.name}.old{PARTIAL}")
        shutil.rmtree(doomed, ignore_errors=True)
        rename(path, doomed)
        path = doomed
    shutil.rmtree(path)


def sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished in `folder`."""
    if not folder.is_dir():
        return
    for found in folder.glob(f".*{PARTIAL}"):
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()


def sha256(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
