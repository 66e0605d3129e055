"""The disk fails, is full, is slow, or loses its power; items come twice, out of order, or not at all."""

from __future__ import annotations

import errno
import itertools
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest

from beamside.errors import RunDirectoryError
from beamside.formats.mrc import read_map, write_stack
from beamside.run import atomic
from beamside.run.engine import Batch, Progress, Snapshot, State
from beamside.run.guard import Finding
from beamside.run.ledger import Ledger
from beamside.run.report import Activity
from beamside.run.source import Record
from beamside.run.store import Store
from tests.run.toy import FakeClock, Listener, ToyEngine, ToyOptions, ToySource, export, files, records, toy_run

SHORT = ToyOptions(first=3, later=2, round_steps=1)
"""Five items make two rounds of one step, and three closing steps."""


def export_with_stack(snapshot: Snapshot, items: Sequence[Record], folder: Path) -> None:
    """The toy's result, with a file that the formats write."""
    export(snapshot, items, folder)
    write_stack(folder / "value.mrcs", snapshot.arrays["value"].reshape(1, 1, 3).astype(np.float32), 1.0)


def short_run(folder: Path, *, resume: bool = False, **more: Any) -> Any:
    return toy_run(folder, ToySource([records(5)]), SHORT, resume=resume, exporter=export_with_stack, **more)


@contextmanager
def failing_disk(patch: pytest.MonkeyPatch, at: int, error: int) -> Iterator[list[str]]:
    """Every write, fsync and rename of run and formats is counted; number `at` fails. Yields what was called."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == at:
                raise OSError(error, os.strerror(error))
            return real(*arguments, **named)

        return call

    with patch.context() as inner:
        inner.setattr(atomic, "write", counted("write", atomic.write))
        inner.setattr(os, "fsync", counted("fsync", lambda handle: None))
        for name in ("rename", "replace"):
            inner.setattr(os, name, counted(name, getattr(os, name)))
        quick(inner)
        yield calls


def quick(patch: pytest.MonkeyPatch) -> None:
    """No write waits for the disk; who kills a process loses nothing by that, only who cuts the power."""
    if os.fsync.__module__ == "posix":
        patch.setattr(os, "fsync", lambda handle: None)
    spoil_ledger(patch, lambda ledger: ledger._db.execute("PRAGMA synchronous=OFF"))


def everything_seen_is_whole(folder: Path) -> None:
    """Checkpoints load or are called damaged, snapshots agree with their checksums, a result has its verdict."""
    if not (folder / "run.json").exists():
        return
    store = Store(folder)
    newest, damaged = store.newest_valid_checkpoint()
    assert damaged == []
    assert newest is not None or not any(store.checkpoints.glob("[0-9]*"))
    for snapshot in store.snapshots():
        about = json.loads((snapshot / "snapshot.json").read_bytes())
        assert all(atomic.sha256(snapshot / name) == digest for name, digest in about["sha256"].items())
    if store.result.exists():
        assert json.loads((store.result / "verdict.json").read_bytes())["verdict"] == "trusted"
        assert read_map(store.result / "value.mrcs")[0].shape == (1, 1, 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    short_run(folder)
    return files(folder)


def fail_at(folder: Path, patch: pytest.MonkeyPatch, at: int, error: int, whole: dict[str, bytes]) -> bool:
    """One run that fails at a call, and the run that goes on after it; False when there are fewer calls."""
    with failing_disk(patch, at, error) as calls:
        try:
            short_run(folder)
        except RunDirectoryError as failure:
            assert os.strerror(error) in failure.what and str(folder) in failure.where
            assert "resume" in failure.remedy and "Nothing half-written counts" in failure.what
        if len(calls) < at:
            return False
    everything_seen_is_whole(folder)
    with patch.context() as inner:
        quick(inner)
        short_run(folder, resume=(folder / "run.json").exists())
    assert files(folder) == whole
    return True


def test_touches_of_the_disk_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]) -> None:
    """Checkpoint, snapshot, run.json and export; EIO and ENOSPC by turns."""
    for at in itertools.count(1, 5):
        error = errno.EIO if at % 2 else errno.ENOSPC
        if not fail_at(tmp_path / str(at), monkeypatch, at, error, whole):
            break
    assert at > 60, "there are that many places where it can fail"


@pytest.mark.slow
def test_each_touch_of_the_disk_fails_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    for error in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        for at in itertools.count(1):
            if not fail_at(tmp_path / f"{error}-{at}", monkeypatch, at, error, whole):
                break
        assert at > 60, "there are that many places where it can fail"


class FailingDatabase:
    """A connection whose statement number `at` meets an I/O error; SQLite rolls back what was open."""

    def __init__(self, real: sqlite3.Connection, at: int) -> None:
        self.real, self.left = real, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            if self.real.in_transaction:
                self.real.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")

    def execute(self, *arguments: Any) -> Any:
        self._count()
        return self.real.execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        self._count()
        return self.real.executemany(*arguments)


def spoil_ledger(patch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """Every ledger that is opened passes through `change`."""
    original = Ledger.__init__

    def opened(self: Ledger, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        change(self)

    patch.setattr(Ledger, "__init__", opened)


@pytest.mark.parametrize("at", [*range(1, 60, 4)])
def test_a_ledger_that_meets_an_io_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], at: int
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoil_ledger(patch, lambda ledger: setattr(ledger, "_db", FailingDatabase(ledger._db, at)))
        with pytest.raises(RunDirectoryError, match=r"ledger cannot be read or written \(disk I/O error\).*resume"):
            short_run(folder)
    everything_seen_is_whole(folder)
    short_run(folder, resume=(folder / "run.json").exists())
    assert files(folder) == whole


def test_a_ledger_whose_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit on the size of its file gives the very error of a full disk."""
    many, folder = records(4000), tmp_path / "run"
    options = ToyOptions(first=2000, later=2000, round_steps=1)
    with monkeypatch.context() as patch:
        spoil_ledger(patch, lambda ledger: ledger._db.execute("PRAGMA max_page_count=30"))
        with pytest.raises(RunDirectoryError, match="database or disk is full"):
            toy_run(folder, ToySource([many[:500], many[500:]]), options)
    resume = (folder / "run.json").exists()
    assert toy_run(folder, ToySource([many]), options, resume=resume).items == 4000


