"""What the loop tells whoever watches it, and how it ends."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from beamside.run.engine import Progress
from beamside.run.guard import Finding, Verdict


class Activity(enum.StrEnum):
    """What the loop does at the moment."""

    WAITING = "waiting for items"
    PAUSED = "paused"
    READING = "reading items"
    """A batch has been cut and is read; from a slow disk that takes a while."""
    WORKING = "working"


@dataclass(frozen=True)
class Report:
    """The loop at one instant: items that have arrived, how many are in use, how many the next batch needs."""

    activity: Activity
    arrived: int
    used: int
    needed: int
    progress: Progress | None


class Reporter(Protocol):
    """Shows a run to a person."""

    def update(self, report: Report) -> None:
        """The loop is here now; called often."""
        ...

    def say(self, text: str) -> None:
        """A sentence that must not be overwritten."""
        ...

    def finding(self, finding: Finding) -> None:
        """A guard has tripped."""
        ...


class Ending(enum.StrEnum):
    """How a run ended that met no error."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Outcome:
    """What a run leaves behind."""

    ending: Ending
    steps: int
    items: int
    verdict: Verdict | None
    snapshot: Path | None
    result: Path | None
    sentence: str

    @property
    def exit_code(self) -> int:
        """0 when finished, 130 when interrupted, as shells expect it."""
        return 0 if self.ending is Ending.FINISHED else 130
