"""A slow disk in real time, 1 MB/s with stalls of 5 s: nothing is lost, memory is what it always is, and it is said."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.classify.engine import Classifier
from beamside.denoise.engine import Denoiser
from beamside.run.engine import Batch
from beamside.run.loop import run as run_loop
from beamside.run.report import Activity, Report
from beamside.run.session import new_run
from beamside.run.source import Record
from beamside.run.start import Fresh
from beamside.run.store import manifest
from beamside.sources.micrographs import MicrographSource
from beamside.sources.particles import ParticleFile, ParticleFolder
from tests.classify import scene as particles
from tests.denoise import scene as micrographs
from tests.gauntlet import drive, ptycho_drive
from tests.ptycho import scene
from tests.run.toy import Listener

BYTES_A_S, STALL_S, BETWEEN_STALLS = 1_000_000, 5.0, 2_500_000
COUNT, FIRST = 600, 400
MICROGRAPHS = 8
TABLE_FIRST = ("particles.star", "particles.mrcs")


@dataclass
class SlowDisk:
    """Sleeps for what is read or written: its bytes at the rate, and a stall now and then."""

    moved: int = 0
    slept_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def move(self, count: int) -> None:
        with self.lock:
            stalls = (self.moved + count) // BETWEEN_STALLS - self.moved // BETWEEN_STALLS
            self.moved += count
            nap_s = count / BYTES_A_S + stalls * STALL_S
            self.slept_s += nap_s
            time.sleep(nap_s)


def read_through(disk: SlowDisk, patch: pytest.MonkeyPatch) -> None:
    """Pixels of stacks and micrographs come through the disk from now on."""
    preadv, fromfile = os.preadv, np.fromfile

    def slow(handle: int, buffers: Sequence[Any], offset: int, *more: int) -> int:
        got = preadv(handle, buffers, offset, *more)
        disk.move(got)
        return got

    def band(*words: Any, **more: Any) -> Any:
        got = fromfile(*words, **more)
        disk.move(got.nbytes)
        return got

    patch.setattr(os, "preadv", slow)
    patch.setattr(np, "fromfile", band)


class Clocked(Listener):
    """Remembers since when the loop has said what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[tuple[Activity, float, float]] = []
        self.present: tuple[Activity, float] | None = None

    def update(self, report: Report) -> None:
        now = time.monotonic()
        self.reports.append(report)
        if self.present is not None:
            self.spans.append((*self.present, now))
        self.present = report.activity, now

    def seconds(self, activity: Activity) -> float:
        return sum(end - begin for name, begin, end in self.spans if name is activity)


def classify(folder: Path, source: Any, idle_close_s: float | None) -> tuple[Clocked, dict[str, Any], int]:
    """A run of the real loop; what it said, the arrays it leaves, and the most memory that Python took."""
    listener, chosen, left = Clocked(), particles.options(first_batch=FIRST, batch_size=100), {}

    def keep(snapshot: Any, records: Sequence[Record], out: Path) -> None:
        left.update({name: values.tobytes() for name, values in snapshot.arrays.items()})
        left["items"] = len(records)

    tracemalloc.start()
    try:
        with new_run(folder, manifest("classify", chosen.to_json(), seed=0, inputs=[])) as session:
            outcome = run_loop(
                Fresh(Classifier, chosen), source, session.ledger, session.store, exporter=keep, reporter=listener,
                idle_close_s=idle_close_s,
            )  # fmt: skip
        assert outcome.items == COUNT == left["items"]
        return listener, left, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def written_slowly(source: Path, folder: Path, disk: SlowDisk, names: Sequence[str]) -> Callable[[], None]:
    """Files of the session again, byte by byte as the disk takes them."""

    def write() -> None:
        for name in names:
            with (source / name).open("rb") as whole, (folder / name).open("wb", buffering=0) as part:
                while piece := whole.read(100_000):
                    disk.move(part.write(piece))

    return write


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_particles_are_written_and_read_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star = drive.write_session(tmp_path / "session", count=COUNT)
    _, wanted, most = classify(tmp_path / "whole", ParticleFile(star), None)
    (tmp_path / "slow").mkdir()
    disk = SlowDisk()
    read_through(disk, monkeypatch)
    writer = threading.Thread(target=written_slowly(star.parent, tmp_path / "slow", SlowDisk(), TABLE_FIRST))
    writer.start()
    source = ParticleFolder(tmp_path / "slow", settle_s=7.0)
    listener, left, slowly = classify(tmp_path / "run", source, 20.0)
    writer.join()
    assert left == wanted, "the same result"
    assert disk.moved >= 2 * COUNT * 4 * particles.BOX**2 and disk.slept_s > 15, disk
    assert listener.seconds(Activity.WAITING) > STALL_S, "for the stack, which is written"
    assert listener.seconds(Activity.READING) > COUNT * 4 * particles.BOX**2 / BYTES_A_S, "while a batch is read"
    assert slowly < 1.1 * most + 2_000_000, f"{slowly} against {most}"


