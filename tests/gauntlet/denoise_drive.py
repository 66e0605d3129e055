"""Real trainings of a tiny network on tiny micrographs, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamside.cli.main import main
from beamside.run.ledger import Ledger
from tests.gauntlet.drive import Ran

QUICK = ("--network", "seed3", "--crop", "64", "--batch", "4", "--learning-rate", "0.01", "--init", "none")
ALWAYS = ("--threads", "1", "--quiet")
STEPS = ("--steps", "150")


def arguments(inputs: Path, folder: Path, *more: object) -> list[str]:
    """Of `beamside denoise train`; `--steps`, None among `more` leaves the number of steps to the source."""
    words = [*more] if "--steps" in more else [*STEPS, *more]
    given = [str(word) for word in words if word is not None and (word != "--steps" or None not in words)]
    return ["denoise", "train", str(inputs), str(folder), *QUICK, *ALWAYS, *given]


def train(capsys: pytest.CaptureFixture[str], inputs: Path, folder: Path, *more: object) -> Ran:
    """`beamside denoise train`."""
    status = main(arguments(inputs, folder, *more))
    captured = capsys.readouterr()
    found = []
    if (folder / "ledger.sqlite").exists():
        with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
            found = [(f.guard, str(f.severity), f.sentence()) for _, f in ledger.findings()]
    return Ran(status, captured.err + captured.out, folder, found)


def result_bytes(folder: Path) -> dict[str, bytes]:
    """What a run leaves for other programs."""
    return {path.name: path.read_bytes() for path in sorted((folder / "result").glob("*.safetensors"))}
