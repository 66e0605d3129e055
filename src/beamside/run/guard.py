"""Guards: named checks at the boundaries where data changes hands."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class Severity(enum.StrEnum):
    """What a finding does to the run."""

    NOTE = "note"
    SUSPECT = "suspect"
    STOP = "stop"
    REFUSE = "refuse"


class Verdict(enum.StrEnum):
    """What a snapshot may be used for."""

    TRUSTED = "trusted"
    PROVISIONAL = "provisional"
    SUSPECT = "suspect"


@dataclass(frozen=True)
class Finding:
    """A guard has tripped: what it saw, and what to do."""

    guard: str
    severity: Severity
    saw: str
    remedy: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def sentence(self) -> str:
        """For people."""
        return f"[{self.severity}] {self.guard}: {self.saw} {self.remedy}"


Check = Callable[[Any], Finding | None]


@dataclass(frozen=True)
class Guard:
    """One check on one boundary.

    boundary: "ingest", "step" or "publish" are run by the loop on the engine; others ("options", "table", "files")
    are run by the code that owns the boundary and are listed here for the catalogue.
    bound_origin: where the bound comes from (a measurement, a theorem, a published default).
    """

    name: str
    boundary: str
    statistic: str
    bound: str
    bound_origin: str
    severity: Severity
    explanation: str
    remedy: str
    check: Check

    def finding(self, saw: str, **values: Any) -> Finding:
        """A finding of this guard."""
        return Finding(self.name, self.severity, saw, self.remedy, values)


def run_guards(guards: Iterable[Guard], boundary: str, subject: Any) -> list[Finding]:
    """The findings of those guards that sit on `boundary`."""
    found = (guard.check(subject) for guard in guards if guard.boundary == boundary)
    return [f for f in found if f is not None]


def verdict(findings: Iterable[Finding], provisional: str) -> Verdict:
    """suspect when any finding says so, else provisional when there is too little data, else trusted."""
    if any(f.severity in (Severity.SUSPECT, Severity.STOP) for f in findings):
        return Verdict.SUSPECT
    return Verdict.PROVISIONAL if provisional else Verdict.TRUSTED
