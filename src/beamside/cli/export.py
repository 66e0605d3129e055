"""`beamside export RUN --to npz OUT.npz`: a run's reconstruction as one file of another program's form."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.errors import InputError

if TYPE_CHECKING:
    from beamside.run.engine import Snapshot
    from beamside.run.store import Store

HELP = "a run's result in another form"
_IN_RESULT = {"npz": "object.npz", "cxi": "ptycho.cxi", "npy": "probe.npy"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Run, form and file."""
    add = parser.add_argument
    add("run_dir", metavar="RUN", type=Path, help="directory of a ptychographic run, finished or not")
    add("out", metavar="OUT", help="the file to write; for tiled, the URL of a node, below which the run is written")
    add(
        "--to",
        choices=[*_IN_RESULT, "tiled"],
        required=True,
        help="npz: object, offset, probe, positions; cxi: all of it; npy: the probe alone",
    )


def run(args: argparse.Namespace) -> int:
    """Copy from the result, or make it of the last snapshot of a run that still goes on.

    Raises:
        InputError: the run is of another kind, or has no snapshot yet.
    """
    from beamside.run.store import Store

    store = Store(args.run_dir)
    if store.manifest.get("verb") != "ptycho":
        raise InputError(
            f"is a run of '{store.manifest.get('verb')}'; its result is already in the forms of its field.",
            where=str(args.run_dir),
            remedy=f"Look into {store.result}.",
        )
    if args.to == "tiled":
        return _to_tiled(store, args.out)
    from beamside.doctor.guards import refuse_to_overwrite

    out = Path(args.out)
    refuse_to_overwrite(out, [])
    finished = store.result / _IN_RESULT[args.to]
    if finished.is_file():
        shutil.copyfile(finished, out)
        told = "the result"
    else:
        number, snapshot, judged = _last_snapshot(store)
        _write(args.to, out, snapshot, args.run_dir)
        told = f"snapshot {number} ({judged})"
    print(f"{args.out}: {told} of {args.run_dir}")
    return 0


def _to_tiled(store: Store, url: str) -> int:
    from beamside.formats.tiled import write_container

    number, snapshot, judged = _last_snapshot(store)
    metadata = {**snapshot.notes, "verdict": judged, "program": "beamside", "snapshot": number}
    written = write_container(url, store.folder.absolute().name, snapshot.arrays, metadata)
    print(f"{written}: snapshot {number} ({judged}) of {store.folder}")
    return 0


def _last_snapshot(store: Store) -> tuple[str, Snapshot, str]:
    import json

    import numpy as np

    from beamside.run.encode import unpack
    from beamside.run.engine import Snapshot

    found = store.snapshots()
    if not found:
        raise InputError("has no snapshot yet.", where=str(store.folder), remedy="Wait for the first one.")
    about: dict[str, Any] = json.loads((found[-1] / "snapshot.json").read_bytes())
    tables = json.loads((found[-1] / "tables.json").read_bytes())
    columns = {name: {key: np.asarray(values) for key, values in table.items()} for name, table in tables.items()}
    arrays = unpack((found[-1] / "arrays.safetensors").read_bytes())
    snapshot = Snapshot(arrays, columns, about["coverage"], about["provisional"], about["notes"])
    return found[-1].name, snapshot, about["verdict"]


def _write(form: str, out: Path, snapshot: Snapshot, run_dir: Path) -> None:
    from beamside.ptycho.export import write_cxi, write_object_npz, write_probe_npy

    if form == "npz":
        write_object_npz(out, snapshot)
    elif form == "npy":
        write_probe_npy(out, snapshot)
    else:
        write_cxi(out, snapshot, _keys(run_dir, len(snapshot.arrays["positions_px"])))


def _keys(run_dir: Path, count: int) -> list[str]:
    """Of the first `count` frames that the run has used."""
    import sqlite3

    path = (run_dir / "ledger.sqlite").absolute()
    ledger = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return [str(key) for (key,) in ledger.execute("SELECT key FROM items ORDER BY seq LIMIT ?", (count,))]
    finally:
        ledger.close()
