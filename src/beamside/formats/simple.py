"""SIMPLE's project files (.simple), read only.

A header of 20 entries of five little-endian int64 says where each segment lies: first and last record, bytes per
record, number of records, first data byte (from 1). Particle segments hold 50 float32 a record; the others hold
space-padded text of `key=value` pairs. Defocus is in micrometres and its angle in degrees; `phshift` is in radians and
counts only where a stack says `phaseplate=yes`. (Layout from SIMPLE's definitions of its binary orientation files;
units from its import of particles, which turns defoci in A into micrometres and phase shifts in degrees into radians.)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.opening import opened

ENTRIES = 20
HEADER_BYTES = ENTRIES * 5 * 8
SEGMENTS = {
    1: "mic", 2: "stk", 3: "ptcl2D", 4: "cls2D", 5: "cls3D", 6: "ptcl3D", 7: "out", 8: "optics", 11: "projinfo",
    12: "jobproc", 13: "compenv",
}  # fmt: skip
PARTICLE_SEGMENTS = (3, 6)
PARTICLE_FIELDS = (
    "angast", "class", "corr", "dfx", "dfy", "dist", "dist_inpl", "e1", "e2", "e3", "eo", "frac", "indstk", "inpl",
    "lp", "mi_class", "mi_proj", "mi_state", "phshift", "proj", "shincarg", "res", "state", "stkind", "updatecnt",
    "weight", "x", "xincr", "xpos", "y", "yincr", "ypos", "gid", "ogid", "pind", "nevals", "ngevals", "better",
    "npeaks", "lp_est", "pind_prev", "cc_nonpeak", "frac_greedy", "better_l", "sampled", "cluster", "class_match",
    "cont_inpl_attempted", "cont_inpl_improved", "spare",
)  # fmt: skip
"""In the order of a record; `weight` is retired."""
READ_TEXTS = (1, 2, 4, 8)
"""Text segments that are read: micrographs, stacks, classes, optics. What else a project says is for SIMPLE alone."""
PARTICLE_BYTES = 4 * len(PARTICLE_FIELDS)
_MOST_TEXT_BYTES = 1 << 28
"""Of one text segment; 100,000 micrographs of 2 kB each."""


@dataclass(frozen=True)
class Segment:
    """One entry of the header: `count` records of `record_bytes`, counted from `first`, at byte `offset`."""

    number: int
    first: int
    record_bytes: int
    count: int
    offset: int

    @property
    def name(self) -> str:
        """SIMPLE's name of the segment."""
        return SEGMENTS.get(self.number, f"segment {self.number}")


@dataclass(frozen=True)
class SimpleProject:
    """A project: its segments, the particle records as (n, 50) float32, and `READ_TEXTS` as dictionaries."""

    path: Path
    segments: Mapping[int, Segment]
    particles: Mapping[int, NDArray[np.float32]]
    texts: Mapping[int, tuple[Mapping[str, str], ...]]

    def place(self, number: int, row: int) -> str:
        """Where record `row` (from 0) of segment `number` stands, for a person."""
        segment = self.segments[number]
        at = segment.offset + row * segment.record_bytes
        return f"{self.path}, record {row + 1} of segment {segment.name} (byte {at:,})"

    def field(self, number: int, name: str) -> NDArray[np.float64]:
        """One field of a particle segment as float64 (n,)."""
        return self.particles[number][:, PARTICLE_FIELDS.index(name)].astype(np.float64)


def read_simple(path: str | os.PathLike[str]) -> SimpleProject:
    """All of a project file.

    Raises FormatError, naming the segment and the byte, for a file that is cut, a header that contradicts itself or the
    file's size, segments that overlap, and text that is no text.
    """
    path = Path(path)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        segments = _segments(path, file.read(HEADER_BYTES), size)
        particles = {n: _particles(path, file, segments[n]) for n in PARTICLE_SEGMENTS if n in segments}
        texts = {n: _texts(path, file, segments[n]) for n in READ_TEXTS if n in segments}
    return SimpleProject(path, segments, particles, texts)


