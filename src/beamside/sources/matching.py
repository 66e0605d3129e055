"""Frames and positions that arrive apart, in any order, matched by frame number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from beamside.run.guard import Finding, Severity
from beamside.sources.positions import LEAST_FOR_STATISTICS, absurd, lost_finding, outside_finding


@dataclass(frozen=True)
class Match:
    """A frame with its position: number, where it lies in the spool, (y, x) in metres."""

    frame: int
    offset: int
    y_m: float
    x_m: float


@dataclass
class Matcher:
    """Keeps what waits for its other half. Nothing is given out before 16 pairs say where the scan is, or the end."""

    window_m: float = 0.0
    frames: dict[int, int] = field(default_factory=dict)
    places: dict[int, tuple[float, float]] = field(default_factory=dict)
    frames_seen: int = 0
    repeated_frames: int = 0
    repeated_places: int = 0
    _given: set[int] = field(default_factory=set)
    _given_m: list[NDArray[np.float64]] = field(default_factory=list)
    _apart: set[int] = field(default_factory=set)
    _bad: list[int] = field(default_factory=list)
    _awaited: set[int] = field(default_factory=set)
    """Frames that were set aside, for their position, before they came."""

    def add_frame(self, frame: int, offset: int) -> bool:
        """A frame has come; False where it is of no use, because it came before or its position is no number."""
        if frame in self._awaited:
            self._awaited.remove(frame)
            self.frames_seen += 1
            return False
        if frame in self.frames or frame in self._given or frame in self._apart:
            self.repeated_frames += 1
            return False
        self.frames[frame] = offset
        self.frames_seen += 1
        return True

    def add_places(self, frames: Iterable[int], yx_m: Iterable[tuple[float, float]]) -> list[int]:
        """Positions have come; the numbers of those that are new. The first one of a number counts."""
        new = []
        for frame, (y_m, x_m) in zip(frames, yx_m, strict=True):
            if frame in self.places or frame in self._given or frame in self._apart:
                self.repeated_places += 1
                continue
            if not (np.isfinite(y_m) and np.isfinite(x_m)):
                self._bad.append(frame)
                self._apart.add(frame)
                if frame not in self.frames:
                    self._awaited.add(frame)
                continue
            self.places[frame] = (y_m, x_m)
            new.append(frame)
        return new

    def pairs(self, *, ended: bool) -> tuple[list[Match], list[Finding]]:
        """Pairs that have become complete, by frame number, and what was set aside."""
        findings = []
        if self._bad:
            what = "have a position that is no number"
            findings.append(lost_finding("positions.finite", Severity.NOTE, self._bad, what, "They are left out."))
            self._bad = []
        for frame in self._apart & self.frames.keys():
            del self.frames[frame]
        ready = sorted(self.frames.keys() & self.places.keys())
        if not ready or (not ended and not self._given and len(ready) < LEAST_FOR_STATISTICS):
            return [], findings
        places_m = np.array([self.places[frame] for frame in ready])
        far = absurd(places_m, np.concatenate([*self._given_m, places_m]), self.window_m)
        if far.any():
            numbers = np.array(ready)[far].tolist()
            findings.append(outside_finding(numbers, places_m[far]))
            self._apart.update(numbers)
        self._given_m.append(places_m[~far])
        matches = []
        for frame, apart in zip(ready, far.tolist(), strict=True):
            offset, (y_m, x_m) = self.frames.pop(frame), self.places.pop(frame)
            if not apart:
                self._given.add(frame)
                matches.append(Match(frame, offset, y_m, x_m))
        return matches, findings

    def leftovers(self, series_end: int | None) -> list[Finding]:
        """What never found its other half, what came twice and what never came, once the streams have ended."""
        findings = []
        remedy = "They are left out of the reconstruction."
        for numbers, what in ((self.frames, "have no position"), (self.places, "have a position and never came")):
            if numbers:
                findings.append(lost_finding("positions.complete", Severity.NOTE, sorted(numbers), what, remedy))
        known = self._given | self._apart | self.frames.keys() | self.places.keys()
        last = max(max(known, default=-1) + 1, series_end or 0)
        gaps = [frame for frame in range(last) if frame not in known]
        if gaps:
            what = "never came, with or without a position"
            findings.append(lost_finding("stream.gaps", Severity.NOTE, gaps, what, "The scan goes on without them."))
        if self.repeated_frames or self.repeated_places:
            saw = f"{self.repeated_frames} frames and {self.repeated_places} positions came more than once."
            findings.append(Finding("input.repeated", Severity.NOTE, saw, "The first of each was used."))
        return findings
