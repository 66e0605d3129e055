"""A run goes on only with the inputs it began with, and says when it goes on with other software."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from beamside.errors import InputError, RunDirectoryError
from beamside.run import origin
from beamside.run.engine import Batch, Header, State
from beamside.run.guard import Severity, Verdict
from beamside.run.loop import run
from beamside.run.session import existing_run, new_run
from beamside.run.start import Resume
from beamside.run.store import manifest
from tests.run.toy import Listener, ToyEngine, ToyOptions, ToySource, export, records, toy_run


class Interrupted(Exception):
    """What ends a run in the middle of these tests."""


class Ending(Listener):
    """Ends the run once it has worked."""

    def update(self, report: Any) -> None:
        super().update(report)
        if len(self.reports) > 20:
            raise Interrupted


def left_in_the_middle(folder: Path, options: dict[str, Any] | None = None, inputs: Sequence[Path] = ()) -> None:
    begin = manifest("toy", options or {}, seed=5, inputs=inputs)
    from beamside.run.start import Fresh

    with pytest.raises(Interrupted), new_run(folder, begin) as session:
        source = ToySource([records(22)])
        start = Fresh(ToyEngine, ToyOptions())
        run(start, source, session.ledger, session.store, exporter=export, reporter=Ending(), poll_s=0.0)
    assert (folder / "checkpoints").is_dir()


def by_other_software(folder: Path) -> None:
    found = json.loads((folder / "run.json").read_text())
    found["versions"] |= {"torch": "1.0", "code": "another"}
    (folder / "run.json").write_text(json.dumps(found))


def test_the_same_software_is_not_remarked(tmp_path: Path) -> None:
    left_in_the_middle(tmp_path / "run")
    outcome = toy_run(tmp_path / "run", ToySource([]), resume=True)
    assert outcome.result is not None
    assert json.loads((outcome.result / "verdict.json").read_text())["findings"] == []


def test_other_software_is_noted_in_the_result(tmp_path: Path) -> None:
    left_in_the_middle(tmp_path / "run")
    by_other_software(tmp_path / "run")
    listener = Listener()
    outcome = toy_run(tmp_path / "run", ToySource([]), resume=True, reporter=listener)
    assert [f.guard for f in listener.found] == ["run.software"] and "torch 1.0 is now" in listener.found[0].saw
    assert outcome.verdict is Verdict.TRUSTED and outcome.result is not None
    (kept,) = json.loads((outcome.result / "verdict.json").read_text())["findings"]
    assert (kept["guard"], kept["severity"]) == ("run.software", str(Severity.NOTE))


class Newer(ToyEngine):
    """An engine whose checkpoints hold more."""

    @classmethod
    def resume(cls, options: ToyOptions, header: Header, state: State, batches: Sequence[Batch]) -> Self:
        state.arrays["momentum"]
        return super().resume(options, header, state, batches)


@pytest.mark.parametrize("other", [True, False])
def test_a_checkpoint_of_another_version_is_refused_by_name(tmp_path: Path, other: bool) -> None:
    folder = tmp_path / "run"
    left_in_the_middle(folder)
    if other:
        by_other_software(folder)
    # With the same software it is a mistake in the engine, and must show itself as one.
    with (
        pytest.raises(RunDirectoryError if other else KeyError, match="momentum") as caught,
        existing_run(folder) as held,
    ):
        start = Resume(Newer, ToyOptions())
        run(start, ToySource([]), held.ledger, held.store, exporter=export, reporter=Listener(), poll_s=0.0)
    if isinstance(caught.value, RunDirectoryError):
        assert "torch 1.0" in caught.value.paragraph() and "run.json" in caught.value.paragraph()


def test_a_changed_or_missing_input_is_refused(tmp_path: Path) -> None:
    table, run_dir = tmp_path / "in.star", tmp_path / "run"
    table.write_bytes(b"data_\n")
    left_in_the_middle(run_dir, inputs=[table, tmp_path])
    table.write_bytes(b"data_x")
    with pytest.raises(InputError, match=r"in\.star.*has changed"):
        toy_run(run_dir, ToySource([]), resume=True)
    table.unlink()
    with pytest.raises(InputError, match=r"in\.star.*is gone"):
        toy_run(run_dir, ToySource([]), resume=True)
    table.write_bytes(b"data_\n")
    toy_run(run_dir, ToySource([]), resume=True)
    table.unlink()  # a finished run needs it no more
    assert "finished already" in toy_run(run_dir, ToySource([]), resume=True).sentence


def test_a_watched_scan_may_grow_and_its_probe_may_not(tmp_path: Path) -> None:
    scan, probe = tmp_path / "scan.cxi", tmp_path / "probe.npy"
    scan.write_bytes(b"1"), probe.write_bytes(b"1")
    watched = manifest("ptycho", {"scan": str(scan), "watch": True}, seed=0, inputs=[scan, probe])
    scan.write_bytes(b"12")
    origin.require_same_inputs(watched)
    probe.write_bytes(b"12")
    with pytest.raises(InputError, match="probe"):
        origin.require_same_inputs(watched)
