"""A run directory held open for the one process that writes it: lock, files and ledger together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamside.errors import BeamsideError, GuardStop, RunDirectoryError
from beamside.run import ledger as ledgers
from beamside.run import lock, origin
from beamside.run.ledger import Ledger
from beamside.run.store import MANIFEST, Store

CRASH = "crash.txt"
_OWN = {lock.NAME, CRASH, f".{MANIFEST}.partial"}
"""What may lie in a directory in which no run has begun yet."""


@dataclass(frozen=True)
class Session:
    """The open run directory."""

    store: Store
    ledger: Ledger


@contextmanager
def new_run(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Session]:
    """Begin a run in `folder`, which is absent or empty, and hold it until the block ends.

    A run that is refused before its first batch leaves nothing behind, so the corrected command can name the same
    folder.

    Raises:
        RunDirectoryError: another process holds the folder, or it holds a run or foreign files.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    foreign = sorted(found.name for found in folder.iterdir() if found.name not in _OWN)
    if foreign and not (folder / MANIFEST).exists():
        raise RunDirectoryError(
            f"the directory is not empty ({foreign[0]} lies in it).",
            where=str(folder),
            remedy="Name a directory that is absent or empty.",
        )
    with lock.hold(folder):
        store = Store.create(folder, manifest)
        with Ledger(folder / ledgers.NAME) as ledger:
            ledger.event("begun", f"run begun by 'beamside {manifest['verb']}'.")
            try:
                with _last_word(ledger):
                    yield Session(store, ledger)
            except BeamsideError:
                if not ledger.batches():
                    _discard(folder, ledger, whole=made)
                raise


@contextmanager
def existing_run(folder: Path) -> Iterator[Session]:
    """Hold the run in `folder` until the block ends, to go on with it.

    Raises:
        RunDirectoryError: there is no run, or another process holds it.
        InputError: a file that the run began with has changed, and the run has not finished.
    """
    store = Store(folder)
    with lock.hold(folder):
        store.sweep()
        with Ledger(folder / ledgers.NAME) as ledger:
            if ledger.fact(ledgers.FINISHED) is None:
                origin.require_same_inputs(store.manifest)
            ledger.event("resumed", "run resumed.")
            with _last_word(ledger):
                yield Session(store, ledger)


@contextmanager
def _last_word(ledger: Ledger) -> Iterator[None]:
    """Record an error before it leaves the run; a guard that stopped it has had its say already."""
    try:
        yield
    except GuardStop:
        raise
    except Exception as error:
        text = error.paragraph() if isinstance(error, BeamsideError) else f"{type(error).__name__}: {error}"
        # On a full disk the ledger cannot take it either, and the first error is the one that says what is wrong.
        with suppress(RunDirectoryError):
            ledger.event("failed", text)
        raise


def _discard(folder: Path, ledger: Ledger, *, whole: bool) -> None:
    ledger.close()
    for found in folder.glob(f"{ledgers.NAME}*"):
        found.unlink()
    for name in ("dumps", "snapshots", "checkpoints", "spool"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / lock.NAME).unlink(missing_ok=True)
    if whole:
        with suppress(OSError):
            folder.rmdir()
