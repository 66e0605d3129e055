"""kill -9 of real runs of every engine; what a run leaves in the end is what the undisturbed one leaves.

A few kills an engine by default, at random instants and in every named phase; two hundred a case under `slow`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamside.cli.main import main
from beamside.run import atomic
from tests.gauntlet.drive import result_bytes, run
from tests.gauntlet.kills import CASES, Slaughter, Tally, victim
from tests.gauntlet.nursery import PHASES, Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


def test_phases_are_told_apart(nursery: Nursery, tmp_path: Path) -> None:
    """Without this, a kill that never fell into a phase would count for it."""
    begin = victim("classify", tmp_path).begin(tmp_path / "run")
    whole = nursery.live(begin, tmp_path / "log", checkpoint_every_s=0.0)
    assert whole.code == 0 and not whole.killed and whole.died_in == "between"
    assert {name for name, _, _ in whole.phases} == set(PHASES)
    assert len(whole.durations("checkpoint")) >= len(whole.durations("step")), "a checkpoint after every step"
    again = victim("classify", tmp_path / "again").begin(tmp_path / "killed")
    killed = nursery.live(again, tmp_path / "log", kill=lambda phase, nth: 0.0 if (phase, nth) == ("step", 5) else None)
    assert killed.killed and len([name for name, _, _ in killed.phases if name == "step"]) in range(5, 9)


def assert_survived(tally: Tally, times: int, each: int) -> None:
    assert tally.tried == tally.survived == times, tally.words()
    assert min(tally.died_in[phase] for phase in PHASES) >= each, tally.words()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("case", "kills"), [("classify", 10), ("classify-volume", 5), ("ptycho", 15), ("denoise", 8)])
def test_a_few_kills(case: str, kills: int, nursery: Nursery, tmp_path: Path) -> None:
    # Where so few land depends on the machine.
    assert_survived(Slaughter(case, tmp_path, 7, nursery).kill(kills), kills, 0)


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("case", CASES)
def test_two_hundred_kills(case: str, nursery: Nursery, tmp_path: Path) -> None:
    assert_survived(Slaughter(case, tmp_path, 8, nursery).kill(200), 200, 5)


def test_kills_of_a_process_that_has_just_begun(tmp_path: Path) -> None:
    """A cold start, imports and all: a directory without run.json can be begun anew, one with it goes on."""
    prey = victim("classify", tmp_path)
    begin = [sys.executable, "-m", "beamside"]
    for number, after_s in enumerate((0.3, 1.2, 2.4, 3.6)):
        folder = tmp_path / f"run{number}"
        with subprocess.Popen([*begin, *prey.begin(folder)], stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(timeout=after_s)
            except subprocess.TimeoutExpired:
                process.kill()
        argv = ["resume", str(folder)] if (folder / "run.json").exists() else prey.begin(folder)
        assert main(argv) == 0
        assert prey.result(folder) == prey.result(tmp_path / "run0")


def test_a_resumed_process_computes_as_the_one_that_began(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is computed before the first lanes used to take as many threads as the process had, and so other bits."""
    import torch

    star = pristine / "particles.star"
    batches = ("--batch-size", "60", "--first-batch", "120")
    for folder in ("one", "two"):
        torch.set_num_threads(2)
        assert run(capsys, star, tmp_path / folder, *batches).status == 0
    assert result_bytes(tmp_path / "one") == result_bytes(tmp_path / "two")
    for folder in (tmp_path / "two" / "checkpoints").iterdir():
        atomic.remove(folder)
    atomic.remove(tmp_path / "two" / "result")
    torch.set_num_threads(2)
    assert main(["resume", str(tmp_path / "two")]) == 0
    assert result_bytes(tmp_path / "one") == result_bytes(tmp_path / "two")
