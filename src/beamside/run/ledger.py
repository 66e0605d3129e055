"""Which items were seen, in which order, and every event of a run: one SQLite file.

WAL with synchronous=FULL: what `add` has returned is on the disk. Others read it while the run writes, and leave
requests in it.
"""

from __future__ import annotations

import enum
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from beamside.errors import RunDirectoryError
from beamside.run.encode import exact_json
from beamside.run.engine import Header
from beamside.run.guard import Finding, Severity
from beamside.run.source import Record

NAME = "ledger.sqlite"
FINISHED = "finished_at_step"
"""Fact: the result of the run is written."""
_BUSY_TIMEOUT_S = 30.0
_DISK_REMEDY = "Look at the disk and its free space, then go on by 'beamside resume'."

_NUMBER = re.compile("([0-9]+)")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL,
    batch INTEGER);
CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL, n INTEGER NOT NULL,
    at_step INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS metrics (step INTEGER NOT NULL, name TEXT NOT NULL, value REAL, PRIMARY KEY (step, name));
CREATE TABLE IF NOT EXISTS findings (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, guard TEXT NOT NULL,
    severity TEXT NOT NULL, saw TEXT NOT NULL, remedy TEXT NOT NULL, value TEXT NOT NULL, UNIQUE (step, guard, saw));
CREATE TABLE IF NOT EXISTS requests (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, asked TEXT NOT NULL, taken TEXT);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Request(enum.StrEnum):
    """What another process may ask of a run; the loop reads it between two steps."""

    STOP = "stop"
    """Take no further items, use all that have arrived, and finish."""
    PAUSE = "pause"
    CONTINUE = "continue"
    PUBLISH = "publish"
    DUMP = "dump"


@dataclass(frozen=True)
class BatchRow:
    """Items first_seq .. first_seq + n - 1, ingested when the engine had done `at_step` steps."""

    number: int
    first_seq: int
    n: int
    at_step: int


@dataclass(frozen=True)
class Event:
    """Something that happened, and when (UTC)."""

    time: str
    kind: str
    text: str


