"""A dump is enough to see a finding again, without the run and without its input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.errors import GuardStop, RunDirectoryError
from beamside.run import store
from beamside.run.engine import Array
from beamside.run.replay import read_dump, replay
from tests.run.test_loop import interrupting
from tests.run.toy import ToyEngine, ToyOptions, ToySource, records, toy_run


def stopped(folder: Path, boundary: str, **more: Any) -> Path:
    """The dump of a toy run that its guard stopped at step 12, after three batches."""
    with pytest.raises(GuardStop):
        toy_run(folder, ToySource([records(22)]), ToyOptions(trip=(12, "stop", boundary)), **more)
    (dump,) = (folder / "dumps").iterdir()
    return dump


@pytest.mark.parametrize(("boundary", "step", "batches"), [("ingest", 15, 4), ("step", 12, 3), ("publish", 15, 3)])
def test_the_finding_comes_again(tmp_path: Path, boundary: str, step: int, batches: int) -> None:
    folder = stopped(tmp_path / "run", boundary)
    away = shutil.move(folder, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "run")
    dump = read_dump(Path(away))
    assert (dump.verb, dump.step, dump.guard, len(dump.batches)) == ("toy", step, "toy.trip", batches)
    assert None not in dump.batches and dump.header.kind == "numbers"
    found = replay(dump, ToyEngine, ToyOptions(trip=(12, "stop", boundary)), None)
    assert found.reproduced and found.further_steps == 0
    assert found.findings[0].sentence() == dump.finding


def test_inputs_and_state_are_exact(tmp_path: Path) -> None:
    dump = read_dump(stopped(tmp_path / "run", "step"))
    source = ToySource([])
    for stored, kept in zip(dump.batches, dump.records, strict=True):
        assert stored is not None
        fresh = source.batch(kept)
        rows = np.arange(len(kept))
        assert stored.keys == fresh.keys and np.array_equal(stored.load(rows), fresh.load(rows))
        assert np.array_equal(stored.columns["seed"], fresh.columns["seed"])
        assert np.array_equal(stored.load(rows[::-1]), fresh.load(rows)[::-1])
    whole: list[Array] = []

    class Watched(ToyEngine):
        def step(self) -> Any:
            progress = super().step()
            whole.append(self.value.copy())
            return progress

    again = Watched.resume(ToyOptions(), dump.header, dump.state, [b for b in dump.batches if b is not None])
    assert again.steps == 12
    again.step()
    direct = Watched(ToyOptions())
    for at, kept in zip((5, 10, 12), dump.records, strict=True):
        direct.ingest(source.batch(kept))
        while direct.steps < at:
            direct.step()
    direct.step()
    assert np.array_equal(whole[0], direct.value), "one further step gives the same bits"


def test_a_guard_that_needs_a_step_gets_one(tmp_path: Path) -> None:
    dump = read_dump(stopped(tmp_path / "run", "step"))
    found = replay(dump, ToyEngine, ToyOptions(trip=(13, "stop", "step")), None)
    assert found.reproduced and found.further_steps == 1
    healthy = replay(dump, ToyEngine, ToyOptions(), None)
    assert not healthy.reproduced and healthy.findings == ()


def test_what_has_no_room_comes_from_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "DUMP_LIMIT_BYTES", 6 * 12)  # pixels of six items
    dump = read_dump(stopped(tmp_path / "run", "step"))
    assert [batch is None for batch in dump.batches] == [True, True, False]
    options = ToyOptions(trip=(12, "stop", "step"))
    with pytest.raises(RunDirectoryError, match="batch 1 is not in the dump"):
        replay(dump, ToyEngine, options, None)
    assert replay(dump, ToyEngine, options, ToySource([])).reproduced


def test_batches_of_an_earlier_process_come_from_the_source(tmp_path: Path) -> None:
    toy_run(tmp_path / "run", ToySource([records(22)]), reporter=interrupting(11))
    dump = read_dump(stopped(tmp_path / "run", "step", resume=True))
    assert [batch is None for batch in dump.batches] == [True, True, False]
    assert replay(dump, ToyEngine, ToyOptions(trip=(12, "stop", "step")), ToySource([])).reproduced


@pytest.mark.parametrize(
    "name", ["dump.json", "values.json", "payloads.json", "state.safetensors", "last_batch.safetensors"]
)
def test_a_damaged_dump_is_refused(tmp_path: Path, name: str) -> None:
    folder = stopped(tmp_path / "run", "step")
    (folder / name).write_bytes((folder / name).read_bytes()[:-5])
    with pytest.raises(RunDirectoryError, match="no whole dump"):
        read_dump(folder)
    (folder / name).unlink()
    with pytest.raises(RunDirectoryError, match="no whole dump"):
        read_dump(folder)
