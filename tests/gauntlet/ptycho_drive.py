"""Real runs of a small ptychographic scan: through the command line, or the loop with frames that arrive in pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.cli.main import main
from beamside.cli.ptycho import export
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.options import PtychoOptions
from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding
from beamside.run.ledger import Ledger
from beamside.run.loop import run as run_loop
from beamside.run.report import Outcome
from beamside.run.session import new_run
from beamside.run.source import Record
from beamside.run.start import Fresh
from beamside.run.store import manifest
from beamside.simulate.scan import Scan
from tests.gauntlet.drive import Ran
from tests.ptycho import scene
from tests.run.toy import Listener

QUICK = ("--threads", "1", "--quiet", "--iterations-after-close", "3", "--first-frames", "150")


def run(capsys: pytest.CaptureFixture[str], scan: Path, folder: Path, *more: object) -> Ran:
    """`beamside ptycho`."""
    status = main(["ptycho", str(scan), str(folder), *QUICK, *(str(word) for word in more)])
    captured = capsys.readouterr()
    return Ran(status, captured.err + captured.out, folder, findings(folder))


def findings(folder: Path) -> list[tuple[str, str, str]]:
    """(guard, severity, sentence) of everything that a run found."""
    if not (folder / "ledger.sqlite").exists():
        return []
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        return [(f.guard, str(f.severity), f.sentence()) for _, f in ledger.findings()]


def result(folder: Path) -> bytes:
    """The reconstruction as a file."""
    return (folder / "result" / "object.npz").read_bytes()


@dataclass
class Pieces:
    """A scan in memory that arrives in pieces; `gate(k)` says whether piece k may come."""

    made: Scan
    parts: Sequence[NDArray[np.int64]]
    gate: Callable[[int], bool] = lambda _: True
    pixels: NDArray[Any] | None = None
    given: int = 0
    found: list[Finding] = field(default_factory=list)

    def header(self) -> Header | None:
        return scene.header(self.made)

    def poll(self) -> Sequence[Record]:
        if self.exhausted() or not self.gate(self.given):
            return []
        self.given += 1
        return [Record(f"frame {row}", str(row)) for row in self.parts[self.given - 1].tolist()]

    def exhausted(self) -> bool:
        return self.given == len(self.parts)

    def findings(self) -> Sequence[Finding]:
        found, self.found = self.found, []
        return found

    def batch(self, records: Sequence[Record]) -> Batch:
        return scene.batch(self.made, np.array([int(r.payload) for r in records]), self.pixels)


def run_pieces(folder: Path, source: Pieces, options: PtychoOptions) -> tuple[Outcome, list[tuple[str, str, str]]]:
    """The outcome of the real loop and everything it found."""
    with new_run(folder, manifest("ptycho", {}, seed=options.seed, inputs=[])) as session:
        try:
            outcome = run_loop(
                Fresh(Ptychography, options), source, session.ledger, session.store, exporter=export,
                reporter=Listener(), poll_s=0.0,
            )  # fmt: skip
        finally:
            found = [(f.guard, str(f.severity), f.sentence()) for _, f in session.ledger.findings()]
    return outcome, found


def caught(monkeypatch: pytest.MonkeyPatch) -> list[Ptychography]:
    """Engines that runs make from now on, for a look at them afterwards."""
    engines: list[Ptychography] = []
    original = Ptychography.close

    def close(self: Ptychography) -> None:
        engines.append(self)
        original(self)

    monkeypatch.setattr(Ptychography, "close", close)
    return engines
