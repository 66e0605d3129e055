"""The particles of chosen classes of a run, as a particle STAR file for a next run or another program."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beamside.classify.export import RESULTS
from beamside.doctor.guards import refuse_to_overwrite
from beamside.errors import InputError, RunDirectoryError
from beamside.formats.relion import write_data
from beamside.formats.star import column
from beamside.run import ledger as ledgers
from beamside.run.ledger import Ledger
from beamside.run.source import Record
from beamside.run.store import Store
from beamside.sources.particle_export import particle_tables
from beamside.sources.particle_table import decode
from beamside.sources.stacks import name_under, trust_needed


@dataclass(frozen=True)
class Selected:
    """How many particles were chosen of how many, whether the run had finished, and the folder that a next run has to
    trust, where stacks lie outside of the new file's."""

    particles: int
    of: int
    finished: bool
    trust: Path | None


def select(run_dir: Path, classes: Sequence[int], out: Path, *, reject: bool = False) -> Selected:
    """Write the particles of `classes` (numbered from 1) to `out`, or with `reject` all others.

    Assignments are those of the newest snapshot; a particle without a class is in none, and is never written.

    Raises:
        RunDirectoryError: there is no run, or it has published nothing.
        InputError: a class that the run does not have, an empty choice, or an output that is an input or exists.
    """
    store = Store(run_dir)
    refuse_to_overwrite(out, [Path(given["path"]) for given in store.manifest["inputs"]])
    about, tables = _newest(store)
    if "particles" not in tables or "class_number" not in tables["particles"]:
        raise InputError("is no classification; it has no classes.", where=str(run_dir), remedy="Name another run.")
    assigned = np.array(tables["particles"]["class_number"], dtype=np.int64)
    known = {int(number) for number in tables["classes"]["class_number"]}
    unknown = sorted(set(classes) - known)
    if unknown or not classes:
        raise InputError(
            f"table.ranges: classes {unknown} are asked for; the run has {min(known)} to {max(known)}.",
            where=str(run_dir),
            remedy="Name classes as they are numbered in result/gallery.png.",
        )
    chosen = np.isin(assigned, np.array(classes)) ^ reject
    rows = np.flatnonzero(chosen & (assigned > 0))
    if not rows.size:
        raise InputError("no particle is in the chosen classes.", where=str(run_dir), remedy="Choose other classes.")
    with Ledger(run_dir / ledgers.NAME, read_only=True) as ledger:
        records = ledger.records()[: assigned.size]
    trust = _write(
        out, [records[row] for row in rows.tolist()], rows.tolist(), store, about["notes"], tables["particles"]
    )
    return Selected(int(rows.size), int(assigned.size), store.result.is_dir(), trust)


def _newest(store: Store) -> tuple[dict[str, Any], dict[str, Any]]:
    found = store.snapshots()
    if not found:
        raise RunDirectoryError(
            "has published no snapshot yet.", where=str(store.folder), remedy="Wait for its first round."
        )
    about, tables = (json.loads((found[-1] / name).read_bytes()) for name in ("snapshot.json", "tables.json"))
    return about, tables


def _write(
    out: Path,
    records: Sequence[Record],
    rows: Sequence[int],
    store: Store,
    notes: dict[str, Any],
    table: dict[str, list[Any]],
) -> Path | None:
    given = Path(store.manifest["options"]["particles"])
    root = given if given.is_dir() else given.parent
    optics, particles = particle_tables(
        records, root=root, box_px=int(notes["box_px"]), pixel_size_A=float(notes["pixel_size_A"])
    )
    found = [decode(record) for record in records]
    stacks = {p.stack: Path(os.path.normpath(os.path.join(os.path.abspath(root), p.stack))) for p in found}
    names = {text: name_under(Path(os.path.abspath(out)).parent, stack) for text, stack in stacks.items()}
    particles["rlnImageName"] = [f"{p.index:06d}@{names[p.stack]}" for p in found]
    results = {label: column(np.array([table[name][row] for row in rows])) for label, name in RESULTS.items()}
    write_data(out, optics, particles, results)
    return trust_needed(out, stacks.values())
