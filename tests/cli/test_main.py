"""The command line: verbs, exit statuses, errors as one paragraph."""

from __future__ import annotations

import argparse
import errno
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import beamside
from beamside.cli import main as command
from beamside.errors import BeamsideError, GuardStop, OptionError, RunDirectoryError
from beamside.run import atomic, lock
from beamside.run.ledger import Ledger, Request
from tests.run.test_loop import interrupting
from tests.run.toy import ToyOptions, ToySource, records, toy_run


@pytest.mark.parametrize("name", command.VERBS)
def test_every_verb_keeps_the_protocol(name: str) -> None:
    verb = command.load(name)
    assert command.VERBS[name][1] == verb.HELP
    verb.configure(argparse.ArgumentParser())
    assert callable(verb.run)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in command.VERBS)


def test_version_and_module(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "beamside", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"beamside {beamside.__version__}"


def test_no_verb_and_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ([], ["classfy"]):
        with pytest.raises(SystemExit, match="2"):
            command.main(given)
    assert "classify" in capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the verb `stop` fail."""

    def run(args: argparse.Namespace) -> int:
        raise error

    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run_dir", type=Path)

    monkeypatch.setattr(command, "load", lambda name: SimpleNamespace(HELP="", configure=configure, run=run))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BeamsideError("it is bad.", where="a.star, row 3", remedy="Make it good."), 2),
        (OptionError("it is bad.", where="a.star, row 3", remedy="Make it good."), 2),
        (GuardStop("it is bad.", where="a.star, row 3", remedy="Make it good."), 3),
    ],
)
def test_errors_are_one_paragraph(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: BeamsideError,
    status: int,
) -> None:
    failing(monkeypatch, error)
    assert command.main(["stop", str(tmp_path)]) == status
    assert capsys.readouterr().err == "beamside: a.star, row 3: it is bad. Make it good.\n"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_outside_the_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    assert command.main(["stop", "absent"]) == 130
    assert capsys.readouterr().err == "beamside: interrupted.\n"


def test_a_crash_on_a_full_disk_is_still_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    (tmp_path / "crash.txt").mkdir()  # nothing can be written there
    assert command.main(["stop", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "unexpected ZeroDivisionError: division by zero" in said


def test_a_reader_that_has_had_enough_is_no_crash(tmp_path: Path) -> None:
    """`beamside doctor --guards | head -1`: the pipe is closed while there is more to say."""
    pipe = f"{sys.executable} -m beamside doctor --guards; echo $? >{tmp_path}/status"
    done = subprocess.run(f"({pipe}) | head -c 1", shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "#" and done.stderr == "" and (tmp_path / "status").read_text().strip() in ("0", "1")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EROFS, "Read-only file system", "ro/run"), "ro/run: Read-only file system. Name a place on a "),
        (OSError(errno.EACCES, "Permission denied", "a/.out.star.77.part"), "a/out.star: Permission denied. Ask its "),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Free some space on that disk"),
        (OSError(errno.ENOENT, "No such file or directory", "x/y"), "x/y: No such file or directory. Make the folder"),
    ],
)
def test_a_place_that_cannot_be_used_is_no_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, error: OSError, says: str
) -> None:
    failing(monkeypatch, error)
    assert command.main(["stop", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"beamside: {says}") and list(tmp_path.iterdir()) == []
    (tmp_path / "run.json").write_text("{}")
    assert command.main(["stop", str(tmp_path)]) == 1, "inside a run it may be anything: the details are kept"
    assert "Traceback" in (tmp_path / "crash.txt").read_text()
    (tmp_path / "crash.txt").unlink()
    assert command.main(["inspect", str(tmp_path)]) == 2
    assert not (tmp_path / "crash.txt").exists(), "who only reads a run leaves nothing in it"


def test_an_os_error_without_a_place_keeps_its_details(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failing(monkeypatch, OSError(errno.EACCES, "Permission denied"))
    assert command.main(["stop", str(tmp_path / "absent")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_crash_is_kept_in_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    assert command.main(["stop", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: division by zero" in said and "Traceback" not in said
    assert "Traceback" in (tmp_path / "crash.txt").read_text()
    assert command.main(["stop", str(tmp_path / "absent")]) == 1
    assert "Traceback" in capsys.readouterr().err


# status, stop, resume, on a run of the toy


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    toy_run(tmp_path / "run", ToySource([records(9)]))
    return tmp_path / "run"


def test_status_of_a_finished_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if not path.name.startswith("ledger")}
    assert command.main(["status", str(finished)]) == 0
    said = capsys.readouterr().out
    assert f"{finished} (toy): finished\n" in said
    assert "items: 9 arrived, 9 in use; batches: 2" in said
    assert "verdict: trusted" in said and str(finished / "result") in said
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_status_as_json(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["status", "--json", str(finished)]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["state"], status["verdict"], status["items"], status["holder"]) == ("finished", "trusted", 9, None)
    assert set(status["metrics"]) == {"value"}


def test_status_says_findings_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_run(tmp_path / "run", ToySource([records(9)]), ToyOptions(trip=(3, "suspect", "step")))
    command.main(["status", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "suspect: do not use it before you have read the findings" in said
    assert said.count("toy.trip") == 1
    assert "[suspect] toy.trip: step 3 was reached. Choose a later step. (step 3, 11 times)" in said


def test_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    toy_run(folder, ToySource([records(9)]), reporter=interrupting(3))

    def state() -> str:
        command.main(["status", "--json", str(folder)])
        return str(json.loads(capsys.readouterr().out)["state"])

    assert state().startswith("interrupted")
    with Ledger(folder / "ledger.sqlite") as ledger:
        ledger.event("resumed", "run resumed.")
    assert state().startswith("killed")
    with lock.hold(folder):
        assert state() == "running"
    with pytest.raises(GuardStop):
        toy_run(folder, ToySource([]), ToyOptions(trip=(5, "stop", "step")), resume=True)
    assert (folder / "dumps" / "000005-toy.trip" / "last_batch.safetensors").exists()
    assert state() == "stopped by a guard"

    def fails(*_: object) -> None:
        raise OSError("disk full")

    with pytest.raises(RunDirectoryError, match="disk full"):
        toy_run(folder, ToySource([]), resume=True, exporter=fails)
    assert state().startswith(f"failed ({folder / 'result'}: it could not be written (disk full).")
    for _ in range(2):  # the second finds it finished, and leaves it so
        toy_run(folder, ToySource([]), resume=True)
        assert state() == "finished"


def test_stop_leaves_a_request(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["stop", str(finished)]) == 2
    assert "has finished already. Its result is in" in capsys.readouterr().err
    atomic.remove(finished / "result")
    assert command.main(["stop", str(finished)]) == 2
    assert "no process runs this" in capsys.readouterr().err
    with lock.hold(finished):
        assert command.main(["stop", str(finished)]) == 0
    assert "Asked process" in capsys.readouterr().out
    with Ledger(finished / "ledger.sqlite") as ledger:
        assert [request for _, request in ledger.requests()] == [Request.STOP]


@pytest.mark.parametrize("verb", ["status", "stop", "resume"])
def test_no_run(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([verb, str(tmp_path)]) == 2
    assert "there is no run.json" in capsys.readouterr().err


def test_resume_hands_over_to_the_verb(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.main(["resume", str(finished)]) == 2
    assert "begun by 'toy', which this version cannot resume" in capsys.readouterr().err
    monkeypatch.setitem(command.VERBS, "toy", ("tests.cli.toy_verb", ""))
    assert command.main(["resume", str(finished)]) == 0
    assert capsys.readouterr().out == f"resumed {finished}\n"