class Ledger:
    """The ledger of one run. Items are numbered 1, 2, ... in order of arrival, within a batch by name, without gaps."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the ledger at `path`; a writer makes it when it is absent.

        Raises:
            RunDirectoryError: it is absent and only to be read, or it is no ledger.
        """
        self.path = path
        if read_only and not path.exists():
            raise RunDirectoryError("there is no ledger.", where=str(path), remedy="Is this the directory of a run?")
        uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        try:
            self._db = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
            self._db.execute("SELECT count(*) FROM facts").fetchone()
        except sqlite3.DatabaseError as error:
            # An OperationalError is the disk's; anything else is what lies in the file.
            disk = isinstance(error, sqlite3.OperationalError)
            raise RunDirectoryError(
                f"the ledger cannot be opened ({error}).",
                where=str(path),
                remedy=_DISK_REMEDY if disk else "Restore the run directory from a copy, or start a new run.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # items and batches

    def add(self, records: Sequence[Record]) -> list[Record]:
        """Those of `records` that are new, after they are on the disk; one transaction.

        An item that comes again changes nothing. When it comes again with another payload the first is kept, and an
        event says so.
        """
        with self._transaction():
            last = self.items()
            rows = ((record.key, record.payload) for record in records)
            self._executemany("INSERT OR IGNORE INTO items (key, payload) VALUES (?, ?)", rows)
            new = self._records("seq > ?", last)
            if len(new) < len(records):
                self._note_changed(records)
        return new

    def _note_changed(self, records: Sequence[Record]) -> None:
        for record in records:
            (kept,) = self._execute("SELECT payload FROM items WHERE key = ?", (record.key,)).fetchone()
            if kept != record.payload:
                self.event("changed", f"{record.key} came again with other contents; the first is kept.")

    def items(self) -> int:
        """How many items were seen."""
        return self._integer("SELECT max(seq) FROM items")

    def in_batches(self) -> int:
        """How many items are in batches."""
        return self._integer("SELECT first_seq + n - 1 FROM batches ORDER BY number DESC LIMIT 1")

    def cut(self, n: int, at_step: int) -> BatchRow:
        """The next `n` items as a batch, recorded before anyone uses it.

        Within the batch they are numbered anew by their names, so that a batch of the same items is the same batch in
        whatever order they came.
        """
        first = self.in_batches() + 1
        if not 1 <= n <= self.items() - first + 1:
            raise ValueError(f"a batch of {n} items of {self.items() - first + 1}")
        row = BatchRow(self._integer("SELECT count(*) FROM batches") + 1, first, n, at_step)
        with self._transaction():
            values = (row.number, row.first_seq, row.n, row.at_step)
            self._execute("INSERT INTO batches (number, first_seq, n, at_step) VALUES (?, ?, ?, ?)", values)
            self._order(first, first + n - 1)
            span = (row.number, first, first + n - 1)
            self._execute("UPDATE items SET batch = ? WHERE seq BETWEEN ? AND ?", span)
        return row

    def _order(self, first: int, last: int) -> None:
        keys = self._execute("SELECT seq, key FROM items WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last))
        came = list(keys)
        ordered = sorted(came, key=lambda item: _by_name(item[1]))
        # By way of negative numbers, since two items never have the same.
        moved = [(-seq, old) for seq, (old, _) in enumerate(ordered, first) if seq != old]
        self._executemany("UPDATE items SET seq = ? WHERE seq = ?", moved)
        if moved:
            self._execute("UPDATE items SET seq = -seq WHERE seq < 0")

    def batches(self) -> list[BatchRow]:
        """All batches in order."""
        return [BatchRow(*row) for row in self._execute("SELECT number, first_seq, n, at_step FROM batches ORDER BY 1")]

    def records(self, batch: BatchRow | None = None) -> list[Record]:
        """The items of a batch in order, or of all batches."""
        if batch is None:
            return self._records("batch IS NOT NULL")
        return self._records("batch = ?", batch.number)

    # what the run found and did

    def add_metrics(self, rows: Iterable[tuple[int, str, float]]) -> None:
        """Numbers of steps (step, name, value); a step that is repeated after a kill replaces its own."""
        with self._transaction():
            self._executemany("INSERT OR REPLACE INTO metrics (step, name, value) VALUES (?, ?, ?)", rows)

    def metrics(self) -> list[tuple[int, str, float | None]]:
        """All metrics by step and name; a value that was NaN is None."""
        return list(self._execute("SELECT step, name, value FROM metrics ORDER BY step, name"))

    def latest_metrics(self) -> dict[str, float | None]:
        """The last value of each metric."""
        rows = self._execute("SELECT name, value, max(step) FROM metrics GROUP BY name")
        return {name: value for name, value, _ in rows}

    def add_finding(self, step: int, finding: Finding) -> None:
        """Record a finding; the same one at the same step only once."""
        value = exact_json(finding.values).decode()
        row = (step, finding.guard, str(finding.severity), finding.saw, finding.remedy, value)
        self._execute(
            "INSERT OR IGNORE INTO findings (step, guard, severity, saw, remedy, value) VALUES (?, ?, ?, ?, ?, ?)", row
        )

    def findings(self) -> list[tuple[int, Finding]]:
        """All findings in order, each with its step."""
        rows = self._execute("SELECT step, guard, severity, saw, remedy, value FROM findings ORDER BY id")
        return [
            (step, Finding(guard, Severity(severity), saw, remedy, json.loads(value)))
            for step, guard, severity, saw, remedy, value in rows
        ]

    def event(self, kind: str, text: str) -> None:
        """Record something that happened now."""
        self._execute("INSERT INTO events (time, kind, text) VALUES (?, ?, ?)", (_now(), kind, text))

    def events(self) -> list[Event]:
        """All events in order."""
        return [Event(*row) for row in self._execute("SELECT time, kind, text FROM events ORDER BY id")]

    # requests of other processes

    def ask(self, request: Request) -> None:
        """Leave a request in the inbox."""
        self._execute("INSERT INTO requests (kind, asked) VALUES (?, ?)", (str(request), _now()))

    def requests(self) -> list[tuple[int, Request]]:
        """Requests not yet taken, in order, each with its number."""
        rows = self._execute("SELECT id, kind FROM requests WHERE taken IS NULL ORDER BY id")
        return [(number, Request(kind)) for number, kind in rows]

    def taken(self, number: int) -> None:
        """A request has been acted on; said afterwards, so that a kill in between loses none."""
        self._execute("UPDATE requests SET taken = ? WHERE id = ?", (_now(), number))

    # facts that a resumed run needs, each written once

    def header(self) -> Header | None:
        """What all items share, if it is known yet."""
        found = self.fact("header")
        return None if found is None else Header(found["kind"], found["fields"])

    def set_header(self, header: Header) -> None:
        """Record what all items share."""
        self.set_fact("header", {"kind": header.kind, "fields": header.fields})

    def fact(self, name: str) -> Any:
        """A recorded fact, or None."""
        row = self._execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_fact(self, name: str, value: Any) -> None:
        """Record a fact; the first value stays."""
        text = exact_json(value).decode()
        self._execute("INSERT OR IGNORE INTO facts (name, value) VALUES (?, ?)", (name, text))

    def _records(self, where: str, *values: int) -> list[Record]:
        return [
            Record(*row) for row in self._execute(f"SELECT key, payload FROM items WHERE {where} ORDER BY seq", values)
        ]

    def _integer(self, query: str) -> int:
        row = self._execute(query).fetchone()
        return 0 if row is None or row[0] is None else int(row[0])

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._failures():
            return self._db.execute(statement, values)

    def _executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._failures():
            self._db.executemany(statement, rows)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """A full or failing disk, or a damaged file, as an error that says what to do."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise RunDirectoryError(
                f"the ledger cannot be read or written ({error}). What it has acknowledged is safe.",
                where=str(self.path),
                remedy=_DISK_REMEDY,
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._execute("ROLLBACK")
            raise


def header_matches(recorded: Header, seen: Header) -> bool:
    """Whether two headers say the same, once written as JSON."""

    def plain(fields: Mapping[str, Any]) -> Any:
        return json.loads(exact_json(fields))

    return recorded.kind == seen.kind and bool(plain(recorded.fields) == plain(seen.fields))


def _by_name(key: str) -> tuple[list[str | int], str]:
    """What is behind the `@` first, and numbers by their value: 2@a.mrcs, 10@a.mrcs, 1@b.mrcs; frame 9, frame 10."""
    number, _, holder = key.rpartition("@")
    parts = _NUMBER.split(f"{holder}@{number}")
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], key


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
