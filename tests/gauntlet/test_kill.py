"""kill -9 of real classifications at random instants of every phase; the result is that of the undisturbed run."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beamside.run.ledger import Ledger
from tests.gauntlet.drive import ALWAYS, result_bytes

OPTIONS = (
    "--classes",
    "4",
    "--iterations",
    "3",
    "--first-batch",
    "120",
    "--batch-size",
    "60",
    "--max-resolution",
    "20",
)
LONGEST_S = 600


def command(star: Path, folder: Path) -> list[str]:
    """Begin, or go on with, a run."""
    begin = [sys.executable, "-m", "beamside"]
    if (folder / "run.json").exists():
        return [*begin, "resume", str(folder)]
    return [*begin, "classify", str(star), str(folder), *OPTIONS, "--mask-diameter", "220", *ALWAYS]


def killed(star: Path, folder: Path, after_s: float) -> bool:
    """Whether the process was still running when it was killed."""
    with subprocess.Popen(command(star, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


def finish(star: Path, folder: Path) -> None:
    done = subprocess.run(command(star, folder), capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def undisturbed(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The result of a run that was left alone, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    begun = time.monotonic()
    finish(pristine / "particles.star", folder)
    return result_bytes(folder), time.monotonic() - begun


def kill_many(star: Path, base: Path, kills: int, seed: int, whole: tuple[dict[str, bytes], float]) -> None:
    """Kill so often, begin anew whenever a run has come to its end, and compare every end."""
    chance, made, number = random.Random(seed), 0, 0
    reach_s = 1.2 * whole[1]
    while made < kills:
        folder = base / f"run{number}"
        number += 1
        while made < kills and not (folder / "result").exists():
            if killed(star, folder, chance.uniform(0.2, reach_s)):
                made += 1
            else:
                reach_s = max(2.0, 0.8 * reach_s)  # it was over sooner: the machine has less to do than at first
        finish(star, folder)
        assert result_bytes(folder) == whole[0]
        with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
            keys = [record.key for record in ledger.records()]
        assert len(keys) == len(set(keys)) == 240, "no item is lost or taken twice"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_kills(
    pristine: Path, tmp_path: Path, undisturbed: tuple[dict[str, bytes], float], seed: int
) -> None:
    kill_many(pristine / "particles.star", tmp_path, 20, 100 + seed, undisturbed)


def test_a_resumed_process_computes_as_the_one_that_began(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is computed before the first lanes used to take as many threads as the process had, and so other bits."""
    import torch

    from beamside.run import atomic
    from tests.gauntlet.drive import run

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
    from beamside.cli.main import main

    assert main(["resume", str(tmp_path / "two")]) == 0
    assert result_bytes(tmp_path / "one") == result_bytes(tmp_path / "two")
