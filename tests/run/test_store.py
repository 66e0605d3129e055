"""The run directory: written once, whole or not at all, and checked when read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from beamside.errors import InputError, RunDirectoryError
from beamside.run import atomic
from beamside.run.engine import Batch, Snapshot, State
from beamside.run.guard import Verdict
from beamside.run.origin import describe_input
from beamside.run.source import Record
from beamside.run.store import Store, manifest

LOOP = {"idle": False}


def state(number: int) -> State:
    return State({"a": np.arange(5.0) * number}, {"number": number})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path, manifest("toy", {"x": 1}, seed=3, inputs=[]))


def test_manifest_names_its_inputs(tmp_path: Path) -> None:
    table = tmp_path / "in.star"
    table.write_bytes(b"data_\n")
    found = manifest("toy", {"x": 1}, seed=3, inputs=[table, tmp_path])
    digest = hashlib.sha256(b"data_\n").hexdigest()
    assert found["inputs"] == [
        {"path": str(table), "bytes": 6, "sha256": digest},
        {"path": str(tmp_path), "folder": True},
    ]
    assert {"beamside", "python", "numpy", "torch"} <= set(found["versions"])
    assert describe_input(table)["sha256"] == digest


def test_a_run_is_created_once(store: Store) -> None:
    with pytest.raises(RunDirectoryError, match=r"already holds a run.*beamside resume"):
        Store.create(store.folder, {})
    assert Store(store.folder).manifest["seed"] == 3


def test_no_run_and_damaged_manifest(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"there is no run\.json"):
        Store(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="not valid JSON"):
        Store(tmp_path)


def test_the_newest_two_checkpoints_stay(store: Store) -> None:
    assert store.newest_valid_checkpoint() == (None, [])
    for step in (1, 2, 1_000_000):
        store.write_checkpoint(step, state(step), LOOP)
    assert sorted(path.name for path in store.checkpoints.iterdir()) == ["000002", "1000000"]
    newest, damaged = store.newest_valid_checkpoint()
    assert newest is not None and damaged == []
    assert (newest.step, newest.loop, newest.state.values) == (1_000_000, LOOP, {"number": 1_000_000})
    assert np.array_equal(newest.state.arrays["a"], state(1_000_000).arrays["a"])


@pytest.mark.parametrize("name", ["state.safetensors", "values.json", "manifest.json"])
def test_a_torn_or_absent_file_falls_back(store: Store, name: str) -> None:
    store.write_checkpoint(1, state(1), LOOP)
    file = store.write_checkpoint(2, state(2), LOOP) / name
    file.write_bytes(file.read_bytes()[:-3])
    newest, damaged = store.newest_valid_checkpoint()
    assert newest is not None and newest.step == 1
    assert len(damaged) == 1 and "000002" in damaged[0]
    file.unlink()
    newest, _ = store.newest_valid_checkpoint()
    assert newest is not None and newest.step == 1
    store.write_checkpoint(2, state(2), LOOP)
    newest, _ = store.newest_valid_checkpoint()
    assert newest is not None and newest.step == 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found_or_harmless(store: Store, data: st.DataObject) -> None:
    folder = store.checkpoints / "000002"
    if not folder.exists():
        store.write_checkpoint(1, state(1), LOOP)
        store.write_checkpoint(2, state(2), LOOP)
    path = folder / data.draw(st.sampled_from(["state.safetensors", "values.json", "manifest.json"]))
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(flipped))
    newest, damaged = store.newest_valid_checkpoint()
    path.write_bytes(good)
    assert newest is not None
    if newest.step == 2:  # a blank of the manifest turned into another blank
        assert path.name == "manifest.json" and json.loads(good) == json.loads(bytes(flipped))
        assert newest.state.values == {"number": 2}
    else:
        assert newest.step == 1 and len(damaged) == 1


def test_snapshots_are_never_overwritten(store: Store) -> None:
    first = Snapshot({"a": np.ones(2)}, {"t": {"c": np.array([1.0, np.nan])}}, 0.5, "few", {"n": 1})
    path = store.write_snapshot(4, first, [], Verdict.PROVISIONAL)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert store.write_snapshot(4, Snapshot({}, {}, 1.0), [], Verdict.TRUSTED) == path
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    latest = store.latest_snapshot()
    assert latest is not None
    assert (latest["verdict"], latest["coverage"], latest["provisional"]) == ("provisional", 0.5, "few")
    assert json.loads(before["tables.json"]) == {"t": {"c": [1.0, None]}}
    for name, digest in latest["sha256"].items():
        assert atomic.sha256(path / name) == digest


def test_an_unfinished_folder_is_never_seen(store: Store) -> None:
    with pytest.raises(RuntimeError), atomic.new_folder(store.checkpoints / "000001") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert store.newest_valid_checkpoint() == (None, [])
    assert list(store.checkpoints.iterdir()) != []
    store.sweep()
    assert list(store.checkpoints.iterdir()) == []


def test_every_file_is_flushed_before_its_folder_is_renamed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []
    fsync, rename = atomic.fsync, atomic.rename
    monkeypatch.setattr(atomic, "fsync", lambda path: (calls.append(("fsync", path.name)), fsync(path)))
    monkeypatch.setattr(atomic, "rename", lambda a, b: (calls.append(("rename", b.name)), rename(a, b)))
    store.write_checkpoint(7, state(1), LOOP)
    at = calls.index(("rename", "000007"))
    files = {"state.safetensors", "values.json", "manifest.json", ".000007.partial"}
    assert {name for kind, name in calls[:at] if kind == "fsync"} == files
    assert calls[at + 1] == ("fsync", "checkpoints")


def test_a_dump_of_items_that_cannot_be_loaded_together_still_tells_why(tmp_path: Path) -> None:
    def of_two_sizes(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if len(rows) > 1:
            raise InputError("the items differ in size.")
        return np.zeros((1, 3), np.float32)

    store = Store.create(tmp_path, manifest("toy", {}, seed=0, inputs=[]))
    batch = Batch(("a", "b"), {}, of_two_sizes)
    records = [[Record("a", "{}"), Record("b", "{}")]]
    place = store.write_dump("000001-why", State({}, {}), [batch], records, {"step": 1, "finding": "it was wrong"})
    told = json.loads((place / "dump.json").read_text())
    assert told["finding"] == "it was wrong" and told["batch_items_dumped"] == [0]
