"""Power loss: the kernel's own record of a run shows that nothing appears under its name before it is on the disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from beamside.run.atomic import PARTIAL

ROOT = Path(__file__).parents[2]
CALLS = "openat,rename,renameat,renameat2,fsync,fdatasync,write,pwrite64,close"


@dataclass(frozen=True)
class Call:
    """kind: "write", "sync" or "rename"; path: of the file, or where the name came from; to: the new name."""

    kind: str
    path: str
    to: str = ""


def recorded(folder: Path) -> list[Call]:
    """The calls of a whole toy run, in order, as strace saw them; -y writes the path of each handle."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = folder / "strace"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    toy = [sys.executable, "-m", "tests.run.toy", str(folder / "run"), "fresh", "15", "0", "closed"]
    command = [strace, "-f", "-y", "-s", "0", "-e", f"trace={CALLS}", "-o", str(log), *toy]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    if "Operation not permitted" in done.stderr:
        pytest.skip("this system lets nobody trace a process")
    assert done.returncode == 0, done.stderr
    found = []
    for line in log.read_text().splitlines():
        if at := re.search(r"(fsync|fdatasync)\(\d+<([^>]*)>", line):
            found.append(Call("sync", at[2]))
        elif at := re.search(r"\b(write|pwrite64)\(\d+<([^>]*)>", line):
            found.append(Call("write", at[2]))
        elif at := re.search(r'rename(?:at2?)?\((?:AT_FDCWD[^,]*, )?"([^"]*)"[^"]*"([^"]*)"', line):
            found.append(Call("rename", at[1], at[2]))
    return [call for call in found if str(folder / "run") in call.path]


def test_the_kernel_sees_data_before_names(tmp_path: Path) -> None:
    calls = recorded(tmp_path)
    renamed = [at for at, call in enumerate(calls) if call.kind == "rename" and not call.to.endswith(PARTIAL)]
    folders = {Path(calls[at].to).parent.name for at in renamed}
    assert {"checkpoints", "snapshots", "run"} <= folders and len(renamed) >= 10
    for at in renamed:
        source = calls[at].path
        written = {
            call.path for call in calls[:at] if call.kind == "write" and (call.path + "/").startswith(source + "/")
        }
        # What a folder of an earlier name held belongs to that name: only what came after it counts.
        since = max((n for n in range(at) if calls[n].kind == "rename" and calls[n].path == source), default=-1)
        synced = {call.path for call in calls[since + 1 : at] if call.kind == "sync"}
        assert written, f"{calls[at].to} appears, and nothing was written for it"
        assert written <= synced, f"{calls[at].to} appears before {written - synced} is on the disk"
        if Path(calls[at].to).is_dir():
            assert source in synced, f"{calls[at].to} appears before its folder is on the disk"
        following = next(call for call in calls[at + 1 :] if call.kind != "write")
        assert following == Call("sync", str(Path(calls[at].to).parent)), "and then its name is made to last"


def test_the_last_write_to_a_file_comes_before_its_last_sync(tmp_path: Path) -> None:
    """The ledger too: what SQLite has written when a batch is used is synced."""
    calls = recorded(tmp_path)
    ledger = [call.kind for call in calls if call.path.endswith("ledger.sqlite-wal")]
    assert ledger.count("sync") >= 5, "every commit is synced"
    first = next(at for at, call in enumerate(calls) if call.kind == "rename" and "snapshots" in call.to)
    before = [call.kind for call in calls[:first] if call.path.endswith("ledger.sqlite-wal")]
    assert before[-1] == "sync", "a snapshot shows only items that the ledger has on the disk"
