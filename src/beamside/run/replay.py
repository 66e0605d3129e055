"""An engine run again, offline, on what a dump holds: the same inputs, the same state, the same finding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import RunDirectoryError
from beamside.run.encode import unpack
from beamside.run.engine import Array, Batch, Engine, Header, State
from beamside.run.guard import Finding, run_guards
from beamside.run.source import Record, Source

_BOUNDARIES = ("ingest", "step", "publish")


@dataclass(frozen=True)
class Dump:
    """What lies in a dump. `batches`: None where the pixels are not in it, and `records` lead to them."""

    folder: Path
    verb: str
    options: Mapping[str, Any]
    header: Header
    step: int
    guard: str | None
    finding: str | None
    state: State
    batches: tuple[Batch | None, ...]
    records: tuple[tuple[Record, ...], ...]


@dataclass(frozen=True)
class Replay:
    """What was found again, and after how many further steps (0: in the state as it was dumped)."""

    findings: tuple[Finding, ...]
    further_steps: int
    reproduced: bool


def read_dump(folder: Path) -> Dump:
    """The dump in `folder`.

    Raises:
        RunDirectoryError: it is no dump, or it is damaged.
    """

    def damaged(why: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"this is no whole dump ({why}).",
            where=str(folder),
            remedy="Name a folder under RUN/dumps; one of an older version cannot be replayed.",
        )

    if not (folder / "dump.json").is_file():
        raise damaged("it holds no dump.json")
    try:
        about, keys, payloads, values = (
            json.loads((folder / f"{name}.json").read_bytes()) for name in ("dump", "batches", "payloads", "values")
        )
        state = State(unpack((folder / "state.safetensors").read_bytes()), values)
        records = tuple(
            tuple(Record(key, payload) for key, payload in zip(*batch, strict=True))
            for batch in zip(keys, payloads, strict=True)
        )
        dumped = about["batch_items_dumped"]
        batches = tuple(
            _stored(folder, number, len(records), len(batch) == dumped[number]) for number, batch in enumerate(records)
        )
        header = Header(about["header"]["kind"], about["header"]["fields"])
        return Dump(
            folder, about["verb"], about["options"], header, int(about["step"]), about["guard"], about["finding"],
            state, batches, records,
        )  # fmt: skip
    except Exception as error:  # the parser of safetensors has an error of its own, derived from nothing narrower
        raise damaged(f"{type(error).__name__}: {error}") from error


def _stored(folder: Path, number: int, count: int, whole: bool) -> Batch | None:
    if not whole:
        return None
    stem = "last_batch" if number == count - 1 else f"batch_{number + 1:06d}"
    arrays = unpack((folder / f"{stem}.safetensors").read_bytes())
    texts = json.loads((folder / f"{stem}_text.json").read_bytes())
    keys = tuple(texts.pop("keys"))
    pixels = arrays.pop("pixels")
    columns: dict[str, Array] = {name.removeprefix("column."): array for name, array in arrays.items()}
    columns |= {name: np.array(values) for name, values in texts.items()}

    def load(rows: NDArray[np.int64]) -> Array:
        taken: Array = pixels[np.asarray(rows, dtype=np.int64)]
        return taken

    return Batch(keys, columns, load)


def replay(dump: Dump, engine: type[Engine], options: Any, source: Source | None) -> Replay:
    """Resume the engine from the dump and look with its guards, as it is and then after one further step.

    source: where batches come from whose pixels are not in the dump; None when all of them are.

    Raises:
        RunDirectoryError: a batch is not in the dump, and there is no source.
    """
    batches = [_batch(dump, number, source) for number in range(len(dump.records))]
    running = engine.resume(options, dump.header, dump.state, batches)
    found = _findings(running)
    if _has(found, dump.guard):
        return Replay(tuple(found), 0, True)
    running.step()
    after = _findings(running)
    return Replay((*found, *after), 1, _has(after, dump.guard))


def _batch(dump: Dump, number: int, source: Source | None) -> Batch:
    stored = dump.batches[number]
    if stored is not None:
        return stored
    if source is None:
        raise RunDirectoryError(
            f"batch {number + 1} is not in the dump.", where=str(dump.folder), remedy="Bring the run's input back."
        )
    return source.batch(dump.records[number])


def _findings(engine: Engine) -> list[Finding]:
    return [finding for boundary in _BOUNDARIES for finding in run_guards(engine.guards, boundary, engine)]


def _has(findings: Sequence[Finding], guard: str | None) -> bool:
    return guard is None or any(finding.guard == guard for finding in findings)