def _segments(path: Path, head: bytes, size: int) -> dict[int, Segment]:
    if len(head) < HEADER_BYTES:
        raise FormatError(
            f"holds {len(head)} bytes, less than the {HEADER_BYTES} of a SIMPLE header.",
            where=f"{path}, byte {len(head)}",
            remedy="The file is cut or still being written; copy it again.",
        )
    found: dict[int, Segment] = {}
    for number in range(1, ENTRIES + 1):
        entry = struct.unpack_from("<5q", head, (number - 1) * 40)
        if any(entry):
            segment = _segment(path, number, entry, size)
            if segment.count:
                found[number] = segment
    if not found:
        raise FormatError(
            "has a header without segments.", where=f"{path}, byte 0", remedy="It is no SIMPLE project, or is empty."
        )
    spans = sorted((s.offset, s.offset + s.count * s.record_bytes, s.name) for s in found.values())
    for (_, end, name), (start, _, after) in pairwise(spans):
        if start < end:
            raise FormatError(
                f"its segments {name} and {after} overlap.", where=f"{path}, byte {start:,}", remedy="It is damaged."
            )
    return found


def _segment(path: Path, number: int, entry: tuple[int, ...], size: int) -> Segment:
    first, last, record_bytes, count, first_byte = entry
    segment = Segment(number, first, record_bytes, count, first_byte - 1)
    where = f"{path}, byte {(number - 1) * 40} (header of segment {segment.name})"
    if count == 0:
        return segment
    if number not in SEGMENTS:
        raise FormatError(f"uses segment {number}, which SIMPLE does not define.", where=where, remedy="It is damaged.")
    if count < 0 or record_bytes <= 0 or first < 1 or last - first + 1 != count or segment.offset < HEADER_BYTES:
        raise FormatError(
            f"declares records {first} to {last}, {count} of {record_bytes} bytes from byte {first_byte}, which is "
            "impossible.",
            where=where,
            remedy="The header is damaged, or of another byte order; write the project again.",
        )
    if number in PARTICLE_SEGMENTS and record_bytes != PARTICLE_BYTES:
        raise FormatError(
            f"has particle records of {record_bytes} bytes; those of {PARTICLE_BYTES} bytes are read.",
            where=where,
            remedy="It was written by another version of SIMPLE; export the particles to STAR.",
        )
    end = segment.offset + count * record_bytes
    if end > size:
        raise FormatError(
            f"declares {count} records of {record_bytes} bytes up to byte {end:,}, but the file holds {size:,}.",
            where=where,
            remedy="The file is cut or still being written; copy it again.",
        )
    if number in READ_TEXTS and count * record_bytes > _MOST_TEXT_BYTES:
        raise FormatError(
            f"declares {count * record_bytes:,} bytes of text; at most {_MOST_TEXT_BYTES:,} are read.",
            where=where,
            remedy="The header is damaged; write the project again.",
        )
    return segment


def _read(path: Path, file: IO[bytes], segment: Segment) -> bytes:
    file.seek(segment.offset)
    raw = file.read(segment.count * segment.record_bytes)
    if len(raw) < segment.count * segment.record_bytes:
        raise FormatError(
            f"ends inside segment {segment.name}, though it was longer when its header was read.",
            where=f"{path}, byte {segment.offset + len(raw):,}",
            remedy="Something is rewriting the file; wait until it is complete.",
        )
    return raw


def _particles(path: Path, file: IO[bytes], segment: Segment) -> NDArray[np.float32]:
    flat = np.frombuffer(_read(path, file, segment), dtype="<f4")
    return flat.reshape(segment.count, len(PARTICLE_FIELDS))


def _texts(path: Path, file: IO[bytes], segment: Segment) -> tuple[Mapping[str, str], ...]:
    raw = _read(path, file, segment)
    width = segment.record_bytes
    return tuple(_pairs(path, segment, row, raw[row * width : (row + 1) * width]) for row in range(segment.count))


def _pairs(path: Path, segment: Segment, row: int, raw: bytes) -> dict[str, str]:
    where = f"{path}, record {row + 1} of segment {segment.name} (byte {segment.offset + row * segment.record_bytes:,})"
    if b"\0" in raw:
        raise FormatError(
            "holds zero bytes where text belongs.", where=where, remedy="The file is damaged; copy it again."
        )
    found: dict[str, str] = {}
    for token in raw.decode("utf-8", errors="surrogateescape").split():
        key, equals, value = token.partition("=")
        if not (key and equals) or key in found:
            raise FormatError(
                f"{token[:60]!r} is no key=value pair of its own.", where=where, remedy="Write the project again."
            )
        found[key] = value
    return found