# ---- power loss


def test_a_folder_is_renamed_after_all_it_holds_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system calls of a whole run: before a name appears, its files and folder are synced; then its parent is."""
    calls: list[tuple[str, str]] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        real_fsync(handle)

    def rename(source: Path, target: Path) -> None:
        held = sorted(str(path) for path in Path(source).rglob("*"))
        calls.append(("rename", f"{source}>{target}>{json.dumps(held)}"))
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    short_run(tmp_path / "run")
    renamed = 0
    for at, (kind, text) in enumerate(calls):
        if kind != "rename":
            continue
        source, target, held = text.split(">")
        if target.endswith(atomic.PARTIAL):
            continue  # an old checkpoint on its way out
        renamed += 1
        synced = {name for call, name in calls[:at] if call == "fsync"}
        assert {source, *json.loads(held)} <= synced, f"{target} appears before what it holds is safe"
        assert calls[at + 1] == ("fsync", str(Path(target).parent))
    assert renamed >= 10


# ---- items that come twice, out of order, or not at all


def spoiled_order(items: list[Record], seed: int) -> list[list[Record]]:
    """5 % come again, and every item may be up to 1,000 places from where it belongs; in pieces."""
    chance = np.random.default_rng(seed)
    twice = [items[i] for i in chance.choice(len(items), len(items) // 20, replace=False)]
    places = [*np.arange(len(items)), *chance.uniform(0, len(items), len(twice))]
    moved = np.argsort(np.array(places) + chance.uniform(-500, 500, len(places)))
    mixed = [[*items, *twice][i] for i in moved]
    return [mixed[at : at + 97] for at in range(0, len(mixed), 97)]


class OrderFree(ToyEngine):
    """Sums over a set of items, whatever their order: what a science that has to agree with itself looks like."""

    def step(self) -> Progress:
        progress = super().step()
        seeds = sorted(seed for batch in self.batches for seed in batch.columns["seed"].tolist())
        self.value = np.array([len(seeds), float(np.sum(seeds)), float(np.sum(np.square(seeds)))])
        return progress


def order_free_run(folder: Path, pieces: list[list[Record]]) -> tuple[list[float], list[str]]:
    """The result and the names of the items in it."""
    from tests.run import toy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "ToyEngine", OrderFree)
        toy_run(folder, ToySource(pieces), ToyOptions(first=700, later=600, round_steps=1))
    value = json.loads((folder / "result" / "value.json").read_text())
    return value, json.loads((folder / "result" / "items.json").read_text())


def test_duplicates_and_reordering_change_nothing(tmp_path: Path) -> None:
    items = records(2000)
    whole, names = order_free_run(tmp_path / "whole", [items])
    mixed, mixed_names = order_free_run(tmp_path / "mixed", spoiled_order(items, 1))
    assert mixed == whole and sorted(mixed_names) == sorted(names) and len(set(mixed_names)) == 2000
    assert mixed_names != names, "they did come in another order"


def test_what_is_missing_is_exactly_what_did_not_come(tmp_path: Path) -> None:
    items = records(2000)
    lost = set(np.random.default_rng(2).choice(2000, 20, replace=False).tolist())
    came = [item for number, item in enumerate(items) if number not in lost]
    value, names = order_free_run(tmp_path / "run", spoiled_order(came, 3))
    assert {item.key for item in items} - set(names) == {items[number].key for number in lost}
    assert value == order_free_run(tmp_path / "whole", [came])[0]


def test_duplicates_alone_leave_every_byte(tmp_path: Path) -> None:
    items = records(22)
    toy_run(tmp_path / "whole", ToySource([items]))
    again = [[item, *([items[number // 2]] if number % 3 == 0 else [])] for number, item in enumerate(items)]
    toy_run(tmp_path / "run", ToySource(again))
    assert files(tmp_path / "run") == files(tmp_path / "whole")


# ---- a slow disk, and a long stream


class Stalling(ToySource):
    """A source whose disk gives some items, and then nothing for 5 s."""

    clock: FakeClock

    def poll(self) -> Sequence[Record]:
        self.clock.now += 5.0
        return super().poll()


def test_a_slow_disk_loses_nothing_and_the_loop_says_that_it_waits(tmp_path: Path) -> None:
    clock, listener = FakeClock(), Listener()
    source = Stalling([piece for record in records(30) for piece in ([record], [], [], [])])
    source.clock = clock
    outcome = toy_run(
        tmp_path / "run", source, clock=clock, sleep=clock.sleep, poll_s=1.0, idle_close_s=60.0, reporter=listener
    )
    assert outcome.items == 30
    waiting = [report for report in listener.reports if report.activity is Activity.WAITING]
    assert len(waiting) >= 20 and all(report.needed in (7, 4) for report in waiting)
    toy_run(tmp_path / "whole", ToySource([records(30)]))
    assert files(tmp_path / "run") == files(tmp_path / "whole")


class Forgetting(ToyEngine):
    """Uses a batch once and lets it go, as an engine that streams does."""

    def ingest(self, batch: Batch) -> None:
        self.batches = [batch]
        self.left = 1

    def snapshot(self) -> Snapshot:
        return Snapshot({"value": self.value.copy()}, {}, 1.0)

    def state(self) -> State:
        return State({"value": self.value.copy()}, {"steps": self.steps})


class Counting(Listener):
    """Handles, threads and live batches of this process, every so many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        self.calls = 0

    def update(self, report: Any) -> None:
        self.calls += 1
        if self.calls % 50 == 0:
            self.seen.append((len(os.listdir("/proc/self/fd")), threading.active_count()))

    def finding(self, finding: Finding) -> None:
        raise AssertionError(finding)


