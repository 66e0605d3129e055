"""Progress on a terminal and in a log."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from datetime import datetime

import pytest

from beamside.cli.progress import TerminalProgress
from beamside.cli.timed_source import TimedSource, worked_s
from beamside.run.engine import Progress
from beamside.run.guard import Finding, Severity
from beamside.run.ledger import Event
from beamside.run.report import Activity, Report
from tests.run.toy import FakeClock, ToySource


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def working(fraction: float, *, ended: bool = False, arrived: int = 120, **metrics: float) -> Report:
    progress = Progress(f"round 1, {fraction:g}", fraction, ended, ended, metrics=metrics)
    return Report(Activity.WORKING, arrived, 100, 50, progress)


def waiting() -> Report:
    return Report(Activity.WAITING, 120, 100, 50, None)


FINDING = Finding("toy.guard", Severity.SUSPECT, "it is odd.", "Look.")


def test_a_terminal_has_one_line_with_rate_elapsed_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream, clock = Terminal(), FakeClock()
    progress = TerminalProgress(stream=stream, clock=clock, unit="particles")
    progress.update(working(0.1))
    clock.now = 30.0
    progress.update(working(0.4, arrived=240, items_per_s=1234.0))
    line = stream.getvalue().split("\r\x1b[K")[-1]
    assert line == "[0:30, ETA 1:00]  240 particles (4/s), 100 in use  round 1, 0.4  40 %  1234 par"
    assert "\n" not in stream.getvalue()
    progress.close()
    assert stream.getvalue().endswith("\n")
    progress.close()
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_is_not_flooded() -> None:
    stream, clock = Terminal(), FakeClock()
    progress = TerminalProgress(stream=stream, clock=clock)
    for i in range(100):
        clock.now = i / 100
        progress.update(working(i / 100))
    assert stream.getvalue().count("\r") <= 6


@pytest.mark.parametrize("moving", [True, False])
def test_reading_is_shown_on_a_terminal_and_in_a_log_when_it_lasts(moving: bool) -> None:
    stream, clock = Terminal() if moving else io.StringIO(), FakeClock()
    progress = TerminalProgress(stream=stream, clock=clock)
    reading = Report(Activity.READING, 120, 50, 50, None)
    for fraction in (0.1, 0.2):
        progress.update(reading)
        progress.update(working(fraction))
    said = stream.getvalue()
    assert said.count("120 items, 50 in use  reading items") == (2 if moving else 1), said
    assert said.count("round 1") == (2 if moving else 1), said
    clock.now = 31.0
    progress.update(reading)
    assert stream.getvalue().count("reading items") == (3 if moving else 2)


def test_waiting_says_how_many_are_missing() -> None:
    stream = Terminal()
    TerminalProgress(stream=stream, clock=FakeClock()).update(waiting())
    assert "waiting for items (30 more for the next batch)" in stream.getvalue()


def test_a_log_has_sparse_plain_lines() -> None:
    stream, clock = io.StringIO(), FakeClock()
    progress = TerminalProgress(stream=stream, clock=clock)
    for i in range(61):
        clock.now = float(i)
        progress.update(working(i / 100))
    progress.update(working(1.0, ended=True))
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert [line.split("]")[0].split(",")[0] for line in stream.getvalue().splitlines()] == [
        "[0:00",
        "[0:30",
        "[1:00",
        "[1:00",
    ]


def test_a_log_hears_at_once_that_there_is_more_to_do_and_what_it_depends_on() -> None:
    stream, clock = io.StringIO(), FakeClock()
    progress = TerminalProgress(stream=stream, clock=clock)
    for seconds, fraction in ((0.0, 0.1), (1.0, 0.8), (2.0, 0.3), (3.0, 0.4)):
        clock.now = seconds
        report = working(fraction)
        assert report.progress is not None
        told = replace(report.progress, proviso="" if seconds >= 2 else "longer if it is refused")
        progress.update(replace(report, progress=told))
    first, second = stream.getvalue().splitlines()
    assert first.endswith("round 1, 0.1  10 % (longer if it is refused)") and second.endswith("round 1, 0.3  30 %")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_says_only_findings(stream: io.StringIO) -> None:
    progress = TerminalProgress(stream=stream, clock=FakeClock(), quiet=True)
    progress.update(working(0.5))
    progress.say("text")
    progress.finding(FINDING)
    assert stream.getvalue().removeprefix("\r\x1b[K") == "[suspect] toy.guard: it is odd. Look.\n"


def test_sentences_leave_the_line_clean() -> None:
    stream = Terminal()
    progress = TerminalProgress(stream=stream, clock=FakeClock())
    progress.update(working(0.5))
    progress.say("text")
    assert stream.getvalue().endswith("\r\x1b[Ktext\n")


def test_where_the_clock_tells_how_far_it_is_the_work_does_not() -> None:
    """A training under a time limit: its rounds come to their end again and again, the run does once."""
    stream, clock = io.StringIO(), FakeClock()
    source = TimedSource(ToySource([]), 1000.0, 0.7, 100.0, clock)
    progress = TerminalProgress(stream=stream, clock=clock, share=source.share)
    progress.update(working(0.9))
    clock.now = 300.0
    progress.update(working(0.4))
    assert "[5:00, ETA 10:00]" in stream.getvalue().splitlines()[-1]
    assert stream.getvalue().splitlines()[-1].endswith("40 %")
    clock.now = 600.0
    assert source.share() is None and source.exhausted()
    progress.update(working(0.72))
    assert stream.getvalue().splitlines()[-1].endswith("72 %")


def test_a_resumed_run_has_used_the_time_that_processes_worked() -> None:
    """Not the night between them, nor what came after the last that is known of one that was killed."""
    began = Event("2026-01-01T20:00:00+00:00", "begun", "")
    at_s = datetime.fromisoformat(began.time).timestamp()
    again = [Event(f"2026-01-0{day}T08:00:00+00:00", "resumed", "") for day in (2, 3)]
    night_s = 12 * 3600.0
    assert worked_s([began], []) == 0
    assert worked_s([began, again[0]], [at_s + 60, at_s + 300]) == 300
    assert worked_s([began, *again], [at_s + 300, at_s + night_s + 100]) == 400
    interrupted = Event("2026-01-01T20:05:30+00:00", "interrupted", "")
    assert worked_s([began, interrupted, again[0]], [at_s + 300]) == 330


def test_once_the_source_has_closed_the_work_tells_how_far_it_is() -> None:
    """A run that was killed after that and is resumed: its clock would say that the source is open."""
    source = TimedSource(ToySource([]), 1000.0, 0.7, math.inf, FakeClock())
    assert source.share() is None and source.exhausted()
