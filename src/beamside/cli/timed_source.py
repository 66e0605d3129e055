"""A source under a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding
from beamside.run.ledger import Event
from beamside.run.source import Record, Source


class TimedSource:
    """A source that counts as open until a time has passed, so that training goes on, and as exhausted afterwards.

    limit_s: what the whole run may take; open_share: the part of it during which the source is open; used_s: how long
    the run has been at work before. When it closed is in the ledger, so a run that is killed later closes at the same
    step.
    """

    def __init__(
        self,
        source: Source,
        limit_s: float,
        open_share: float,
        used_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._clock, self._limit_s, self._open_share = source, clock, limit_s, open_share
        self._ends = self._clock() + limit_s * open_share - used_s

    def share(self) -> float | None:
        """How much of the whole run is done by the clock; None once the source is exhausted and only work is left."""
        left_s = self._ends - self._clock()
        return None if left_s <= 0 else max(0.0, self._open_share - left_s / self._limit_s)

    def header(self) -> Header | None:
        """The inner source's."""
        return self._source.header()

    def poll(self) -> Sequence[Record]:
        """The inner source's records; none once it is exhausted."""
        return [] if self._source.exhausted() else self._source.poll()

    def exhausted(self) -> bool:
        """True when the time is over, or at once where the inner source has nothing at all."""
        empty = self._source.exhausted() and self._source.header() is None
        return empty or self._clock() >= self._ends

    def findings(self) -> Sequence[Finding]:
        """The inner source's."""
        return self._source.findings()

    def batch(self, records: Sequence[Record]) -> Batch:
        """The inner source's."""
        return self._source.batch(records)


_TURNS = ("begun", "resumed")
"""Events with which a process goes to work on a run."""


def worked_s(events: Sequence[Event], checkpoints_s: Iterable[float]) -> float:
    """How long processes have been at work on a run, from its events and the times of its checkpoints.

    A process that was killed worked until the last that is known of it. What lies between two of them, a night
    perhaps, does not count.
    """
    known = [(datetime.fromisoformat(event.time).timestamp(), event.kind in _TURNS) for event in events]
    known += [(at, False) for at in checkpoints_s]
    total, began, last = 0.0, None, 0.0
    for at, turn in sorted(known):
        if turn:
            total += 0.0 if began is None else last - began
            began = at
        last = at
    return total + (0.0 if began is None else last - began)