def long_stream(folder: Path, patch: pytest.MonkeyPatch, batches: int) -> Counting:
    """A run of so many batches; the disk is not waited for, which is not what this is about."""
    from tests.run import toy

    listener = Counting()
    patch.setattr(toy, "ToyEngine", Forgetting)
    quick(patch)
    options = ToyOptions(first=1, later=1, round_steps=1)
    outcome = toy_run(folder, ToySource([records(batches)]), options, reporter=listener)
    assert outcome.items == batches
    return listener


def test_a_stream_leaves_no_handle_and_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = long_stream(tmp_path / "run", monkeypatch, 300)
    assert len(set(listener.seen)) == 1 and len(listener.seen) >= 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_batches_leave_no_handle_and_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = long_stream(tmp_path / "run", monkeypatch, 10_000)
    assert len(set(listener.seen)) == 1


def test_batches_that_an_engine_lets_go_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream ten times larger than memory: what is held is the present batch, not all that came."""
    import gc

    from tests.run import toy

    made: WeakSet[Batch] = WeakSet()
    alive: list[int] = []

    class Remembered(ToySource):
        def batch(self, records: Sequence[Record]) -> Batch:
            batch = _Hashed(**vars(super().batch(records)))
            made.add(batch)
            return batch

    class Watching(Forgetting):
        def step(self) -> Progress:
            gc.collect()
            alive.append(len(made))
            return super().step()

    monkeypatch.setattr(toy, "ToyEngine", Watching)
    toy_run(tmp_path / "run", Remembered([records(30)]), ToyOptions(first=1, later=1, round_steps=1))
    assert alive[:1] == [1] and max(alive) <= 2 and len(alive) >= 30


class _Hashed(Batch):
    """A batch that a weak set can hold."""

    __hash__ = object.__hash__
