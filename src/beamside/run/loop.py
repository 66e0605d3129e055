"""pull -> ledger -> ingest -> step -> guards -> publish, checkpoint: one process, one loop.

The loop decides nothing about the science. What it decides itself (which items form a batch, at which step they are
ingested, when the source counts as closed) is in the ledger before it takes effect, so a run that is killed repeats
it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from beamside.errors import InputError, RunDirectoryError
from beamside.run.guard import Verdict
from beamside.run.intake import Intake
from beamside.run.interrupt import Interrupts
from beamside.run.keeper import Keeper
from beamside.run.ledger import FINISHED, BatchRow, Ledger
from beamside.run.report import Activity, Ending, Outcome, Report, Reporter
from beamside.run.source import Source
from beamside.run.start import Position, Start
from beamside.run.store import Exporter, Pictures, Store

if TYPE_CHECKING:
    from beamside.run.engine import Progress

_NAP_S = 0.25
"""Longest uninterrupted sleep, so that Ctrl-C is answered soon."""
_SOON_S = 1.0
"""Between the first snapshots of a run whose items are still coming."""
_CLOSED_AT = "closed_at_step"


def run(
    start: Start,
    source: Source,
    ledger: Ledger,
    store: Store,
    *,
    exporter: Exporter,
    reporter: Reporter,
    pictures: Pictures | None = None,
    idle_close_s: float | None = None,
    poll_s: float = 1.0,
    checkpoint_every_s: float = 60.0,
    publish_every_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Run an engine on a source until it has finished or is interrupted.

    start: `Fresh(EngineClass, options)` or `Resume(EngineClass, options)`.
    idle_close_s: close the source when no new item has come for that long; None: only when it is exhausted or on
    request.
    poll_s: least time between two looks at the source and the inbox.
    checkpoint_every_s: longest stretch of stepping without a checkpoint; each round ends with one anyway.
    publish_every_s: longest stretch of stepping without a snapshot, for an engine whose rounds are long; None: at the
    ends of rounds only. While items come, the first one is made as soon as there is something to show, and the next
    ones after stretches that double from a second on.

    Raises:
        GuardStop: a guard of severity `stop` has tripped; a dump is kept and the last good checkpoint stays.
        InputError: the source closed without an item, or its items are not those the run began with.
        RunDirectoryError: the engine does not repeat what the ledger says it did.
    """
    if ledger.fact(FINISHED) is not None and store.result.is_dir():
        return _already_finished(ledger, store)
    intake = Intake(source, ledger, reporter, idle_close_s=idle_close_s, poll_s=poll_s, clock=clock)
    keeper = Keeper(store, ledger, reporter, exporter=exporter, pictures=pictures, clock=clock)
    with Interrupts() as interrupts:

        def wait(report: Report) -> None:
            reporter.update(report)
            while not interrupts.requested and (left_s := intake.until_next_s()) > 0:
                sleep(min(left_s, _NAP_S))

        position = _open(start, source, ledger, store, intake, keeper, interrupts, wait)
        if position is None:
            return _interrupted(ledger, store, 0, intake.arrived)
        for remark in position.remarks:
            ledger.event("damaged", remark)
            reporter.say(remark)
        keeper.note(position.findings, position.engine, position.steps)
        loop = _Loop(position, source, ledger, store, intake, keeper, reporter, checkpoint_every_s, publish_every_s)
        return loop.run(interrupts, wait)


def _open(
    start: Start,
    source: Source,
    ledger: Ledger,
    store: Store,
    intake: Intake,
    keeper: Keeper,
    interrupts: Interrupts,
    wait: Callable[[Report], None],
) -> Position | None:
    """Wait until the header is known and open the engine; None when interrupted before."""
    while True:
        keeper.note(intake.poll(), None, 0)
        if interrupts.requested:
            return None
        header = ledger.header()
        if header is not None:
            return start.open(header, source, ledger, store)
        if intake.closed:
            raise _no_items(store)
        wait(Report(Activity.WAITING, intake.arrived, 0, 0, None))


