"""CryoSPARC's particle tables (.cs): a NumPy structured array, one record a particle.

Field names are grouped by a prefix: `blob/` says where the image lies, `ctf/` its contrast transfer, `alignments2D/`
and `alignments3D/` what a search found. Public readers disagree on the sign and the order of shifts, so nothing is
written here, and what a search found is only counted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.npy import read_npy, read_npy_info


@dataclass(frozen=True)
class CsTable:
    """The records of a .cs file."""

    path: Path
    records: NDArray[Any]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in the order of the file."""
        return tuple(self.records.dtype.names or ())

    def place(self, row: int) -> str:
        """Where record `row` (from 0) stands, for a person."""
        return f"{self.path}, record {row + 1}"

    def numbers(self, field: str) -> NDArray[Any] | None:
        """A field of numbers, None where the file lacks it; FormatError where it holds text."""
        if field not in self.fields:
            return None
        values: NDArray[Any] = self.records[field]
        if values.dtype.kind not in "biuf":
            raise FormatError(
                f"its field {field} holds {values.dtype}, not numbers.", where=str(self.path), remedy="Export it again."
            )
        return values

    def texts(self, field: str) -> list[str] | None:
        """A field of text, None where the file lacks it; FormatError where it holds anything else."""
        if field not in self.fields:
            return None
        values = self.records[field]
        if values.ndim != 1 or values.dtype.kind not in "SU":
            raise FormatError(
                f"its field {field} holds {values.dtype}, not text.", where=str(self.path), remedy="Export it again."
            )
        if values.dtype.kind == "U":
            return [str(value) for value in values.tolist()]
        return [value.decode("utf-8", errors="surrogateescape") for value in values.tolist()]


def read_cs(path: str | os.PathLike[str]) -> CsTable:
    """The table in `path`; FormatError where it is no .cs file, is cut or damaged, or holds pickled objects."""
    info = read_npy_info(path)
    if info.dtype.names is None or len(info.shape) != 1:
        raise FormatError(
            f"holds an array of shape {info.shape} and type {str(info.dtype)[:60]}, not a table of records.",
            where=str(info.path),
            remedy="Give a particle table of CryoSPARC (.cs).",
        )
    return CsTable(info.path, read_npy(path))


def column_of(table: CsTable, field: str, axis: int | None = None) -> NDArray[np.float64] | None:
    """A field as float64 (n,), or component `axis` of one; None where the file lacks it."""
    values = table.numbers(field)
    if values is None or (axis is not None and (values.ndim != 2 or values.shape[1] <= axis)):
        return None
    picked = values if axis is None else values[:, axis]
    return None if picked.ndim != 1 else picked.astype(np.float64)
