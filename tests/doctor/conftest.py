"""A finished classification on disk, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from beamside.cli.main import main
from beamside.simulate.session_files import write_once
from beamside.simulate.volumes import load_volume
from tests.classify.scene import BOX, PIXEL_A
from tests.classify.scene import session as simulated

FAST = ["--classes", "4", "--iterations", "3", "--first-batch", "240", "--max-resolution", "20", "--threads", "1"]


@pytest.fixture(scope="session")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that has finished."""
    folder = tmp_path_factory.mktemp("classified")
    volume, _ = load_volume("walk", BOX, PIXEL_A, 0.0)
    write_once(folder / "session", simulated(), volume)
    run_dir = folder / "run"
    args = ["classify", str(folder / "session" / "particles.star"), str(run_dir), *FAST, "--quiet"]
    assert main([*args, "--mask-diameter", "220"]) == 0
    return run_dir
