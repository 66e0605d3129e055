"""Records of particles as a batch: named columns at once, pixels when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.formats.mrc import read_images
from beamside.run.engine import Batch
from beamside.run.source import Record
from beamside.sources.particle_table import CTF_LABELS, OPTIONAL_LABELS, Particle, decode, numbers

_ROW_OPTICS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnImagePixelSize",
)
"""What tells two optics groups apart in STAR 3.0, which has none by name."""

Signature = tuple[tuple[str, str], ...]


class OpticsGroups:
    """Numbers for optics groups that hold across files: equal names and values, equal number, counted from 1.

    Numbers are given in the order of the records, so the ledger's order gives the same ones in every process.
    """

    def __init__(self) -> None:
        self._numbers: dict[Signature, int] = {}

    def number(self, particle: Particle) -> int:
        """The number of the group that `particle` belongs to."""
        signature = optics_signature(particle)
        return self._numbers.setdefault(signature, len(self._numbers) + 1)


def optics_signature(particle: Particle) -> Signature:
    """What makes an optics group: all that it says, its number in its own file apart."""
    if particle.optics:
        items = [(k, v) for k, v in particle.optics.items() if k != "rlnOpticsGroup"]
    else:
        items = [(k, v) for k in _ROW_OPTICS if (v := particle.columns.get(k)) is not None]
    return tuple(sorted((label, plain_number(value)) for label, value in items))


def plain_number(value: str) -> str:
    """One spelling for one number: 300, 300.0 and 3e2 are the same."""
    try:
        return repr(float(value))
    except ValueError:
        return value


class _Pixels:
    """Reads images of stacks on demand; holds no open file, so any number of threads may call it."""

    def __init__(self, root: Path, particles: Sequence[Particle]) -> None:
        position: dict[str, int] = {}
        ids = [position.setdefault(p.stack, len(position)) for p in particles]
        self._stack = np.array(ids, dtype=np.int64)
        self._index = np.array([p.index - 1 for p in particles], dtype=np.int64)
        self._paths = [Path(os.path.join(root, name)) for name in position]

    def __call__(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        wanted = self._stack[rows]
        stacks = np.unique(wanted)
        if stacks.size == 1:
            return self._read(int(stacks[0]), rows)
        out: NDArray[np.float32] = np.empty((0, 0, 0), dtype=np.float32)
        for stack in stacks.tolist():
            members = np.flatnonzero(wanted == stack)
            images = self._read(stack, rows[members])
            if not out.size:
                out = np.empty((rows.size, *images.shape[1:]), dtype=np.float32)
            if images.shape[1:] != out.shape[1:]:
                raise InputError(
                    f"has images of {images.shape[2]} x {images.shape[1]} px instead of {out.shape[2]}.",
                    where=str(self._paths[stack]),
                    remedy="The stack was replaced during the run; restore it.",
                )
            out[members] = images
        return out

    def _read(self, stack: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return read_images(self._paths[stack], self._index[rows])


def make_batch(records: Sequence[Record], root: Path, groups: OpticsGroups) -> Batch:
    """Records as a batch. Columns are float64 (n,), but for has_ctf (bool), optics_group (int64), micrograph (text).

    A particle without a CTF has has_ctf False and zeros in the CTF columns.
    """
    particles = [decode(record) for record in records]

    def place(row: int) -> str:
        return records[row].key

    has_ctf = np.array([all(p.text(label) for label in CTF_LABELS.values()) for p in particles], dtype=np.bool_)
    columns: dict[str, NDArray[Any]] = {
        name: np.where(has_ctf, numbers(particles, label, 0.0, place), 0.0) for name, label in CTF_LABELS.items()
    }
    for name, (label, default) in OPTIONAL_LABELS.items():
        columns[name] = numbers(particles, label, default, place)
    columns["has_ctf"] = has_ctf
    columns["optics_group"] = np.array([groups.number(p) for p in particles], dtype=np.int64)
    columns["micrograph"] = np.array([p.columns.get("rlnMicrographName", p.stack) for p in particles], dtype=np.str_)
    return Batch(tuple(record.key for record in records), columns, _Pixels(root, particles))
