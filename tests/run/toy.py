"""A small deterministic engine and source, and a run of them as a process of its own that can be killed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Array, Batch, BatchPolicy, Header, Progress, Snapshot, State
from beamside.run.guard import Finding, Guard, Severity
from beamside.run.loop import run
from beamside.run.report import Outcome, Report
from beamside.run.session import existing_run, new_run
from beamside.run.source import Record
from beamside.run.start import Fresh, Resume
from beamside.run.store import manifest

HEADER = Header("numbers", {"box_px": 3})
LAST_STEPS = 3


@dataclass(frozen=True)
class ToyOptions:
    """`trip`: (step, severity, boundary) at which the guard trips."""

    first: int = 7
    later: int = 4
    round_steps: int = 5
    pause_s: float = 0.0
    trip: tuple[int, str, str] | None = None


def _trip(options: ToyOptions) -> list[Guard]:
    if options.trip is None:
        return []
    step, severity, boundary = options.trip

    def check(engine: ToyEngine) -> Finding | None:
        return guard.finding(f"step {engine.steps} was reached.", step=engine.steps) if engine.steps >= step else None

    guard = Guard(
        "toy.trip", boundary, "steps", f"< {step}", "chosen", Severity(severity), "", "Choose a later step.", check
    )
    return [guard]


class ToyEngine:
    """Mixes all pixels it has with a random walk, so that every step depends on all before it."""

    guards: Sequence[Guard]
    policy: BatchPolicy

    def __init__(self, options: ToyOptions) -> None:
        self.options = options
        self.policy = BatchPolicy(options.first, options.later)
        self.guards = _trip(options)
        self.generator = np.random.default_rng(5)
        self.value = np.zeros(3)
        self.batches: list[Batch] = []
        self.steps = self.left = self.last = 0
        self.closed = False

    @classmethod
    def fresh(cls, options: ToyOptions, header: Header) -> Self:
        assert header.kind == HEADER.kind
        return cls(options)

    @classmethod
    def resume(cls, options: ToyOptions, header: Header, state: State, batches: Sequence[Batch]) -> Self:
        engine = cls.fresh(options, header)
        engine.value = state.arrays["value"].copy()
        engine.generator.bit_generator.state = state.values["generator"]
        for name in ("steps", "left", "last", "closed"):
            setattr(engine, name, state.values[name])
        engine.batches = list(batches)
        return engine

    def ingest(self, batch: Batch) -> None:
        assert not self.closed
        self.batches.append(batch)
        self.left = self.options.round_steps

    def close(self) -> None:
        self.closed, self.last = True, LAST_STEPS

    def step(self) -> Progress:
        time.sleep(self.options.pause_s)
        for batch in self.batches:
            pixels = batch.load(np.arange(len(batch), dtype=np.int64)).astype(np.float64)
            self.value = np.cos(self.value) + pixels.mean(axis=0) + 1e-3 * self.generator.standard_normal(3)
        self.steps += 1
        self.left = max(0, self.left - 1)
        self.last -= self.closed
        share = 1 - self.left / self.options.round_steps
        ended, finished = self.left == 0, self.closed and self.last == 0
        metrics = {"value": float(self.value[0])}
        return Progress(f"step {self.steps}", share, ended, ended, finished, metrics)

    def snapshot(self) -> Snapshot:
        keys = [key for batch in self.batches for key in batch.keys]
        tables = {"items": {"key": np.array(keys), "undefined": np.full(len(keys), np.nan)}}
        return Snapshot({"value": self.value.copy()}, tables, 1.0, notes={"steps": self.steps})

    def state(self) -> State:
        values = {name: getattr(self, name) for name in ("steps", "left", "last", "closed")}
        return State({"value": self.value.copy()}, {**values, "generator": self.generator.bit_generator.state})


@dataclass
class ToySource:
    """Gives `pieces` one a poll; with `open_end` it then waits for ever."""

    pieces: list[list[Record]]
    open_end: bool = False
    found: list[Finding] = field(default_factory=list)
    head: Header | None = HEADER

    def header(self) -> Header | None:
        return self.head

    def poll(self) -> Sequence[Record]:
        return self.pieces.pop(0) if self.pieces else []

    def exhausted(self) -> bool:
        return not self.pieces and not self.open_end

    def findings(self) -> Sequence[Finding]:
        found, self.found = self.found, []
        return found

    def batch(self, records: Sequence[Record]) -> Batch:
        seeds = [int(record.payload) for record in records]

        def load(rows: NDArray[np.int64]) -> Array:
            pixels = [np.random.default_rng(seeds[row]).standard_normal(3) for row in rows]
            return np.array(pixels, dtype=np.float32)

        return Batch(tuple(record.key for record in records), {"seed": np.array(seeds)}, load)


@dataclass
class Listener:
    """A reporter that remembers."""

    reports: list[Report] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)

    def update(self, report: Report) -> None:
        self.reports.append(report)

    def say(self, text: str) -> None:
        self.said.append(text)

    def finding(self, finding: Finding) -> None:
        self.found.append(finding)


class FakeClock:
    """A clock that moves only by sleeping; `at` are things that happen at given seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: list[tuple[float, Any]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self.at and self.at[0][0] <= self.now:
            self.at.pop(0)[1]()


def records(n: int, first: int = 0) -> list[Record]:
    return [Record(f"toy@{i}", str(1000 + i)) for i in range(first, first + n)]


def export(snapshot: Snapshot, items: Sequence[Record], folder: Path) -> None:
    (folder / "items.json").write_text(json.dumps([item.key for item in items]))
    (folder / "value.json").write_text(json.dumps(snapshot.arrays["value"].tolist()))


def toy_run(
    folder: Path, source: ToySource, options: ToyOptions | None = None, *, resume: bool = False, **more: Any
) -> Outcome:
    """A toy run from its beginning, or from where it was left."""
    options = options or ToyOptions()
    more = {"exporter": export, "reporter": Listener(), "poll_s": 0.0, **more}
    begin = manifest("toy", {}, seed=5, inputs=[])
    with existing_run(folder) if resume else new_run(folder, begin) as session:
        start = Resume(ToyEngine, options) if resume else Fresh(ToyEngine, options)
        return run(start, source, session.ledger, session.store, **more)


def files(folder: Path) -> dict[str, bytes]:
    """All that people and programs read of a run, by relative name."""
    wanted = [*(folder / "snapshots").rglob("*"), *(folder / "result").rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in wanted if path.is_file()}


def main() -> int:
    """`python -m tests.run.toy FOLDER fresh|resume N PAUSE_S open|closed`."""
    folder, how, n, pause_s, end = sys.argv[1:]
    source = ToySource([records(int(n))], open_end=end == "open")
    options = ToyOptions(pause_s=float(pause_s))
    # a checkpoint every 20 ms, so that kills fall between, within and after them
    outcome = toy_run(Path(folder), source, options, resume=how == "resume", checkpoint_every_s=0.02)
    print(outcome.sentence)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
