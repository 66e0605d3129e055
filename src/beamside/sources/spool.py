"""What came from a socket, kept in one append-only file before anybody is told of it, so that a kill loses nothing.

A record is a header (magic, length of its JSON part, length of its blob, CRC-32 of both parts), the JSON part and the
blob. A record that was cut by a kill is found by its length or checksum and removed when the file is opened again.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beamside.errors import FormatError, InputError

_MAGIC = b"BSP1"
_HEADER = struct.Struct("<4sIII")
_MOST_BYTES = 1 << 30


class Spool:
    """One file, one writer; reading is safe from any thread.

    read_only: for a look at what a run, alive or not, has kept; the file stays as it is. InputError where it is absent.
    Raises FormatError where a record that was written does not agree with its checksum.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._lock = threading.Lock()
        if read_only:
            self._file = _open_to_read(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = self._last_whole()
        if not read_only:
            os.ftruncate(self._file, self._end)
        self._synced = self._end

    def append(self, about: Mapping[str, Any], blob: bytes = b"") -> int:
        """Add a record; its offset. It is safe after the next `sync`."""
        text = json.dumps(about).encode()
        head = _HEADER.pack(_MAGIC, len(text), len(blob), zlib.crc32(blob, zlib.crc32(text)))
        data = b"".join((head, text, blob))
        with self._lock:
            offset = self._end
            written = 0
            while written < len(data):
                written += os.pwrite(self._file, data[written:], offset + written)
            self._end = offset + len(data)
        return offset

    def sync(self) -> None:
        """Flush what was added to the disk."""
        with self._lock:
            end = self._end
        if end != self._synced:
            os.fdatasync(self._file)
            self._synced = end

    def read(self, offset: int) -> tuple[dict[str, Any], bytes]:
        """The record at `offset`: its JSON part and its blob."""
        found = self._record(offset, self._end)
        if found is None:
            raise FormatError(
                f"the record at byte {offset} is damaged.", where=str(self.path), remedy="Restore it, or start anew."
            )
        return found[0], found[1]

    def records(self) -> Iterator[tuple[int, dict[str, Any], bytes]]:
        """All records, in order, with their offsets."""
        offset = 0
        while (found := self._record(offset, self._end)) is not None:
            yield offset, found[0], found[1]
            offset = found[2]

    def close(self) -> None:
        """Close the file."""
        self.sync()
        os.close(self._file)

    def _last_whole(self) -> int:
        size, offset = os.fstat(self._file).st_size, 0
        while (found := self._record(offset, size)) is not None:
            offset = found[2]
        return offset

    def _record(self, offset: int, end: int) -> tuple[dict[str, Any], bytes, int] | None:
        """(JSON part, blob, where the next record begins), or None where no whole record begins at `offset`."""
        if offset < 0 or offset + _HEADER.size > end:
            return None
        magic, text_bytes, blob_bytes, checksum = _HEADER.unpack(os.pread(self._file, _HEADER.size, offset))
        after = offset + _HEADER.size + text_bytes + blob_bytes
        if magic != _MAGIC or after > end or text_bytes + blob_bytes > _MOST_BYTES:
            return None
        data = os.pread(self._file, text_bytes + blob_bytes, offset + _HEADER.size)
        if len(data) < text_bytes + blob_bytes or zlib.crc32(data) != checksum:
            return None
        about = json.loads(data[:text_bytes])
        return about, data[text_bytes:], after


def _open_to_read(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"what the run received cannot be read ({error.strerror}).",
            where=str(path),
            remedy="Bring the run's directory back to its place, with its spool.",
        ) from error
