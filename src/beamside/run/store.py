"""The run directory: what a run writes for itself, for people and for other programs.

    RUN/
      run.json            verb, options, versions, seed, inputs; written once
      ledger.sqlite       see `ledger`
      checkpoints/000120/ state.safetensors, values.json, manifest.json
      snapshots/000120/   arrays.safetensors, tables.json, snapshot.json, pictures
      dumps/000120-why/   the engine's state and its last inputs
      result/             the last snapshot in the formats of the field

Numbers are engine steps. Everything is made beside and renamed into place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamside.errors import BeamsideError, RunDirectoryError
from beamside.run import atomic, origin
from beamside.run.encode import exact_json, pack, public_json, unpack
from beamside.run.engine import Array, Batch, Snapshot, State
from beamside.run.guard import Finding, Verdict
from beamside.run.source import Record

MANIFEST = "run.json"
KEPT_CHECKPOINTS = 2
DUMP_LIMIT_BYTES = 2**30
"""Pixels of the last batch that a dump holds; larger batches are dumped from their first row up to this."""

Exporter = Callable[[Snapshot, Sequence[Record], Path], None]
"""Writes the result into a folder in the formats of the field: (last snapshot, all items in order, folder)."""
Pictures = Callable[[Snapshot, Path], None]
"""Draws a snapshot into its folder."""


@dataclass(frozen=True)
class Checkpoint:
    """The engine after `step` steps, and what the loop needs beside it (plain JSON values)."""

    step: int
    state: State
    loop: Mapping[str, Any]


def manifest(verb: str, options: Mapping[str, Any], *, seed: int, inputs: Iterable[Path]) -> dict[str, Any]:
    """What run.json holds. `options` are plain JSON values from which the verb can resume."""
    described = [origin.describe_input(path) for path in inputs]
    return {"verb": verb, "options": dict(options), "seed": seed, "versions": origin.versions(), "inputs": described}


class Store:
    """The files of one run."""

    def __init__(self, folder: Path) -> None:
        """Open an existing run directory.

        Raises:
            RunDirectoryError: there is no readable run.json.
        """
        self.folder = folder
        path = folder / MANIFEST
        try:
            self.manifest: Mapping[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise RunDirectoryError(
                f"there is no {MANIFEST}.", where=str(folder), remedy="Name the directory of a run."
            ) from None
        except ValueError as error:
            raise RunDirectoryError(
                f"not valid JSON ({error}).", where=str(path), remedy="Restore it from a copy, or start a new run."
            ) from error

    @classmethod
    def create(cls, folder: Path, manifest: Mapping[str, Any]) -> Store:
        """Write run.json into `folder`, which exists and holds no run.

        Raises:
            RunDirectoryError: the folder holds a run.
        """
        if (folder / MANIFEST).exists():
            raise RunDirectoryError(
                "this directory already holds a run.",
                where=str(folder),
                remedy=f"Go on with it by 'beamside resume {folder}', or name another directory.",
            )
        with atomic.disk_failures(folder / MANIFEST):
            atomic.write_file(folder / MANIFEST, exact_json(manifest))
        return cls(folder)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def result(self) -> Path:
        """Folder of the result; absent until the run has finished."""
        return self.folder / "result"

    def snapshots(self) -> list[Path]:
        """Folders of the snapshots, oldest first."""
        return _numbered(self.folder / "snapshots")

    def sweep(self) -> None:
        """Remove what a killed process left unfinished; only for the holder of the lock."""
        for folder in (self.folder, self.checkpoints, self.folder / "snapshots", self.folder / "dumps"):
            atomic.sweep(folder)

    def write_checkpoint(self, step: int, state: State, loop: Mapping[str, Any]) -> Path:
        """Keep the engine as it is after `step` steps, and drop all but the newest checkpoints."""
        files = {
            "state.safetensors": pack(state.arrays),
            "values.json": exact_json({"engine": state.values, "loop": loop}),
        }
        target = self.checkpoints / f"{step:06d}"
        with atomic.disk_failures(target), atomic.new_folder(target) as folder:
            for name, data in files.items():
                atomic.write(folder / name, data)
            sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            atomic.write(folder / "manifest.json", _sealed({"step": step, "sha256": sums}))
        with atomic.disk_failures(self.checkpoints):
            for old in _numbered(self.checkpoints)[:-KEPT_CHECKPOINTS]:
                atomic.remove(old)
        return target

    def newest_valid_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint whose checksums hold, and a sentence for each newer one whose do not."""
        damaged: list[str] = []
        for folder in reversed(_numbered(self.checkpoints)):
            try:
                return _read_checkpoint(folder), damaged
            except RunDirectoryError as error:
                damaged.append(error.paragraph())
        return None, damaged

    def write_snapshot(
        self,
        step: int,
        snapshot: Snapshot,
        findings: Sequence[Finding],
        verdict: Verdict,
        pictures: Pictures | None = None,
    ) -> Path:
        """Publish a snapshot; one that is already there stays as it is.

        The folder holds no time of day: a run that was killed and resumed publishes the same bytes.
        """
        target = self.folder / "snapshots" / f"{step:06d}"
        if target.exists():
            return target
        arrays, tables = pack(snapshot.arrays), public_json(snapshot.tables, indent=None)
        about = {
            "step": step,
            "coverage": snapshot.coverage,
            "provisional": snapshot.provisional,
            "notes": snapshot.notes,
            "sha256": {
                "arrays.safetensors": hashlib.sha256(arrays).hexdigest(),
                "tables.json": hashlib.sha256(tables).hexdigest(),
            },
            **_judgement(findings, verdict),
        }
        with atomic.disk_failures(target), atomic.new_folder(target) as folder:
            atomic.write(folder / "arrays.safetensors", arrays)
            atomic.write(folder / "tables.json", tables)
            atomic.write(folder / "snapshot.json", public_json(about))
            if pictures is not None:
                pictures(snapshot, folder)
        return target

    def latest_snapshot(self) -> Mapping[str, Any] | None:
        """snapshot.json of the newest snapshot."""
        found = self.snapshots()
        return json.loads((found[-1] / "snapshot.json").read_bytes()) if found else None

    def write_dump(
        self,
        name: str,
        state: State,
        batches: Sequence[Batch | None],
        records: Sequence[Sequence[Record]],
        about: Mapping[str, Any],
    ) -> Path:
        """Keep the engine's state, the identities of all its items, and its batches with pixels.

        batches: one entry for each of `records`, None for one that an earlier process ingested. The newest are kept
        first, as long as their pixels fit `DUMP_LIMIT_BYTES`; `replay` takes the others from the run's source.
        """
        target = self.folder / "dumps" / name
        with atomic.disk_failures(target), atomic.new_folder(target) as folder:
            atomic.write(folder / "state.safetensors", pack(state.arrays))
            atomic.write(folder / "values.json", exact_json(state.values))
            dumped, left = [0] * len(batches), DUMP_LIMIT_BYTES
            for number in reversed(range(len(batches))):
                batch = batches[number]
                if batch is None or not len(batch):
                    continue
                is_last = number == len(batches) - 1
                arrays, texts, dumped[number], size = _inputs_of(batch, left, least=1 if is_last else len(batch))
                if dumped[number]:
                    left -= size
                    stem = "last_batch" if is_last else f"batch_{number + 1:06d}"
                    atomic.write(folder / f"{stem}.safetensors", pack(arrays))
                    atomic.write(folder / f"{stem}_text.json", exact_json(texts))
            counts = {
                "last_batch_items": len(records[-1]) if records else 0,
                "last_batch_items_dumped": dumped[-1] if dumped else 0,
                "batch_items_dumped": dumped,
            }
            run = {"verb": self.manifest.get("verb"), "options": self.manifest.get("options")}
            atomic.write(folder / "dump.json", exact_json({**about, **run, **counts}))
            atomic.write(folder / "batches.json", exact_json([[r.key for r in batch] for batch in records]))
            atomic.write(folder / "payloads.json", exact_json([[r.payload for r in batch] for batch in records]))
        return target

    def write_result(
        self,
        exporter: Exporter,
        snapshot: Snapshot,
        records: Sequence[Record],
        findings: Sequence[Finding],
        verdict: Verdict,
    ) -> Path:
        """Export the last snapshot, with the verdict beside it."""
        with atomic.disk_failures(self.result), atomic.new_folder(self.result) as folder:
            # The verdict comes first, so that what the exporter draws can show it.
            about = {"provisional": snapshot.provisional, **_judgement(findings, verdict)}
            atomic.write(folder / "verdict.json", public_json(about))
            exporter(snapshot, records, folder)
        return self.result


