"""A disk that really is full, wherever in a run that happens: a clear error, and the same bytes once there is room."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gauntlet.kills import Victim, victim
from tests.gauntlet.nursery import UNSHARE, Nursery

SHARES = (0.45, 0.85)
CASES = ("classify", pytest.param("classify-volume", marks=pytest.mark.slow), "ptycho", "denoise")
MORE_SHARES = tuple(pytest.param(share, marks=pytest.mark.slow) for share in (0.05, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    if (
        shutil.which(UNSHARE[0]) is None
        or subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("this kernel lets users mount nothing, so no disk can be made full")
    made = Nursery(private_mounts=True)
    yield made
    made.close()


@dataclass(frozen=True)
class Whole:
    """A run that had room."""

    engine: Victim
    result: dict[str, bytes]
    kilobytes: int


@pytest.fixture(scope="module", params=CASES)
def whole(request: pytest.FixtureRequest, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp(request.param)
    engine = victim(request.param, folder)
    assert nursery.live(engine.begin(folder / "run"), folder / "log").code == 0
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in (folder / "run").rglob("*") if path.is_file())
    return Whole(engine, engine.result(folder / "run"), used)


@pytest.mark.parametrize("share", [*SHARES, *MORE_SHARES])
def test_a_full_disk(whole: Whole, nursery: Nursery, tmp_path: Path, share: float) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    assert nursery.shell(f"mount -t tmpfs -o size={int(share * whole.kilobytes)}k tmpfs {disk}") == 0
    try:
        full = nursery.live(whole.engine.begin(disk / "run"), log)
        said = log.read_text()
        assert full.code == 2 and "Traceback" not in said, said
        assert str(disk / "run") in said
        assert any(words in said for words in ("No space left", "disk is full", "disk I/O error", "written")), said
        assert "beamside resume" in said and ("free space" in said or "Free some space" in said)
        assert nursery.shell(f"mount -o remount,size=200m {disk}") == 0
        begun = nursery.shell(f"test -e {disk}/run/run.json") == 0
        argv = ["resume", str(disk / "run")] if begun else whole.engine.begin(disk / "run")
        assert nursery.live(argv, log).code == 0, log.read_text()
        assert nursery.shell(f"cp -r {disk}/run {tmp_path}/after") == 0
    finally:
        assert nursery.shell(f"umount {disk}") == 0
    assert whole.engine.result(tmp_path / "after") == whole.result
