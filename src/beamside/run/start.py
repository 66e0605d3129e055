"""The two ways into a run. Which one is the caller's choice, never inferred from what lies in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from beamside.run.engine import Batch, Engine, Header
from beamside.run.guard import Finding
from beamside.run.ledger import BatchRow, Ledger
from beamside.run.origin import readable, software_findings
from beamside.run.source import Source
from beamside.run.store import Store


@dataclass(frozen=True)
class Position:
    """An engine, where it stands, and which recorded batches it still has to meet again, at their recorded steps."""

    engine: Engine
    steps: int = 0
    idle: bool = True
    round_ended: bool = False
    ready: bool = False
    closed: bool = False
    finished: bool = False
    last_batch: Batch | None = None
    """For a dump: what the engine was given last."""
    replay: Sequence[BatchRow] = ()
    remarks: Sequence[str] = ()
    """Sentences for people: checkpoints that were damaged."""
    findings: Sequence[Finding] = ()
    """About the software that goes on."""


class Start(Protocol):
    """How the loop gets its engine, once the header is known."""

    def open(self, header: Header, source: Source, ledger: Ledger, store: Store) -> Position:
        """The engine and its position."""
        ...


@dataclass(frozen=True)
class Fresh:
    """A new reconstruction: `engine` reads its options and the header, nothing else."""

    engine: type[Engine]
    options: Any

    def open(self, header: Header, source: Source, ledger: Ledger, store: Store) -> Position:
        """A new engine at step 0."""
        return Position(self.engine.fresh(self.options, header))


@dataclass(frozen=True)
class Resume:
    """Go on from the newest checkpoint whose checksums hold.

    With step count c in it, batches ingested before step c are handed to the engine, and the later ones are ingested
    again at the same step counts, so that the run repeats what it did, bit for bit. Without any checkpoint the run
    repeats itself from its first batch.
    """

    engine: type[Engine]
    options: Any

    def open(self, header: Header, source: Source, ledger: Ledger, store: Store) -> Position:
        """The engine as it was, or a new one that will meet the recorded batches again."""
        checkpoint, damaged = store.newest_valid_checkpoint()
        rows, changes = ledger.batches(), software_findings(store.manifest)
        if checkpoint is None:
            return Position(self.engine.fresh(self.options, header), replay=rows, remarks=damaged, findings=changes)
        before = [row for row in rows if row.at_step < checkpoint.step]
        batches = [source.batch(ledger.records(row)) for row in before]
        with readable(store.manifest, store.folder):
            engine = self.engine.resume(self.options, header, checkpoint.state, batches)
        return Position(
            engine,
            checkpoint.step,
            **{name: bool(checkpoint.loop[name]) for name in ("idle", "round_ended", "ready", "closed", "finished")},
            last_batch=batches[-1] if batches else None,
            replay=rows[len(before) :],
            remarks=damaged,
            findings=changes,
        )
