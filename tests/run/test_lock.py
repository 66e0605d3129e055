"""One writer per run directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beamside.errors import RunDirectoryError
from beamside.run.lock import Holder, hold, holder

HOLD = """
import sys, time, pathlib
from beamside.run.lock import hold
with hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_fails_and_names_the_holder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        found = holder(tmp_path)
        assert found is not None and found.pid == other.pid
        with pytest.raises(RunDirectoryError, match=f"held by process {other.pid} on .*since"), hold(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
    assert holder(tmp_path) is None
    with hold(tmp_path):
        again = holder(tmp_path)
        assert again is not None and again.pid == os.getpid()
    assert holder(tmp_path) is None


def test_nobody_has_ever_held_it(tmp_path: Path) -> None:
    assert holder(tmp_path) is None


def test_a_holder_that_has_not_written_its_name(tmp_path: Path) -> None:
    with hold(tmp_path):
        (tmp_path / "lock").write_text("")
        assert holder(tmp_path) == Holder(0, "", "")
        with pytest.raises(RunDirectoryError, match="held by another process"), hold(tmp_path):
            pass
