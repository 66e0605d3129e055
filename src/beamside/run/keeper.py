"""What a run keeps: findings, metrics, snapshots, checkpoints, dumps, and the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

from beamside.errors import GuardStop
from beamside.run.engine import Batch, Engine, Snapshot
from beamside.run.guard import Finding, Severity, Verdict, run_guards, verdict
from beamside.run.ledger import Ledger
from beamside.run.report import Reporter
from beamside.run.store import Exporter, Pictures, Store

SHOWN_PER_GUARD = 5
"""Different findings of one guard that a snapshot carries; the ledger has all."""
_METRICS_EVERY_S = 1.0


class Keeper:
    """Writes what one run leaves on the disk."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        reporter: Reporter,
        *,
        exporter: Exporter,
        pictures: Pictures | None,
        clock: Callable[[], float],
    ) -> None:
        """Findings of earlier processes stick."""
        self._store, self._ledger, self._reporter = store, ledger, reporter
        self._exporter, self._pictures, self._clock = exporter, pictures, clock
        self._lasting: list[Finding] = []
        for _, finding in ledger.findings():
            if finding.severity in (Severity.SUSPECT, Severity.NOTE):
                self._remember(finding)
        self._metrics: list[tuple[int, str, float]] = []
        self._flushed = self._checkpointed = self._published = clock()
        self._first_published: float | None = None
        self._snapshot: tuple[int, Snapshot] | None = None
        self.checkpoint_step = 0
        self._last_batch: Batch | None = None
        # For a dump. Weak, so that what an engine has let go of does not stay in memory for it.
        self._batches: WeakValueDictionary[str, Batch] = WeakValueDictionary()

    @property
    def last_batch(self) -> Batch | None:
        """What the engine was given last."""
        return self._last_batch

    @last_batch.setter
    def last_batch(self, batch: Batch | None) -> None:
        self._last_batch = batch
        if batch is not None:
            self._batches[batch.keys[0]] = batch

    def since_checkpoint_s(self) -> float:
        """Seconds since the last checkpoint, or since the start."""
        return self._clock() - self._checkpointed

    def since_published_s(self) -> float:
        """Seconds since the last snapshot, or since the start."""
        return self._clock() - self._published

    def since_first_published_s(self) -> float | None:
        """Seconds since the first snapshot of this process; None before."""
        return None if self._first_published is None else self._clock() - self._first_published

    def guard(self, boundary: str, engine: Engine, step: int) -> None:
        """Run the engine's guards of one boundary.

        Raises:
            GuardStop: one of severity `stop` has tripped.
        """
        self.note(run_guards(engine.guards, boundary, engine), engine, step)

    def note(self, findings: Iterable[Finding], engine: Engine | None, step: int) -> None:
        """Record findings; keep those that stick to every later snapshot; stop when one says so.

        Raises:
            GuardStop: one of severity `stop` or `refuse` is among them; a dump is kept once there is an engine.
        """
        for finding in findings:
            self._ledger.add_finding(step, finding)
            if finding.severity in (Severity.STOP, Severity.REFUSE):
                self._stop(finding, engine, step)
            if self._remember(finding):
                self._reporter.finding(finding)

    def _remember(self, finding: Finding) -> bool:
        same = [kept for kept in self._lasting if kept.guard == finding.guard]
        if len(same) >= SHOWN_PER_GUARD or any(kept.saw == finding.saw for kept in same):
            return False
        self._lasting.append(finding)
        return True

    def _stop(self, finding: Finding, engine: Engine | None, step: int) -> None:
        self.flush()
        self._ledger.event("stopped", finding.sentence())
        remedy = finding.remedy
        if engine is not None:
            path = self.dump(finding.guard, engine, step, finding)
            remedy = (
                f"{remedy} The engine's inputs and state are in {path}; the last good checkpoint is untouched.".strip()
            )
        raise GuardStop(f"{finding.guard} stopped the run at step {step}: {finding.saw}", remedy=remedy)

    def measure(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the numbers of a step, on the disk once a second."""
        self._metrics += [(step, name, float(value)) for name, value in metrics.items()]
        if self._clock() - self._flushed >= _METRICS_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Put the numbers of the last steps on the disk."""
        if self._metrics:
            self._ledger.add_metrics(self._metrics)
        self._metrics, self._flushed = [], self._clock()

    def checkpoint(self, engine: Engine, step: int, flags: Mapping[str, bool]) -> Path:
        """Keep the engine as step number `step` left it; never called between an ingest and the step after it."""
        self.flush()
        path = self._store.write_checkpoint(step, engine.state(), flags)
        self._checkpointed, self.checkpoint_step = self._clock(), step
        return path

    def publish(self, engine: Engine, step: int) -> Path:
        """A snapshot with its verdict, for people.

        Raises:
            GuardStop: a guard of the boundary "publish" stops the run; nothing is published.
        """
        self.flush()
        self.guard("publish", engine, step)
        snapshot = engine.snapshot()
        judged = verdict(self._lasting, snapshot.provisional)
        draw = None if self._pictures is None else self._draw
        path = self._store.write_snapshot(step, snapshot, self._lasting, judged, draw)
        self._snapshot, self._published = (step, snapshot), self._clock()
        if self._first_published is None:
            self._first_published = self._published
        self._ledger.event("published", f"snapshot {path.name}, {judged}.")
        return path

    def _draw(self, snapshot: Snapshot, folder: Path) -> None:
        """A picture that cannot be drawn is said, and costs no run."""
        assert self._pictures is not None
        try:
            self._pictures(snapshot, folder)
        except Exception as error:
            text = f"the pictures of a snapshot could not be drawn ({type(error).__name__}: {error})."
            self._ledger.event("picture", text)
            self._reporter.say(text)

    def dump(self, why: str, engine: Engine, step: int, finding: Finding | None = None) -> Path:
        """Keep the engine's state and its batches with pixels, so that `replay` can run it again."""
        records = [self._ledger.records(row) for row in self._ledger.batches()]
        batches = [self._batches.get(batch[0].key) for batch in records]
        header = self._ledger.header()
        about = {
            "step": step,
            "why": why,
            "finding": None if finding is None else finding.sentence(),
            "guard": None if finding is None else finding.guard,
            "header": None if header is None else {"kind": header.kind, "fields": header.fields},
        }
        name = f"{step:06d}-{why.replace('/', '_')}"
        return self._store.write_dump(name, engine.state(), batches, records, about)

    def conclude(self, engine: Engine, step: int) -> tuple[Path, Verdict]:
        """Write result/ from the last snapshot."""
        self.flush()
        if self._snapshot is not None and self._snapshot[0] == step:
            snapshot = self._snapshot[1]
        else:
            snapshot = engine.snapshot()
        judged = verdict(self._lasting, snapshot.provisional)
        records = self._ledger.records()
        return self._store.write_result(self._exporter, snapshot, records, self._lasting, judged), judged
