"""The guards of joining and choosing particles."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from beamside.errors import InputError
from beamside.run.guard import Severity
from beamside.sources.guards import owned

DISTINCT, DATA_ONLY = owned(
    (
        "files.distinct", "files", "path, device and inode of what is written against what is read", "the same file",
        "a copy onto itself leaves an empty file", Severity.REFUSE,
        "A file that is read must not be written: same path, symbolic link or hard link.", "Name another file.",
    ),
    (
        "merge.data-only", "table", "columns that travel with a particle", "none that a search has found",
        "numbers of classes and halves of two sessions mean different things", Severity.NOTE,
        "Only micrographs, stacks, particles and optics are joined.", "Nothing to do; classify the joined set anew.",
    ),
)  # fmt: skip

GUARDS = (DISTINCT, DATA_ONLY)


def refuse_to_overwrite(out: Path, inputs: Iterable[Path]) -> None:
    """InputError where `out` is one of `inputs` by path, symbolic link or hard link, or is there already."""
    for path in inputs:
        same = out.exists() and path.exists() and os.path.samefile(out, path)
        if same or os.path.realpath(out) == os.path.realpath(path):
            raise InputError(
                f"{DISTINCT.name}: the output is the input {path}.", where=str(out), remedy=DISTINCT.remedy
            )
    if os.path.lexists(out):
        raise InputError("exists already.", where=str(out), remedy="Name a file that is not there yet.")
    if not out.parent.is_dir():
        raise InputError("its folder does not exist.", where=str(out), remedy="Make the folder, or correct the path.")
