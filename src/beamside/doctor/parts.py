"""A particle file of any size, part by part, in the two tables of STAR 3.1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from beamside.errors import InputError
from beamside.formats.star import Columns, StarTable, stream_star
from beamside.sources.particle_table import refuse_cryosparc
from beamside.sources.simple_table import read_tables
from beamside.sources.stacks import Places

PARTICLE_BLOCKS = ("particles", "", "images")
_PEEK_BYTES = 1 << 16
_PART_BYTES = 1 << 22
_PART_ROWS = 1 << 15


@dataclass(frozen=True)
class ParticleParts:
    """One input: its optics table (None for STAR 3.0), the labels of its rows, and the first rows."""

    path: Path
    optics: StarTable | None
    first: StarTable

    @property
    def places(self) -> Places:
        """Where its image names lead."""
        return Places(self.path, self.path.parent)

    def parts(self) -> Iterator[StarTable]:
        """All its rows, some ten thousand at a time."""
        if self.path.suffix == ".simple":
            yield from _slices(self.first)
            return
        for table in stream_star(self.path, window_bytes=_PART_BYTES):
            if table.name == self.first.name and len(table):
                yield table


def open_parts(path: Path) -> ParticleParts:
    """Optics and first rows of a particle file.

    Raises FormatError for a damaged file, InputError where there are no particles, or some of them lack a CTF that
    others of the same file have.
    """
    refuse_cryosparc(path)
    if path.suffix == ".simple":
        found = read_tables(path)
        if found.lacking.any() and not found.lacking.all():
            raise InputError(
                f"ctf.present: {int(found.lacking.sum())} particles lie in stacks without CTF, others have one.",
                where=str(path),
                remedy="Estimate the CTF of those first, or deselect them.",
            )
        return ParticleParts(path, found.optics, found.particles)
    optics, first = _peek(path)
    if first is None:
        raise InputError(
            "has no rows of particles: none of data_particles, data_ or data_images has rlnImageName.",
            where=str(path),
            remedy="Give a particle STAR file.",
        )
    if optics is None and "rlnOpticsGroup" in first.columns:
        optics = next((table for table in stream_star(path) if table.name == "optics"), None)
    return ParticleParts(path, optics, first)


def _peek(path: Path) -> tuple[StarTable | None, StarTable | None]:
    optics = None
    for table in stream_star(path, window_bytes=_PEEK_BYTES):
        if table.name == "optics":
            optics = table
        elif table.name in PARTICLE_BLOCKS and "rlnImageName" in table.columns and len(table):
            return optics, table
    return optics, None


def _slices(table: StarTable) -> Iterator[StarTable]:
    for start in range(0, len(table), _PART_ROWS):
        columns: Columns = {label: v[start : start + _PART_ROWS] for label, v in table.columns.items()}
        yield _Slice(columns, True, table.name, table.path, (), table, start)


@dataclass
class _Slice(StarTable):
    """Rows of a larger table that keep their places."""

    whole: StarTable | None = None
    start: int = 0

    def place(self, row: int) -> str:
        assert self.whole is not None
        return self.whole.place(self.start + row)
