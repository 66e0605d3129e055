"""`beamside classify` as a process: a file becomes RELION's tables, a killed run resumes, nonsense is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from beamside.cli.durations import duration_s
from beamside.simulate.session_files import write_live, write_once
from beamside.simulate.volumes import load_volume
from tests.classify.scene import BOX, PIXEL_A
from tests.classify.scene import session as simulated

FAST = ["--classes", "4", "--iterations", "3", "--first-batch", "120", "--max-resolution", "20", "--threads", "1"]


@pytest.fixture(scope="module")
def star(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles on disk."""
    out = tmp_path_factory.mktemp("data") / "session"
    volume, _ = load_volume("walk", BOX, PIXEL_A, 0.0)
    write_once(out, simulated(), volume)
    return next(path for path in out.rglob("*.star"))


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "beamside", *map(str, args)]


def beamside(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=120, check=False)


def result_bytes(run_dir: Path) -> dict[str, bytes]:
    """RELION's three files; the tables say when they were made nowhere."""
    return {path.name: path.read_bytes() for path in sorted((run_dir / "result").glob("run_it*"))}


def test_a_file_becomes_relions_tables(star: Path, tmp_path: Path) -> None:
    done = beamside("classify", star, tmp_path / "run", *FAST)
    assert done.returncode == 0, done.stderr
    names = {path.name.split("_", 2)[-1] for path in (tmp_path / "run" / "result").glob("run_it*")}
    assert names == {"data.star", "model.star", "classes.mrcs"}
    assert (tmp_path / "run" / "result" / "gallery.png").exists()
    status = beamside("status", tmp_path / "run", "--json")
    assert status.returncode == 0 and '"trusted"' in status.stdout


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_and_resumed_gives_the_same_bytes(star: Path, tmp_path: Path, seed: int) -> None:
    assert beamside("classify", star, tmp_path / "whole", *FAST).returncode == 0
    wait_s = float(np.random.default_rng(seed).uniform(1.5, 3.5))
    process = subprocess.Popen(command("classify", star, tmp_path / "cut", *FAST), stderr=subprocess.DEVNULL)
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (tmp_path / "cut" / "run.json").exists():
        resumed = beamside("resume", tmp_path / "cut")
        assert resumed.returncode == 0, resumed.stderr
    else:
        assert beamside("classify", star, tmp_path / "cut", *FAST).returncode == 0
    assert result_bytes(tmp_path / "cut") == result_bytes(tmp_path / "whole")


def test_a_growing_folder_is_classified_to_the_last_particle(tmp_path: Path) -> None:
    volume, _ = load_volume("walk", BOX, PIXEL_A, 0.0)
    write_live(tmp_path / "live", simulated(), volume, 0.0, say=lambda _: None)
    args = ("--watch", "--idle-close", "2s", "--settle", "0.5s")
    done = beamside("classify", tmp_path / "live", tmp_path / "run", *FAST, *args)
    assert done.returncode == 0, done.stderr
    assert "240 items" in done.stdout


def test_an_earlier_run_serves_as_references(star: Path, tmp_path: Path) -> None:
    assert beamside("classify", star, tmp_path / "first", *FAST).returncode == 0
    update = ("--mode", "update", "--references", tmp_path / "first", "--iterations", "2", "--threads", "1")
    done = beamside("classify", star, tmp_path / "second", *update)
    assert done.returncode == 0, done.stderr
    recorded = (tmp_path / "second" / "run.json").read_text()
    assert str(tmp_path / "first") in recorded


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--watch"], "needs a folder"),
        (["--idle-close", "5s"], "without --watch"),
        (["--watch", "--idle-close", "3s"], "--idle-close 3s would end the watch before a file counts as complete"),
        (["--mode", "update"], "needs --references"),
        (["--mask-diameter", "100", "--mask-sigma", "3"], "not allowed with"),
        (["--device", "abacus"], "--device abacus"),
        (["--variance", "2"], "--variance is 2"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(star: Path, tmp_path: Path, args: list[str], words: str) -> None:
    done = beamside("classify", star, tmp_path / "run", *args)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "result").exists()


def test_a_stack_instead_of_its_table(star: Path, tmp_path: Path) -> None:
    done = beamside("classify", star.with_suffix(".mrcs"), tmp_path / "run")
    assert done.returncode == 2 and "is a file of images" in done.stderr and "Give the STAR file" in done.stderr
    assert not (tmp_path / "run").exists()


def test_missing_input_names_the_file(tmp_path: Path) -> None:
    done = beamside("classify", tmp_path / "absent.star", tmp_path / "run")
    assert done.returncode == 2 and "absent.star" in done.stderr and "Traceback" not in done.stderr


def test_durations() -> None:
    assert (duration_s("90s"), duration_s("10m"), duration_s("1.5h"), duration_s("7")) == (90.0, 600.0, 5400.0, 7.0)
