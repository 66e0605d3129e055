"""Progress in the terminal: one line that moves on a terminal, sparse plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from beamside.run.guard import Finding
from beamside.run.report import Activity, Report

_REDRAW_S = 0.2
_PLAIN_EVERY_S = 30.0


class TerminalProgress:
    """A `Reporter` that writes to a terminal or a log.

    On a terminal the line moves; in a log a line comes every 30 s and whenever the label changes its round. With
    `quiet` only findings are printed. share: how much of the whole is done, where the clock tells that and not the
    work; where there is none, or it gives None, it is as the work says.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        unit: str = "items",
        share: Callable[[], float | None] | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet, self._unit, self._clock, self._share = quiet, unit, clock, share
        self._stream = sys.stderr if stream is None else stream
        self._moving = self._stream.isatty()
        self._began = clock()
        self._drawn = -float("inf")
        self._round_began, self._round_from, self._fraction = self._began, 0.0, 0.0
        self._activity: Activity | None = None
        self._first: tuple[float, int] | None = None
        self._open_line = False

    def update(self, report: Report) -> None:
        """Show where the run is."""
        now = self._clock()
        by_clock = None if self._share is None else self._share()
        fraction = by_clock if by_clock is not None else 0.0 if report.progress is None else report.progress.fraction
        # Reading is a moment of most runs; a log hears of it only when nothing else was written for a while.
        told = self._moving or report.activity is not Activity.READING
        changed = told and self._activity is not report.activity
        more = report.activity is Activity.WORKING and fraction < self._fraction < 1
        if changed or fraction < self._fraction:
            self._round_began, self._round_from = now, fraction
        self._activity, self._fraction = report.activity if told else self._activity, fraction
        ended = report.progress is not None and (report.progress.round_ended or report.progress.finished)
        due = now - self._drawn >= (_REDRAW_S if self._moving else _PLAIN_EVERY_S)
        if self._quiet or not (due or changed or more or (ended and report.activity is Activity.WORKING)):
            return
        self._drawn = now
        self._show(self._line(report, now))

    def say(self, text: str) -> None:
        """A sentence on a line of its own."""
        if not self._quiet:
            self._print(text)

    def finding(self, finding: Finding) -> None:
        """A finding; shown even when quiet."""
        self._print(finding.sentence())

    def close(self) -> None:
        """Leave the terminal on a fresh line."""
        if self._open_line:
            self._stream.write("\n")
            self._stream.flush()
        self._open_line = False

    def _line(self, report: Report, now: float) -> str:
        parts = [f"[{_duration(now - self._began)}{self._eta(report, now)}]", self._arrivals(report, now)]
        if report.activity is not Activity.WORKING or report.progress is None:
            missing = report.needed - (report.arrived - report.used)
            parts.append(report.activity + (f" ({missing} more for the next batch)" if missing > 0 else ""))
            return "  ".join(parts)
        progress = report.progress
        parts += [progress.label, f"{100 * self._fraction:.0f} %"]
        if progress.proviso:
            parts[-1] += f" ({progress.proviso})"
        rate = progress.metrics.get("items_per_s")
        if rate is not None:
            parts.append(f"{rate:.0f} {self._unit}/s")
        return "  ".join(parts)

    def _eta(self, report: Report, now: float) -> str:
        """Time to the end of the round, from what was done of it since it was first seen."""
        done = self._fraction - self._round_from
        if report.activity is not Activity.WORKING or done <= 0 or self._fraction >= 1:
            return ""
        return f", ETA {_duration((now - self._round_began) * (1 - self._fraction) / done)}"

    def _arrivals(self, report: Report, now: float) -> str:
        """How many there are, and how fast they have come since this progress began."""
        if self._first is None:
            self._first = now, report.arrived
        since_s, came = now - self._first[0], report.arrived - self._first[1]
        rate = f" ({came / since_s:.0f}/s)" if since_s >= 1 and came else ""
        return f"{report.arrived} {self._unit}{rate}, {report.used} in use"

    def _show(self, line: str) -> None:
        if not self._moving:
            self._print(line)
            return
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[K{line[:width]}")
        self._stream.flush()
        self._open_line = True

    def _print(self, text: str) -> None:
        if self._moving:
            self._stream.write("\r\x1b[K")
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._open_line = False


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
