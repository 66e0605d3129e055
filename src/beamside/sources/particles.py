"""Particles from a STAR file, or from a folder that grows while the microscope runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from beamside.errors import BeamsideError, InputError
from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding, Guard
from beamside.run.source import Record
from beamside.sources.guards import INACTIVE, OTHER, OUTSIDE, PIXEL_SIZE, READABLE, REPEATED, RESULTS, SETTLED
from beamside.sources.particle_batch import OpticsGroups, make_batch
from beamside.sources.particle_table import PIXEL_TOLERANCE, NoParticlesError, ParticleTable, read_particles
from beamside.sources.settling import Settling, Signature, walk
from beamside.sources.stacks import NotYetError

_RESULT_FILE = re.compile(r"run(_ct\d+)?(_it\d+)?(_half\d)?_(data|model|optimiser|sampling)\.star")
"""Tables that a run wrote as its results; in a watched folder they are no input."""
_RUN_FILES = {"run.json", "ledger.sqlite"}


def _header(table: ParticleTable) -> Header:
    fields = {"box_px": table.box_px, "pixel_size_A": table.pixel_size_A, "has_ctf": table.has_ctf}
    return Header("particles", fields)


class _Particles:
    """What both sources share: the header, the keys given out, the findings not yet collected, batches."""

    def __init__(self, root: Path, header: Header | None, trusted: Sequence[Path]) -> None:
        self.root, self.trusted = root, trusted
        self._agreed = header
        self._known: set[str] = set()
        self._findings: list[Finding] = []
        self._noted: set[tuple[str, str]] = set()
        self._groups = OpticsGroups()

    def findings(self) -> Sequence[Finding]:
        """What was set aside or noticed since the last call."""
        found, self._findings = self._findings, []
        return found

    def batch(self, records: Sequence[Record]) -> Batch:
        """Records as a batch; optics groups are numbered in the order in which this sees them."""
        return make_batch(records, self.root, self._groups)

    def _accept(self, table: ParticleTable) -> list[Record]:
        """The table's new records; InputError where box or pixel size are not those of the first table."""
        self._agreed = self._agreed or _header(table)
        box_px, pixel_size_A = self._agreed.fields["box_px"], self._agreed.fields["pixel_size_A"]
        if table.box_px != box_px or abs(table.pixel_size_A - pixel_size_A) > PIXEL_TOLERANCE * pixel_size_A:
            raise InputError(
                f"has boxes of {table.box_px} px at {table.pixel_size_A:g} A; this run began with {box_px} px at "
                f"{pixel_size_A:g} A.",
                where=str(table.path),
                remedy="Rescale these particles to the same box, or classify them in a run of their own.",
            )
        self._note(table)
        self._known.update(record.key for record in table.records)
        return table.records

    def _note(self, table: ParticleTable) -> None:
        path = table.path
        if table.outside:
            first = table.outside[0]
            self._say(
                OUTSIDE, f"{path} names {len(table.outside)} stacks outside of {self.root}, the first {first}.", path
            )
        if table.repeated:
            self._say(REPEATED, f"{path} names {table.repeated} particles more than once.", path)
        if table.inactive:
            self._say(INACTIVE, f"{path} marks {table.inactive} particles as deselected (state 0).", path)
        if table.pixel_size_from.startswith("the header"):
            taken = f"{table.pixel_size_A:g} A is taken from {table.pixel_size_from}"
            self._say(PIXEL_SIZE, f"{path} gives no pixel size; {taken}.", path)

    def _say(self, guard: Guard, saw: str, about: Path) -> None:
        """A finding, once for each text."""
        if (guard.name, saw) not in self._noted:
            self._noted.add((guard.name, saw))
            self._findings.append(guard.finding(saw, file=str(about)))


class ParticleFile(_Particles):
    """All particles of one finished STAR file, or of a SIMPLE project.

    root: the data root, relative to which particles are named; the file's folder unless given. trusted: folders
    beside the data folder in which stacks may lie (docs/decisions/0071).
    Whatever is wrong with the file is raised by `header` or `poll` as FormatError or InputError.
    """

    def __init__(
        self, path: Path, root: Path | None = None, header: Header | None = None, trusted: Sequence[Path] = ()
    ) -> None:
        super().__init__(root or path.parent, header, trusted)
        self.path = path
        self._records: list[Record] | None = None
        self._given = False

    def _read(self) -> list[Record]:
        if self._records is None:
            self._records = self._accept(read_particles(self.path, self.root, trusted=self.trusted))
        return self._records

    def header(self) -> Header | None:
        """Box, pixel size and whether there is a CTF."""
        self._read()
        return self._agreed

    def poll(self) -> Sequence[Record]:
        """All records, the first time; the source is exhausted then."""
        records, self._given = ([] if self._given else self._read()), True
        return records

    def exhausted(self) -> bool:
        """True once the records were given out."""
        return self._given


