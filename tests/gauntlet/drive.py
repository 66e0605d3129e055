"""Real runs of the real loop through the command line, in this process so that a defect can be put in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from beamside.cli.main import main
from beamside.run.ledger import Ledger
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.session_files import write_once
from beamside.simulate.volumes import load_volume
from tests.classify.scene import BOX, PIXEL_A

FAST = ("--iterations", "3", "--first-batch", "240", "--max-resolution", "20", "--mask-diameter", "220")
ALWAYS = ("--threads", "1", "--quiet", "--training-particles", "100")


@dataclass(frozen=True)
class Ran:
    """How a run ended: exit status, what it said, its directory, and (guard, severity, sentence) of all findings."""

    status: int
    said: str
    folder: Path
    findings: list[tuple[str, str, str]]

    def named(self, guard: str) -> list[str]:
        """Sentences of one guard."""
        return [sentence for name, _, sentence in self.findings if name == guard]


def run(capsys: pytest.CaptureFixture[str], particles: Path, folder: Path, *more: object, classes: int = 4) -> Ran:
    """`beamside classify`."""
    given = [str(word) for word in (*FAST, *more, *ALWAYS)]
    status = main(["classify", str(particles), str(folder), "--classes", str(classes), *given])
    captured = capsys.readouterr()
    findings = []
    if (folder / "ledger.sqlite").exists():
        with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
            findings = [(f.guard, str(f.severity), f.sentence()) for _, f in ledger.findings()]
    return Ran(status, captured.err + captured.out, folder, findings)


def write_session(folder: Path, **recipe: object) -> Path:
    """Particles on disk, of the small scene unless `recipe` says otherwise; the STAR file."""
    standard = {"count": 240, "snr": 0.5, "shift_px": 1.5, "micrographs": 6, "seed": 3}
    box, pixel_A = int(str(recipe.pop("box_px", BOX))), float(str(recipe.pop("pixel_size_A", PIXEL_A)))
    structure = str(recipe.pop("structure", "walk"))
    volume, _ = load_volume(structure, box, pixel_A, 0.0)
    made = Session(volume, Recipe(box, pixel_A, **{**standard, **recipe}))  # type: ignore[arg-type]
    write_once(folder, made, volume)
    return folder / "particles.star"


def result_bytes(folder: Path) -> dict[str, bytes]:
    """What a run leaves for other programs."""
    return {path.name: path.read_bytes() for path in sorted((folder / "result").glob("run_it*"))}


def verdict(folder: Path) -> str:
    """Of the newest snapshot."""
    newest = sorted((folder / "snapshots").iterdir())[-1]
    return str(json.loads((newest / "snapshot.json").read_text())["verdict"])


def assert_stopped(ran: Ran, guard: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3, the guard's name, what it saw, what to do, a dump that reproduces it, and no result."""
    assert ran.status == 3
    assert re.search(rf"{re.escape(guard)} stopped the run at step \d+: .*{says}", ran.said), ran.said
    assert "The engine's inputs and state are in" in ran.said
    (dump,) = (ran.folder / "dumps").iterdir()
    assert dump.name.endswith(guard) and not (ran.folder / "result").exists()
    status = main(["replay", str(dump)])
    said = capsys.readouterr().out
    assert status == 0 and f"{guard}: reproduced" in said, said


def assert_refused(ran: Ran, says: str) -> None:
    """Status 2, one sentence, nothing left behind."""
    assert ran.status == 2 and re.search(says, ran.said), ran.said
    assert "Traceback" not in ran.said and not ran.folder.exists()
