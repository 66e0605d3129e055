"""What all tests share: independent references, which skip aloud where they are absent."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("beamside", deadline=None)
settings.load_profile("beamside")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data, named by BEAMSIDE_SHARED; tests that need it are skipped without it."""
    named = os.environ.get("BEAMSIDE_SHARED")
    if not named:
        pytest.skip("BEAMSIDE_SHARED is not set, so the reference data are out of reach")
    folder = Path(named)
    assert folder.is_dir(), f"BEAMSIDE_SHARED names {folder}, which is no folder"
    return folder


@pytest.fixture(scope="session")
def cls_common(shared: Path) -> ModuleType:
    """The benchmark's own projector, CTF and shifts, checked there against relion_project."""
    location = shared / "bench" / "classify" / "cls_common.py"
    spec = importlib.util.spec_from_file_location("cls_common", location)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


@pytest.fixture(scope="session")
def relion() -> Callable[[str], str]:
    """The path of a RELION program."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"{program} is not installed")
        return path

    return find


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where all oracles must be there."""
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the run")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --no-skips an oracle that is absent, whether a test or its whole module was skipped, is a failure."""
    if not session.config.getoption("no_skips"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip themselves where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
