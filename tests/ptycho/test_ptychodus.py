"""ptychodus opens a result with its own library, and its exit waves are ours: frames come back out of them.

It is in the environment of `make oracles`; BEAMSIDE_PTYCHODUS names another interpreter that has it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beamside.ptycho.export import write_result
from tests.ptycho import scene

READER = Path(__file__).with_name("read_with_ptychodus.py")


def interpreter() -> str:
    """A Python that has ptychodus; the test is skipped, and says so, where there is none."""
    named = os.environ.get("BEAMSIDE_PTYCHODUS")
    if named:
        return named
    if importlib.util.find_spec("ptychodus") is None:
        pytest.skip("ptychodus is not installed, and BEAMSIDE_PTYCHODUS names no Python that has it")
    return sys.executable


@pytest.mark.oracle
def test_ptychodus_reads_a_result(tmp_path: Path) -> None:
    python = interpreter()
    made = scene.scan()
    engine = scene.run(made, scene.options(made, iterations_after_close=20))
    snapshot = engine.snapshot()
    write_result(tmp_path, snapshot, list(engine.store.keys))
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [python, str(READER), str(tmp_path / "ptycho.cxi"), str(tmp_path / "read.npz")], check=True, env=clean
    )
    found = np.load(tmp_path / "read.npz")
    assert np.array_equal(found["object"], snapshot.arrays["object"])
    assert np.array_equal(found["probe"], snapshot.arrays["probe"])
    assert np.array_equal(found["loss"], snapshot.arrays["error"])
    np.testing.assert_allclose(
        found["first_px"], snapshot.arrays["positions_px"] - snapshot.notes["offset_px"], atol=1e-6
    )
    assert found["indexes"].tolist() == list(range(made.recipe.frames))
    np.testing.assert_allclose(found["pixel_m"], made.recipe.pixel_m)
    assert found["energy_eV"] == pytest.approx(1e3 * made.recipe.energy_keV)
    assert found["distance_m"] == made.recipe.distance_m
    # The frames themselves, from exit waves that ptychodus cut and shifted by its own rules.
    waves = np.fft.fft2(found["exit_waves"], norm="ortho")
    expected, counts = (np.abs(waves) ** 2).sum(1), scene.counts(made).astype(float)
    residual = np.sqrt(((np.sqrt(expected) - np.sqrt(counts)) ** 2).sum() / counts.sum())
    turned = np.sqrt(((np.sqrt(np.roll(expected, 1, 0)) - np.sqrt(counts)) ** 2).sum() / counts.sum())
    assert residual < 0.08 < 2 * residual < turned
