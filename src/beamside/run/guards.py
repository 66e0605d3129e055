"""The guards that the run itself keeps. The code that owns the boundary answers; they are listed for the catalogue."""

from __future__ import annotations

from beamside.run.guard import Guard, Severity

_ALL = {
    row[0]: Guard(*row, lambda subject: None)
    for row in (
        (
            "run.lock", "files", "the kernel's lock on RUN/lock", "held by another process",
            "two writers leave a file of neither", Severity.REFUSE,
            "A second process in one run directory exits at once.",
            "Wait for the holder, end it with 'beamside stop', or name another run directory.",
        ),
        (
            "ledger.complete", "ingest", "items seen against items in the result", "any difference",
            "the ledger numbers items without gaps and records a batch before anyone uses it", Severity.STOP,
            "No item is lost or taken twice: identity, not time or order, decides what is new.",
            "Nothing to do: the design has no way to express it.",
        ),
        (
            "files.checksum", "files", "SHA-256 of every file of a checkpoint, sealed in its manifest",
            "any difference",
            "safetensors alone loads a flipped bit or a hole of zeros", Severity.REFUSE,
            "A damaged checkpoint is never loaded; the one before it is, or the run repeats itself from its ledger.",
            "Look at the disk that holds the run.",
        ),
        (
            "run.software", "files", "versions and a checksum of the code in run.json against those of this process",
            "any difference", "other software rounds otherwise, and may mean something else by the same file",
            Severity.NOTE,
            "A resumed run equals the uninterrupted one bit for bit with the same software alone. A checkpoint that "
            "this version cannot read is refused by name.",
            "Nothing to do, unless the result is to be repeated exactly: then resume with the software that began it.",
        ),
        (
            "run.inputs", "files", "size and SHA-256 of every input file against those in run.json", "any difference",
            "a changed input is another run", Severity.REFUSE,
            "A run never goes on with another file than it began with. Folders and watched files may grow.",
            "Restore that file, or start a new run.",
        ),
    )
}  # fmt: skip
GUARDS = tuple(_ALL.values())
SOFTWARE = _ALL["run.software"]