class _Loop:
    """The engine, where it stands, and what it has still to repeat."""

    def __init__(
        self,
        position: Position,
        source: Source,
        ledger: Ledger,
        store: Store,
        intake: Intake,
        keeper: Keeper,
        reporter: Reporter,
        checkpoint_every_s: float,
        publish_every_s: float | None,
    ) -> None:
        self.source, self.ledger, self.store = source, ledger, store
        self.intake, self.keeper, self.reporter = intake, keeper, reporter
        self.checkpoint_every_s, self.publish_every_s = checkpoint_every_s, publish_every_s
        self.engine, self.steps = position.engine, position.steps
        self.idle, self.round_ended, self.ready = position.idle, position.round_ended, position.ready
        self.closed, self.finished = position.closed, position.finished
        self.replay: list[BatchRow] = list(position.replay)
        recorded = ledger.batches()
        self.used = sum(row.n for row in recorded[: len(recorded) - len(self.replay)])
        self.progress: Progress | None = None
        self.early = False
        """Whether snapshots come early because somebody watches items come."""
        keeper.checkpoint_step, keeper.last_batch = self.steps, position.last_batch

    def run(self, interrupts: Interrupts, wait: Callable[[Report], None]) -> Outcome:
        while not self.finished:
            self.keeper.note(self.intake.poll(), self.engine, self.steps)
            self.serve()
            if interrupts.requested:
                return self.interrupted()
            if self.intake.paused:
                wait(self.report(Activity.PAUSED))
                continue
            self.feed()
            if self.idle and not self.closed:
                wait(self.report(Activity.WAITING))
            else:
                self.step()
        return self.conclude()

    # batches

    def feed(self) -> None:
        """Ingest the next batch, or close the engine, when it is time for that."""
        if self.closed or self.repeat() or not (self.idle or self.round_ended or self.ready):
            return
        closed = self.intake.closed
        n = self.engine.policy.size(self.intake.arrived - self.used, begun=self.used > 0, closed=closed)
        if n:
            self.ingest(self.ledger.cut(n, self.steps))
        elif closed and not self.used:
            raise _no_items(self.store)
        elif closed:
            self.ledger.set_fact(_CLOSED_AT, self.steps)
            self.close()

    def repeat(self) -> bool:
        """Do again what an earlier process did at this step; True while what it did governs what happens."""
        if self.replay and self.replay[0].at_step == self.steps:
            self.ingest(self.replay.pop(0))
            return True
        closed_at = self.ledger.fact(_CLOSED_AT)
        if closed_at == self.steps:
            self.close()
            return True
        if not self.replay and closed_at is None:
            return False
        if self.idle:
            raise RunDirectoryError(
                f"the engine has nothing to do at step {self.steps}, where the earlier process went on.",
                where=str(self.store.folder),
                remedy="The input or the software has changed since; start a new run.",
            )
        return True

    def ingest(self, row: BatchRow) -> None:
        """Hand a recorded batch to the engine."""
        self.reporter.update(self.report(Activity.READING))
        self.used += row.n
        batch = self.source.batch(self.ledger.records(row))
        self.keeper.last_batch = batch
        self.engine.ingest(batch)
        self.idle = self.round_ended = self.ready = False
        self.keeper.guard("ingest", self.engine, self.steps)

    def close(self) -> None:
        """Tell the engine that no further items come."""
        self.engine.close()
        self.closed, self.idle = True, False

    # a step, and what follows it

    def step(self) -> None:
        """One step, its guards, and what it leaves worth keeping."""
        self.progress = progress = self.engine.step()
        self.steps += 1
        self.idle, self.round_ended, self.finished = progress.idle, progress.round_ended, progress.finished
        self.ready = progress.ready
        self.keeper.measure(self.steps, progress.metrics)
        self.reporter.update(self.report(Activity.WORKING))
        self.keeper.guard("step", self.engine, self.steps)
        ended = self.round_ended or self.finished
        if ended or self.due(progress):
            self.keeper.publish(self.engine, self.steps)
        if ended or self.keeper.since_checkpoint_s() >= self.checkpoint_every_s:
            self.checkpoint()

    def due(self, progress: Progress) -> bool:
        """Whether it is time for a snapshot in the middle of a round."""
        if self.publish_every_s is None or not progress.shows:
            return False
        first_s, last_s = self.keeper.since_first_published_s(), self.keeper.since_published_s()
        if first_s is None:
            self.early = not self.intake.closed
            return self.early or last_s >= self.publish_every_s
        soon_s = max(_SOON_S, first_s - last_s) if self.early else self.publish_every_s
        return last_s >= min(soon_s, self.publish_every_s)

    def checkpoint(self) -> None:
        names = ("idle", "round_ended", "ready", "closed", "finished")
        flags = {name: getattr(self, name) for name in names}
        self.keeper.checkpoint(self.engine, self.steps, flags)

    def serve(self) -> None:
        """Publish or dump on request, from an engine that has something to show."""
        if not self.steps:
            return
        if self.intake.publish_asked and (self.progress is None or self.progress.shows):
            self.intake.publish_asked = False
            self.reporter.say(f"Published {self.keeper.publish(self.engine, self.steps)}.")
        if self.intake.dump_asked:
            self.intake.dump_asked = False
            path = self.keeper.dump("asked", self.engine, self.steps)
            self.reporter.say(f"The engine's inputs and state are in {path}.")

    def report(self, activity: Activity) -> Report:
        policy = self.engine.policy
        needed = policy.later if self.used else policy.first
        return Report(activity, self.intake.arrived, self.used, needed, self.progress)

    # the end

    def interrupted(self) -> Outcome:
        """Called right after a step or before any, never between an ingest and its step."""
        if self.steps > self.keeper.checkpoint_step:
            self.checkpoint()
        return _interrupted(self.ledger, self.store, self.steps, self.intake.arrived)

    def conclude(self) -> Outcome:
        result, judged = self.keeper.conclude(self.engine, self.steps)
        self.ledger.set_fact(FINISHED, self.steps)
        waited = "" if (s := self.intake.since_arrival_s()) is None else f", {s:.0f} s after the last item arrived"
        sentence = f"Finished: {self.used} items{waited}, verdict {judged}. The result is in {result}."
        self.ledger.event("finished", sentence)
        snapshots = self.store.snapshots()
        return Outcome(Ending.FINISHED, self.steps, self.used, judged, snapshots[-1], result, sentence)


def _interrupted(ledger: Ledger, store: Store, steps: int, arrived: int) -> Outcome:
    sentence = f"Interrupted after step {steps}; everything is kept. Go on by: beamside resume {store.folder}"
    ledger.event("interrupted", sentence)
    return Outcome(Ending.INTERRUPTED, steps, arrived, None, None, None, sentence)


def _already_finished(ledger: Ledger, store: Store) -> Outcome:
    judged = Verdict(json.loads((store.result / "verdict.json").read_bytes())["verdict"])
    sentence = f"This run has finished already, verdict {judged}. The result is in {store.result}."
    ledger.event("finished", sentence)
    steps, snapshots = int(ledger.fact(FINISHED)), store.snapshots()
    return Outcome(Ending.FINISHED, steps, ledger.items(), judged, snapshots[-1], store.result, sentence)


def _no_items(store: Store) -> InputError:
    return InputError(
        "the source closed before any item came.", where=str(store.folder), remedy="Check the input's path."
    )
