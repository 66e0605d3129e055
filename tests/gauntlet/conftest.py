"""Particles that every row starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.gauntlet.drive import write_session


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small session; not to be changed."""
    folder = tmp_path_factory.mktemp("gauntlet") / "session"
    write_session(folder)
    return folder


@pytest.fixture
def star(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a row may spoil."""
    shutil.copytree(pristine, tmp_path / "session")
    return tmp_path / "session" / "particles.star"