def _judgement(findings: Sequence[Finding], verdict: Verdict) -> dict[str, Any]:
    rows = [
        {
            "guard": finding.guard,
            "severity": str(finding.severity),
            "saw": finding.saw,
            "remedy": finding.remedy,
            "values": finding.values,
        }
        for finding in findings
    ]
    return {"verdict": str(verdict), "findings": rows}


def _inputs_of(batch: Batch, room_bytes: int, *, least: int) -> tuple[dict[str, Array], dict[str, Any], int, int]:
    """Arrays and texts of a batch, how many of its rows they hold, and their bytes; no row when `least` do not fit.

    No row either where the items cannot be loaded, or not together because their sizes differ: a replay then asks
    the source, and a dump must not hide the finding it is made for.
    """
    import numpy as np

    try:
        one = batch.load(np.arange(1, dtype=np.int64))
        rows = min(len(batch), max(1, room_bytes // max(1, one.nbytes)))
        if rows < least:
            return {}, {}, 0, 0
        pixels = batch.load(np.arange(rows, dtype=np.int64))
    except BeamsideError:
        return {}, {}, 0, 0
    arrays: dict[str, Array] = {"pixels": pixels}
    texts: dict[str, Any] = {"keys": list(batch.keys)}
    for name, column in batch.columns.items():
        if column.dtype.kind in "biufc":
            arrays[f"column.{name}"] = column
        else:
            texts[name] = column.tolist()
    return arrays, texts, rows, pixels.nbytes


def _sealed(values: Mapping[str, Any]) -> bytes:
    """Values with a checksum of their own, so that a bit flip in the list of checksums is found too."""
    return exact_json({**values, "seal": hashlib.sha256(exact_json(values)).hexdigest()})


def _read_checkpoint(folder: Path) -> Checkpoint:
    def damaged(why: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"the checkpoint is damaged: {why}.", where=str(folder), remedy="An older one is used."
        )

    try:
        listed = json.loads((folder / "manifest.json").read_bytes())
        seal = listed.pop("seal")
        if seal != hashlib.sha256(exact_json(listed)).hexdigest() or listed["step"] != int(folder.name):
            raise damaged("manifest.json does not agree with its own checksum")
        files = {name: (folder / name).read_bytes() for name in listed["sha256"]}
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != listed["sha256"][name]:
                raise damaged(f"{name} does not agree with its checksum")
        values = json.loads(files["values.json"])
        state = State(unpack(files["state.safetensors"]), values["engine"])
        return Checkpoint(listed["step"], state, values["loop"])
    except RunDirectoryError:
        raise
    except Exception as error:  # whatever a damaged file makes its parser raise
        raise damaged(f"{type(error).__name__}: {error}") from error


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((found for found in folder.iterdir() if found.name.isdigit()), key=lambda found: int(found.name))
