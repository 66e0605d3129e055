"""A scan ten times larger than the declared capacity: the frames beyond it take no memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beamside.simulate.scan_files import write_scan
from tests.ptycho import scene

LAUNCHER = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_bytes(*argv: object) -> int:
    """The largest resident size of one `beamside` process that ends well.

    A small process starts it: the peak of a child begins with what its parent held, which here is all of the tests.
    """
    command = [sys.executable, "-m", "beamside", *map(str, argv), "--threads", "1", "--quiet"]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, env=environment, check=True
    )
    status, peak = map(int, done.stdout.split())
    assert status == 0, done.stderr
    return peak * 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_scan_ten_times_larger_than_its_capacity(tmp_path: Path) -> None:
    """Frames beyond the capacity are read again in each iteration; only their positions stay."""
    made = scene.scan(1500, frame_px=128, step_px=2.0)
    write_scan(tmp_path / "scan.cxi", made)
    np.save(tmp_path / "probe.npy", scene.start_probe(made).modes)
    warm = ("--probe", tmp_path / "probe.npy", "--no-geometry-check", "--max-iterations", 2, "--first-frames", 1000)
    held = peak_bytes("ptycho", tmp_path / "scan.cxi", tmp_path / "a", *warm)
    capped = peak_bytes("ptycho", tmp_path / "scan.cxi", tmp_path / "b", *warm, "--capacity", 150)
    print(f"all 1,500 frames held {held >> 20} MB, 150 of them {capped >> 20} MB")
    assert capped < held - 0.5 * 1350 * 2 * 128**2
