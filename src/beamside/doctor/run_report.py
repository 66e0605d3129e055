"""A run directory looked at from outside; reads, never writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.doctor.census import ParticleSet, fill_from_star
from beamside.doctor.inspect import Examination, Row, examine_set
from beamside.doctor.oddities import Oddity
from beamside.formats.star import Columns, StarTable
from beamside.run import ledger as ledgers
from beamside.run.guard import Finding, Severity
from beamside.run.ledger import Ledger
from beamside.run.origin import has_changed
from beamside.run.source import Record
from beamside.run.store import Store
from beamside.sources.particle_export import union_of
from beamside.sources.particle_table import CTF_LABELS, decode
from beamside.sources.stacks import Places


def examine_run(folder: Path, *, all_images: bool) -> Examination:
    """Items, checkpoints, findings and inputs of a run; for particles also what their table holds."""
    store = Store(folder)
    with Ledger(folder / ledgers.NAME, read_only=True) as ledger:
        arrived, batches, findings = ledger.items(), ledger.batches(), ledger.findings()
        header, records = ledger.header(), ledger.records()
    newest, damaged = store.newest_valid_checkpoint()
    latest = store.latest_snapshot()
    facts: dict[str, Row] = {
        "items arrived": arrived,
        "items in use": len(records),
        "batches": len(batches),
        "snapshots": len(store.snapshots()),
        "newest valid checkpoint": "none" if newest is None else newest.step,
        "damaged checkpoints": len(damaged),
        "verdict": "none yet" if latest is None else str(latest["verdict"]),
        "findings": len(findings),
    }
    result = Examination(str(folder), f"run of {store.manifest.get('verb')}", facts)
    result.oddities += [
        *_inputs(store.manifest.get("inputs", ())),
        *_checkpoints(damaged, steps=bool(batches)),
        *_findings([finding for _, finding in findings]),
    ]
    if header is not None and header.kind == "particles" and records:
        given = Path(store.manifest["options"]["particles"])
        root = given if given.is_dir() else given.parent
        made = set_of_records(folder, records, _assigned(store, len(records)), header.fields)
        anywhere = Places(given, root, (Path("/"),))  # the run has judged where its stacks lie
        inner = examine_set(made, anywhere, all_images=all_images)
        result.facts |= inner.facts
        result.oddities += [found for found in inner.oddities if found.name != "fresh.clean"]
    return result


def set_of_records(
    folder: Path, records: Sequence[Record], assigned: NDArray[np.int64] | None, header: Mapping[str, Any]
) -> ParticleSet:
    """The particles that a run has taken; classes are the run's own."""
    particles = [decode(record) for record in records]
    known: dict[str, int] = {}
    stack = np.array([known.setdefault(p.stack, len(known)) for p in particles], dtype=np.int64)
    index = np.array([p.index for p in particles], dtype=np.int64)
    ctf = np.array([all(p.text(label) for label in CTF_LABELS.values()) for p in particles], dtype=np.bool_)
    everybody = np.ones(len(records), dtype=np.bool_)
    columns: Columns = union_of([p.columns for p in particles])
    made = ParticleSet(folder, "run", list(known), stack, index, lambda row: f"{folder}, item {records[row].key}",
                       everybody, ctf)  # fmt: skip
    fill_from_star(made, StarTable(columns))
    made.class_number, made.results = assigned, {}
    made.classes = None if assigned is None or not assigned.size else max(1, int(assigned.max()))
    made.pixel_sizes_A = (float(header["pixel_size_A"]),)
    return made


def _assigned(store: Store, count: int) -> NDArray[np.int64] | None:
    """Class numbers of the newest snapshot, 0 for items that came after it."""
    found = store.snapshots()
    if not found:
        return None
    tables = json.loads((found[-1] / "tables.json").read_bytes())
    numbers = tables.get("particles", {}).get("class_number")
    if numbers is None:
        return None
    known = np.array(numbers[:count], dtype=np.int64)
    return np.pad(known, (0, count - known.size))


def _inputs(inputs: Sequence[Mapping[str, Any]]) -> Iterator[Oddity]:
    for given in inputs:
        path = Path(given["path"])
        effect = "The run cannot be resumed, nor repeated."
        if not path.exists():
            yield Oddity("input.missing", Severity.STOP, f"the input {path} is gone.", effect, "Refuses to go on.")
        elif has_changed(given):
            yield Oddity(
                "input.changed", Severity.SUSPECT, f"the input {path} has changed since the run began.",
                "The run holds particles of the earlier file.",
                "Resumes only with the earlier file; start a new run for the new one.",
            )  # fmt: skip


def _checkpoints(damaged: Sequence[str], *, steps: bool) -> Iterator[Oddity]:
    for sentence in damaged if steps else ():
        yield Oddity(
            "files.checksum", Severity.NOTE, sentence, "Work since the checkpoint before it is repeated.",
            "Takes the newest checkpoint whose checksums hold; without any, repeats the run from its ledger.",
        )  # fmt: skip


def _findings(findings: Sequence[Finding]) -> Iterator[Oddity]:
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.guard] = counts.get(finding.guard, 0) + 1
        if counts[finding.guard] == 1:
            yield Oddity(
                finding.guard, finding.severity, finding.saw, finding.remedy,
                f"Recorded {sum(f.guard == finding.guard for f in findings)} times; snapshots from then on carry it.",
            )  # fmt: skip
