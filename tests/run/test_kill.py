"""kill -9 at any instant: the run that goes on afterwards gives the same bytes as one that was never disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beamside.run import atomic
from beamside.run.encode import unpack
from beamside.run.ledger import Ledger
from beamside.run.lock import holder
from beamside.run.store import Store
from tests.run.toy import LAST_STEPS, ToySource, files, records, toy_run

N = 47
"""Batches of 7 and ten of 4: 55 steps, and the last ones."""
STEPS = 11 * 5 + LAST_STEPS
ROOT = Path(__file__).parents[2]


def start(folder: Path, how: str, pause_s: float = 0.006, end: str = "closed") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.run.toy", str(folder), how, str(N), str(pause_s), end]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.002)


def killed(folder: Path, how: str, after_s: float) -> None:
    """Run for `after_s` after the lock was taken, then kill -9."""
    with start(folder, how) as process:
        deadline = time.monotonic() + 30
        while holder(folder) is None and process.poll() is None:
            assert time.monotonic() < deadline, "the run did not begin"
            time.sleep(0.002)
        time.sleep(after_s)
        process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert toy_run(folder, ToySource([records(N)])).steps == STEPS
    return files(folder)


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again(tmp_path: Path, whole: dict[str, bytes], seed: int) -> None:
    chance, folder = random.Random(seed), tmp_path / "run"
    for _ in range(4):
        # a kill before run.json is there leaves nothing that could be resumed
        how = "resume" if (folder / "run.json").exists() else "fresh"
        killed(folder, how, chance.uniform(0.0, 0.25))
    with start(folder, "resume" if (folder / "run.json").exists() else "fresh") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Finished: 47 items" in out
    assert files(folder) == whole
    newest, damaged = Store(folder).newest_valid_checkpoint()
    assert newest is not None and newest.step == STEPS and damaged == []


def test_a_torn_checkpoint_falls_back_and_the_result_is_the_same(tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    with start(folder, "fresh") as process:
        wait_for(folder / "checkpoints" / "000020")
        process.kill()
    checkpoints = sorted((folder / "checkpoints").iterdir())
    torn = checkpoints[-1] / "state.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    with start(folder, "resume") as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert files(folder) == whole
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        assert [event.kind for event in ledger.events()].count("damaged") == 1


def test_without_any_checkpoint_the_ledger_is_enough(tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder = tmp_path / "run"
    with start(folder, "fresh") as process:
        wait_for(folder / "snapshots" / "000010")
        process.kill()
    for file in (folder / "checkpoints").rglob("*.safetensors"):
        file.unlink()
    # the source of the second process has nothing to give: all items come from the ledger
    toy_run(folder, ToySource([]), resume=True)
    assert files(folder) == whole


class Cut(BaseException):
    """The power went, as far as the files are concerned."""


@pytest.mark.parametrize("step", range(1, 100, 9))
def test_cut_at_any_touch_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    toy_run(tmp_path / "whole", ToySource([records(9)]))
    folder, count = tmp_path / "run", 0

    def cutting(real: Callable[..., None]) -> Callable[..., None]:
        def touch(*arguments: Any) -> None:
            nonlocal count
            count += 1
            if count == step:
                raise Cut
            real(*arguments)

        return touch

    with monkeypatch.context() as patch:
        for name in ("write", "fsync", "rename"):
            patch.setattr(atomic, name, cutting(getattr(atomic, name)))
        with pytest.raises(Cut):
            toy_run(folder, ToySource([records(9)]))
    toy_run(folder, ToySource([records(9)]), resume=(folder / "run.json").exists())
    assert files(folder) == files(tmp_path / "whole")


def test_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    with start(tmp_path / "run", "fresh", pause_s=30.0) as process:
        wait_for(tmp_path / "run" / "ledger.sqlite")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert process.poll() is None, "the first Ctrl-C waits for the step"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130


def test_two_processes_in_one_directory(tmp_path: Path) -> None:
    with start(tmp_path / "run", "fresh", end="open") as first:
        wait_for(tmp_path / "run" / "checkpoints" / "000005")
        with start(tmp_path / "run", "resume") as second:
            _, error = second.communicate(timeout=30)
        assert second.returncode == 1 and f"held by process {first.pid}" in error
        first.send_signal(signal.SIGTERM)
        out, _ = first.communicate(timeout=30)
    assert first.returncode == 130 and "beamside resume" in out


def test_the_arrays_of_the_last_snapshot_are_readable(whole: dict[str, bytes]) -> None:
    assert unpack(whole[f"snapshots/{STEPS:06d}/arrays.safetensors"])["value"].shape == (3,)
