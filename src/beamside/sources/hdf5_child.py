"""A process that reads one HDF5 file and may die of it; `hdf5_reader` starts it and asks.

HDF5 can end the process it runs in when a file is damaged, replaced or cut while it is read, so files that grow or come
from elsewhere are read here and nowhere else. This file is run as a script and imports nothing of the house.

Requests are lines of JSON on stdin: {"op": ..., ...}. An answer is one line of JSON on stdout, {"ok": ...} or
{"error": kind, "what": text}, followed for `read` by exactly `bytes` raw bytes (C order, little-endian).
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress
from typing import Any

import h5py
import numpy as np

MOST_BYTES = 1 << 29
"""Most bytes of one answer, and of one chunk on disk."""
_ABSURD_RATIO = 5000
_ABSURD_FROM_BYTES = 1 << 30
"""A dataset that declares over 1 GiB, and 5,000 times what is stored of it, is refused: deflate reaches 1,030."""
_ADDRESS_SPACE_BYTES = 16 << 30


class RefusedError(Exception):
    """The file is readable, but not in this way; (kind, text)."""


def main() -> None:
    """Answer requests until stdin ends."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    file = File()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        blob = b""
        try:
            answer, blob = file.answer(request)
        except RefusedError as error:
            answer = {"error": error.args[0], "what": error.args[1]}
        except MemoryError:
            answer = {"error": "format", "what": "it needs more memory than a reader may take"}
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            answer = {"error": "format", "what": f"HDF5 says: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.write(blob)
        answers.flush()


class File:
    """The open file, and what is asked of it."""

    def __init__(self) -> None:
        self.file: Any = None

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """One request's answer and its bytes."""
        name = request.get("path", "")
        if request["op"] == "open":
            return {"ok": self.open(name, request["live"])}, b""
        if request["op"] == "children":
            return {"ok": self.children(name)}, b""
        if request["op"] == "info":
            return {"ok": self.info(name, request["since"])}, b""
        if request["op"] == "read":
            return self.read(name, request["start"], request["stop"])
        raise RefusedError("format", f"unknown request {request['op']!r}")

    def open(self, path: str, live: bool) -> bool:
        """Open or open again; True when a writer has it open (SWMR)."""
        if self.file is not None:
            self.file.close()
            self.file = None
        size = os.stat(path).st_size
        if size == 0:
            raise RefusedError("unsettled", "is empty")
        try:
            self.file = h5py.File(path, "r", locking=False if live else None)
            return False
        except OSError as error:
            if live:
                with suppress(OSError):
                    self.file = h5py.File(path, "r", swmr=True, libver="latest", locking=False)
                    return True
            if any(sign in str(error) for sign in ("lock", "already open", "truncated", "SWMR")):
                raise RefusedError(
                    "unsettled", f"cannot be opened yet ({' '.join(str(error).split())[:200]})"
                ) from None
            raise RefusedError("format", f"is no readable HDF5 file ({' '.join(str(error).split())[:200]})") from None

    def children(self, name: str) -> list[str]:
        """Names below a group, in the file's order; none where there is no such group."""
        found = self._get(name or "/")
        return [str(child) for child in found] if isinstance(found, h5py.Group) else []

    def info(self, name: str, since: int) -> dict[str, Any] | None:
        """Shape, type, unit and what is really written of a dataset; None where there is none."""
        found = self._get(name)
        if not isinstance(found, h5py.Dataset):
            return None
        with suppress(RuntimeError, ValueError):
            found.refresh()
        if found.shape is None:
            return None
        kind = found.dtype.str if found.dtype.kind in "biufc" else "text"
        unit = found.attrs.get("units", found.attrs.get("unit", ""))
        unit = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
        holes, written = _written(found, since)
        deep = found.chunks[0] if found.chunks else 0
        about = {"shape": list(found.shape), "dtype": kind, "unit": unit}
        return {**about, "written": written, "holes": holes, "deep": deep}

    def read(self, name: str, start: int, stop: int | None) -> tuple[dict[str, Any], Any]:
        """Rows start to stop of a dataset (all of it where stop is None) as raw bytes, or its text."""
        found = self._get(name)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise RefusedError("format", "there is no such dataset")
        if found.dtype.kind not in "biufc":
            return {"ok": {"text": _text(found)}}, b""
        _refuse_absurd(found)
        rows = found.shape[0] if found.shape else 1
        stop = rows if stop is None else min(stop, rows)
        each = found.dtype.itemsize * int(np.prod(found.shape[1:], dtype=np.float64))
        if max(0, stop - start) * each > MOST_BYTES:
            raise RefusedError("format", f"{max(0, stop - start) * each:,} bytes are too many for one read")
        with suppress(ImportError):
            if _needs_plugin(found):
                import hdf5plugin  # noqa: F401  registers the filters of detectors
        values = found[start:stop] if found.shape else found[()]
        array = np.ascontiguousarray(values, dtype=found.dtype.newbyteorder("<"))
        # A scalar has become (1,) by then.
        about = {"shape": list(np.shape(values)), "dtype": array.dtype.str, "bytes": array.nbytes}
        return {"ok": about}, array.data if array.nbytes else b""

    def _get(self, name: str) -> Any:
        if self.file is None:
            raise RefusedError("format", "no file is open")
        try:
            return self.file[name]
        except KeyError:
            return None


def _text(found: Any) -> str:
    if found.size > 1 or found.dtype.itemsize > 1 << 16:
        raise RefusedError("format", "holds neither numbers nor one text")
    value = found[()] if found.shape == () else found[:].ravel()[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _needs_plugin(found: Any) -> bool:
    plist = found.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    return not all(h5py.h5z.filter_avail(code) for code in filters)


def _refuse_absurd(found: Any) -> None:
    """Refuse a dataset that declares far more than its file can hold, before anything is allocated for it."""
    item = found.dtype.itemsize
    if found.chunks is not None:
        chunk = item * int(np.prod(found.chunks, dtype=np.float64))
        if chunk > MOST_BYTES:
            raise RefusedError("format", f"is stored in chunks of {chunk:,} bytes, which is absurd")
        declared = found.id.get_num_chunks() * chunk
    else:
        declared = item * int(np.prod(found.shape, dtype=np.float64))
    if found.is_virtual or found.external:
        return
    stored = found.id.get_storage_size()
    if found.chunks is None and found.id.get_offset() is None and stored == 0 and declared > 0:
        raise RefusedError("format", "was declared but never written")
    if found.chunks is None and found.id.get_offset() is not None:
        stored = min(stored, os.fstat(found.file.id.get_vfd_handle()).st_size)
    if declared > _ABSURD_FROM_BYTES and declared > _ABSURD_RATIO * stored:
        raise RefusedError("format", f"declares {declared:,} bytes where {stored:,} are stored, which is absurd")


def _written(found: Any, since: int) -> tuple[list[int], int]:
    """Rows from `since` on that were never written although a later one was, and the number of rows up to the last.

    HDF5 reads a chunk that was never written as zeros, without a word.
    """
    if not found.shape:
        return [], 1
    rows = found.shape[0]
    if found.is_virtual:
        lost = [source.file_name for source in found.virtual_sources() if not _beside(found, source.file_name)]
        return [], 0 if lost else rows
    if found.chunks is None:
        return [], rows if found.id.get_storage_size() or found.external or found.size == 0 else 0
    expected = int(np.prod([-(-size // chunk) for size, chunk in zip(found.shape, found.chunks, strict=True)]))
    if found.id.get_num_chunks() == expected or found.size == 0:
        return [], rows
    return _holes(found, since, rows)


def _holes(found: Any, since: int, rows: int) -> tuple[list[int], int]:
    deep = found.chunks[0]
    corners = [
        tuple(int(i) for i in index)
        for index in np.ndindex(*(-(-s // c) for s, c in zip(found.shape[1:], found.chunks[1:], strict=True)))
    ]
    missing: list[int] = []
    last = 0
    for first in range(since - since % deep, rows, deep):
        places = [(first, *(i * c for i, c in zip(index, found.chunks[1:], strict=True))) for index in corners]
        covered = range(max(first, since), min(first + deep, rows))
        if all(found.id.get_chunk_info_by_coord(place).byte_offset is not None for place in places):
            last = covered.stop
        else:
            missing.extend(covered)
    written = max(last, min(since, rows))
    return [row for row in missing if row < written], written


def _beside(found: Any, name: str) -> bool:
    folder = os.path.dirname(os.path.abspath(found.file.filename))
    return name == "." or os.path.exists(os.path.join(folder, name))


if __name__ == "__main__":
    main()