@dataclass
class SlowPieces(ptycho_drive.Pieces):
    """Frames come and are read at the disk's speed."""

    disk: SlowDisk = field(default_factory=SlowDisk)
    due_s: float = 0.0

    def poll(self) -> Sequence[Record]:
        """Never waits: what the disk has not given by now comes later."""
        if time.monotonic() < self.due_s:
            return []
        records = super().poll()
        coming = len(records) * 2 * scene.N**2
        stalls = (self.disk.moved + coming) // BETWEEN_STALLS - self.disk.moved // BETWEEN_STALLS
        self.disk.moved += coming
        self.due_s = time.monotonic() + coming / BYTES_A_S + stalls * STALL_S
        return records

    def batch(self, records: Sequence[Record]) -> Batch:
        made = super().batch(records)

        def load(rows: Any) -> Any:
            pixels = made.load(rows)
            time.sleep(pixels.nbytes / BYTES_A_S)
            return pixels

        return Batch(made.keys, made.columns, load)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_frames_come_and_are_read_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scene.scan(800, step_px=2.0)
    source = SlowPieces(made, np.array_split(np.arange(800), 100))
    listener = Clocked()
    monkeypatch.setattr(ptycho_drive, "Listener", lambda: listener)
    chosen = scene.options(made, first_frames=400)
    outcome, found = ptycho_drive.run_pieces(tmp_path / "run", source, chosen)
    assert outcome.items == 800 and [each for each in found if each[1] != "note"] == []
    assert source.disk.moved == 800 * 2 * scene.N**2
    assert listener.seconds(Activity.WAITING) > STALL_S, "before its first frames"
    assert listener.seconds(Activity.READING) > 800 * 2 * scene.N**2 / BYTES_A_S, "while frames are read"


def denoise(folder: Path, inputs: Path, *, watch: bool) -> tuple[Clocked, list[str], list[str], int]:
    """A training of the real loop; what it said, its items, guards that tripped, and the most memory Python took."""
    listener = Clocked()
    chosen = micrographs.options(steps=60, crop_px=64)
    source = MicrographSource([inputs], watch=watch, settle_s=7.0)
    tracemalloc.start()
    try:
        with new_run(folder, manifest("denoise", chosen.to_json(), seed=0, inputs=[])) as session:
            run_loop(
                Fresh(Denoiser, chosen), source, session.ledger, session.store, exporter=lambda *_: None,
                reporter=listener, idle_close_s=20.0 if watch else None,
            )  # fmt: skip
            keys = [record.key for record in session.ledger.records()]
            found = [f.guard for _, f in session.ledger.findings() if str(f.severity) != "note"]
        return listener, keys, found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_micrographs_are_written_and_read_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = micrographs.write_session(tmp_path / "session", MICROGRAPHS, side=320)
    _, wanted, _, most = denoise(tmp_path / "whole", there, watch=False)
    (tmp_path / "slow").mkdir()
    disk = SlowDisk()
    read_through(disk, monkeypatch)
    names = sorted(path.name for path in there.iterdir())
    writer = threading.Thread(target=written_slowly(there, tmp_path / "slow", SlowDisk(), names))
    writer.start()
    listener, keys, found, slowly = denoise(tmp_path / "run", tmp_path / "slow", watch=True)
    writer.join()
    assert sorted(keys) == sorted(wanted) and len(keys) == MICROGRAPHS and found == []
    stored = MICROGRAPHS * 2 * 4 * 320**2
    assert disk.moved >= 2 * stored, "each is looked at once and trained on once at least"
    assert listener.seconds(Activity.WAITING) > STALL_S, "before its first micrographs"
    assert listener.seconds(Activity.READING) > stored / BYTES_A_S, "while a micrograph is read"
    assert slowly < 1.1 * most + 2_000_000, f"{slowly} against {most}"
