"""What comes into a run between two steps: items from the source, requests from other processes, and the source's end.

Everything is in the ledger before it takes effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from beamside.errors import InputError
from beamside.run.guard import Finding
from beamside.run.ledger import Ledger, Request, header_matches
from beamside.run.report import Reporter
from beamside.run.source import Source

_CLOSED = "source_closed"


class Intake:
    """Polls the source and the inbox, at most every `poll_s` seconds."""

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        reporter: Reporter,
        *,
        idle_close_s: float | None,
        poll_s: float,
        clock: Callable[[], float],
    ) -> None:
        """Nothing is polled yet."""
        self._source, self._ledger, self._reporter = source, ledger, reporter
        self._idle_close_s, self._poll_s, self._clock = idle_close_s, poll_s, clock
        self._last_arrival, self._any = clock(), False
        self._polled = self._last_arrival - poll_s
        self.arrived = ledger.items()
        self.closed = ledger.fact(_CLOSED) is not None
        self.paused = self.publish_asked = self.dump_asked = False

    def since_arrival_s(self) -> float | None:
        """Seconds since the last item arrived; None where none has since this process began."""
        return self._clock() - self._last_arrival if self._any else None

    def until_next_s(self) -> float:
        """Seconds until a poll is due; 0 or less when it is."""
        return self._polled + self._poll_s - self._clock()

    def poll(self) -> Sequence[Finding]:
        """Look at inbox and source if it is time to; what the source has to say.

        Raises:
            InputError: the source's items are not of the kind that this run began with.
        """
        if self.until_next_s() > 0:
            return ()
        self._polled = self._clock()
        for number, request in self._ledger.requests():
            self._obey(request)
            self._ledger.taken(number)
        if self.closed:
            self._check_header()
            return ()
        return self._pull()

    def _pull(self) -> Sequence[Finding]:
        records = self._source.poll()
        self._check_header()
        if records and self._ledger.add(records):
            self.arrived, self._last_arrival, self._any = self._ledger.items(), self._clock(), True
        findings = self._source.findings()
        if self._source.exhausted():
            self._close("the source is exhausted")
        elif self._idle_close_s is not None and self._clock() - self._last_arrival >= self._idle_close_s:
            self._close(f"no new item for {self._idle_close_s:g} s")
        return findings

    def _check_header(self) -> None:
        seen, recorded = self._source.header(), self._ledger.header()
        if seen is None:
            return
        if recorded is None:
            self._ledger.set_header(seen)
        elif not header_matches(recorded, seen):
            raise InputError(
                f"the source gives {seen.kind} with {dict(seen.fields)}; the run began with {recorded.kind} with "
                f"{dict(recorded.fields)}.",
                where=str(self._ledger.path.parent),
                remedy="Restore the input with which the run began, or start a new run.",
            )

    def _obey(self, request: Request) -> None:
        self._ledger.event("request", f"asked to {request}.")
        match request:
            case Request.STOP:
                self._close("asked to stop")
            case Request.PAUSE | Request.CONTINUE:
                self.paused = request is Request.PAUSE
            case Request.PUBLISH:
                self.publish_asked = True
            case Request.DUMP:
                self.dump_asked = True

    def _close(self, why: str) -> None:
        if self.closed:
            return
        self.closed = True
        self._ledger.set_fact(_CLOSED, why)
        self._ledger.event("closed", f"source closed: {why}.")
        self._reporter.say(f"Source closed: {why}; {self.arrived} items have arrived.")
