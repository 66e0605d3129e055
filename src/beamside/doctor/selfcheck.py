"""Two minutes of every engine on data whose truth is known: does this installation compute what it should?

An engine is checked by a function of no arguments that raises nothing and returns a `Check`; `CHECKS` lists them by
the engine's name. Checks are loaded when they run.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One comparison with the truth: `measured` must be at least `least` (a share, a correlation, a ratio)."""

    what: str
    measured: float
    least: float

    @property
    def passed(self) -> bool:
        """NaN is no pass."""
        return self.measured >= self.least


CHECKS: dict[str, str] = {
    "classify": "beamside.doctor.check_classify",
    "ptycho": "beamside.doctor.check_ptycho",
    "denoise": "beamside.doctor.check_denoise",
}
"""Engine -> module with `check() -> Check`."""


@dataclass(frozen=True)
class Outcome:
    """What became of one engine's check: passed, or why not; seconds it took."""

    engine: str
    passed: bool
    sentence: str
    seconds: float


def self_check(clock: Callable[[], float] = time.monotonic) -> Iterator[Outcome]:
    """Check one engine after the other; an error is a failed check, never the end of the others."""
    for engine, module in CHECKS.items():
        begun = clock()
        try:
            found: Check = importlib.import_module(module).check()
        except Exception as error:
            yield Outcome(engine, False, f"failed with {type(error).__name__}: {error}", clock() - begun)
            continue
        sentence = f"{found.what} is {found.measured:.3f}; at least {found.least:.3f} is needed"
        yield Outcome(engine, found.passed, sentence, clock() - begun)
