"""kill -9 of real reconstructions and trainings at random instants of every phase; the result is the undisturbed one's.

Few kills an engine by default, which find what breaks at once; two hundred an engine under `slow`.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from beamside.run.ledger import Ledger
from beamside.simulate.scan_files import write_scan
from tests.denoise.scene import write_session
from tests.gauntlet import denoise_drive, ptycho_drive
from tests.ptycho import scene

LONGEST_S = 600
FRAMES, PAIRS = 120, 4


@dataclass(frozen=True)
class Killable:
    """How a run of an engine begins, what it leaves, and how many items it has."""

    begin: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, bytes]]
    items: int


@dataclass(frozen=True)
class Undisturbed:
    """What a run leaves that was left alone, and how long it took."""

    engine: Killable
    result: dict[str, bytes]
    seconds: float


def ptycho_result(folder: Path) -> dict[str, bytes]:
    return {"object.npz": ptycho_drive.result(folder)}


@pytest.fixture(scope="module", params=["ptycho", "denoise"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "ptycho":
        made = scene.scan(FRAMES)
        write_scan(folder / "scan.cxi", made)
        more = ("--publish-every", "0.2s", "--max-iterations", "40")
        begin = ["ptycho", str(folder / "scan.cxi")]
        engine = Killable(lambda run: [*begin, str(run), *ptycho_drive.QUICK, *more], ptycho_result, FRAMES)
    else:
        inputs = write_session(folder / "in", PAIRS)
        engine = Killable(lambda run: denoise_drive.arguments(inputs, run), denoise_drive.result_bytes, PAIRS)
    begun = time.monotonic()
    finish(engine, folder / "run")
    return Undisturbed(engine, engine.result(folder / "run"), time.monotonic() - begun)


def command(engine: Killable, folder: Path) -> list[str]:
    """Begin, or go on with, a run."""
    more = ["resume", str(folder)] if (folder / "run.json").exists() else engine.begin(folder)
    return [sys.executable, "-m", "beamside", *more]


def killed(engine: Killable, folder: Path, after_s: float) -> bool:
    """Whether the process was still running when it was killed."""
    with subprocess.Popen(
        command(engine, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            process.wait(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    return False


def finish(engine: Killable, folder: Path) -> None:
    done = subprocess.run(command(engine, folder), capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stderr


def kill_many(whole: Undisturbed, base: Path, kills: int, seed: int) -> None:
    """Kill so often, begin anew whenever a run has come to its end, and compare every end."""
    chance, made, number = random.Random(seed), 0, 0
    reach_s = 1.2 * whole.seconds
    while made < kills:
        folder = base / f"run{number}"
        number += 1
        while made < kills and not (folder / "result").exists():
            if killed(whole.engine, folder, chance.uniform(0.2, reach_s)):
                made += 1
            else:
                reach_s = max(2.0, 0.8 * reach_s)  # it was over sooner: the machine has less to do than at first
        finish(whole.engine, folder)
        found = whole.engine.result(folder)
        assert found.keys() == whole.result.keys()
        assert [name for name in found if found[name] != whole.result[name]] == []
        with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
            keys = [record.key for record in ledger.records()]
        assert len(keys) == len(set(keys)) == whole.engine.items, "no item is lost or taken twice"


def test_a_few_kills(whole: Undisturbed, tmp_path: Path) -> None:
    kill_many(whole, tmp_path, 4, 7)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_kills(whole: Undisturbed, tmp_path: Path, seed: int) -> None:
    kill_many(whole, tmp_path, 20, 200 + seed)