@dataclass
class _File:
    """What is known of one STAR file. done: the state of it that needs no further look; retry_at: on the clock."""

    done: Signature | None = None
    retry_at: float = 0.0
    waiting_for: str = ""
    waiting_since: float = 0.0
    fault: BeamsideError | None = field(default=None, repr=False)


class ParticleFolder(_Particles):
    """All particles of the STAR files under a folder, which may go on growing.

    A file is read once it and its stacks have not changed for `settle_s` and every stack is as long as its header
    says; when it changes later, its new rows are given out. What a file lacks is waited for, and reported as `suspect`
    when it has been missing for `patience_s`. A damaged file is set aside with a finding until it changes.

    watch: False takes what is there once it has settled, and is exhausted then; a folder none of whose files could be
    used raises the first file's error. header: what the run has agreed on already, when it is resumed. trusted: as for
    `ParticleFile`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        watch: bool = True,
        settle_s: float = 5.0,
        patience_s: float = 60.0,
        header: Header | None = None,
        trusted: Sequence[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(folder, header, trusted)
        if not folder.is_dir():
            raise InputError("is not a folder.", where=str(folder), remedy="Give the folder particles arrive in.")
        self.watch, self.patience_s, self.clock = watch, patience_s, clock
        self._settling = Settling(settle_s, clock)
        self._files: dict[Path, _File] = {}
        self._used_stacks: set[Path] = set()
        self._exhausted = False

    def header(self) -> Header | None:
        """Box, pixel size and whether there is a CTF, as the first settled file has them; None before."""
        return self._agreed

    def exhausted(self) -> bool:
        """Never for a watched folder; else once all that was there has been taken or set aside."""
        return self._exhausted

    def poll(self) -> Sequence[Record]:
        """The particles that have settled since the last call, file by file in the order of their paths."""
        if self._exhausted:
            return []
        tables: list[Path] = []
        for path in walk(self.root, (".star", ".mrcs", ".mrc"), lambda names: set(names) >= _RUN_FILES):
            if path.suffix == ".star":
                tables.append(path)
            elif path not in self._used_stacks:
                self._settling.look(path)
        records = [record for path in tables for record in self._take(path)]
        if not self.watch and all(self._concluded(path) for path in tables):
            self._exhausted = True
            self._refuse_if_empty()
        return records

    def _take(self, path: Path) -> list[Record]:
        """The new records of one file, if it is time to read it."""
        file = self._files.setdefault(path, _File())
        now = self._settling.look(path)
        if now is None or now == file.done or not self._settling.settled(path) or self.clock() < file.retry_at:
            return []
        if _RESULT_FILE.fullmatch(path.name):
            self._say(RESULTS, f"{path} is the result of a run.", path)
            file.done = now
            return []
        return self._read(path, file, now)

    def _read(self, path: Path, file: _File, now: Signature) -> list[Record]:
        begun = self.clock()
        try:
            table = read_particles(path, self.root, growing=self.watch, known=self._known, trusted=self.trusted)
            self._await_stacks(table)
            records = self._accept(table)
        except NotYetError as error:
            self._wait(path, file, error, begun)
            return []
        except NoParticlesError as error:
            self._say(OTHER, error.paragraph(), path)
            file.done = now
            return []
        except BeamsideError as error:
            self._say(READABLE, f"{error} The file is set aside.", path)
            file.done, file.fault = now, error
            return []
        self._used_stacks.update(table.stacks)
        if table.unfinished:
            torn = NotYetError("the last line has no line end.", where=str(path), remedy="Complete the file.")
            self._wait(path, file, torn, begun)
        else:
            file.done, file.fault, file.waiting_for = now, None, ""
        return records

    def _await_stacks(self, table: ParticleTable) -> None:
        if not table.records:
            return
        for stack in table.stacks:
            if not self._settling.settled(stack):
                raise _UnsettledError("is still changing.", where=str(stack), remedy="Wait until it is complete.")

    def _wait(self, path: Path, file: _File, error: NotYetError, begun: float) -> None:
        """Look again later, at intervals that keep rereading cheap; say so once patience is over."""
        now = self.clock()
        file.retry_at = now + 10 * (now - begun)
        file.fault = None if isinstance(error, _UnsettledError) else error
        if file.waiting_for != error.what:
            file.waiting_for, file.waiting_since = error.what, now
        if not self.watch and file.fault:
            self._say(READABLE, f"{error} The file is set aside.", path)
        elif now - file.waiting_since >= self.patience_s:
            self._say(SETTLED, f"{error} Its particles are waited for.", path)

    def _concluded(self, path: Path) -> bool:
        """Whether a file of an unwatched folder needs no further look."""
        file = self._files[path]
        return (file.done is not None and file.done == self._settling.look(path)) or isinstance(file.fault, NotYetError)

    def _refuse_if_empty(self) -> None:
        if self._known:
            return
        for file in self._files.values():
            if file.fault is not None:
                raise file.fault
        raise InputError("holds no particle STAR file.", where=str(self.root), remedy="Check the folder.")


class _UnsettledError(NotYetError):
    """Everything is there, but has changed too recently."""
