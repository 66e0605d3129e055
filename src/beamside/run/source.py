"""The contract of a source: where items come from, and how they come back after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding


@dataclass(frozen=True)
class Record:
    """One item as the ledger keeps it: its identity, and a text from which its source can make it again."""

    key: str
    payload: str


@runtime_checkable
class Source(Protocol):
    """A stream of records. `poll` never blocks; the loop does the waiting."""

    def header(self) -> Header | None:
        """What all items share, or None while no first item has settled."""
        ...

    def poll(self) -> Sequence[Record]:
        """Records that have settled since the last call, in a stable order; empty when there are none."""
        ...

    def exhausted(self) -> bool:
        """True when no further record can ever come (a one-shot file that has been read)."""
        ...

    def findings(self) -> Sequence[Finding]:
        """What the source set aside or noticed since the last call (a torn file, a row without its stack)."""
        ...

    def batch(self, records: Sequence[Record]) -> Batch:
        """Records, new or from the ledger of an earlier process, as a batch whose pixels load on demand."""
        ...
