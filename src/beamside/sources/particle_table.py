"""A particle STAR file as records: one text a particle, from which a later process can make it again.

What an earlier run found out (classes, angles, shifts, scores) is left behind here, where the table is read, so
that no fresh run can see it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.formats.star import Columns, StarTable, finite_floats, read_growing_star
from beamside.run.source import Record
from beamside.sources.simple_table import read_tables
from beamside.sources.stacks import Images, NotYetError, Places, find_images, lies_under

RESULT_LABELS = frozenset(
    {
        "rlnClassNumber",
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginX",
        "rlnOriginY",
        "rlnOriginZ",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
        "rlnOriginZAngst",
        "rlnMaxValueProbDistribution",
        "rlnLogLikeliContribution",
        "rlnNrOfSignificantSamples",
        "rlnNormCorrection",
        "rlnParticleFigureOfMerit",
        "rlnIsFlip",
    }
)
"""Columns that hold an earlier run's results; none of them reaches a record."""

CTF_LABELS = {
    "defocus_u_A": "rlnDefocusU",
    "defocus_v_A": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "voltage_kV": "rlnVoltage",
    "cs_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
}
"""A particle has a CTF when it has all of these."""

OPTIONAL_LABELS = {
    "phase_shift_deg": ("rlnPhaseShift", 0.0),
    "bfactor_A2": ("rlnCtfBfactor", 0.0),
    "ctf_scale": ("rlnCtfScalefactor", 1.0),
}

PIXEL_TOLERANCE = 1e-3
"""Relative difference up to which two pixel sizes are the same: 0.03 px at the rim of a 64 px box."""
_IMAGES = (".mrc", ".mrcs", ".map", ".tif", ".tiff", ".eer")


class NoParticlesError(InputError):
    """A STAR file of something else: micrographs, a model."""


@dataclass(frozen=True)
class Particle:
    """What a record says: columns and optics as the file spelled them, the stack's name and the image in it (from 1).

    optics is empty for STAR 3.0, whose rows carry the optics themselves.
    """

    stack: str
    index: int
    columns: Mapping[str, str]
    optics: Mapping[str, str]

    def text(self, label: str) -> str | None:
        """The value of `label` in the row, else in its optics group, else None."""
        return self.columns.get(label, self.optics.get(label))


@dataclass(frozen=True)
class ParticleTable:
    """The new particles of one file, and what they share.

    repeated: rows that name a particle again; inactive: particles that the file says are deselected; outside: stacks
    that lie outside of the data root; unfinished: the last line has no end yet, and was left out.
    """

    path: Path
    box_px: int
    pixel_size_A: float
    pixel_size_from: str
    has_ctf: bool
    records: list[Record]
    repeated: int
    inactive: int
    stacks: tuple[Path, ...]
    outside: tuple[str, ...]
    unfinished: bool


def decode(record: Record) -> Particle:
    """The particle of a record."""
    index, _, stack = record.key.partition("@")
    payload = json.loads(record.payload)
    return Particle(stack, int(index), payload["columns"], payload["optics"])


@dataclass(frozen=True)
class _Tables:
    """What a file says, as blocks of STAR; lacking: rows without a CTF among others that have one, (n,) or None."""

    blocks: Mapping[str, StarTable]
    rows: StarTable
    lacking: NDArray[np.bool_] | None = None
    inactive: int = 0
    unfinished: bool = False


def read_particles(
    path: Path, root: Path, *, growing: bool = False, known: Container[str] = (), trusted: Sequence[Path] = ()
) -> ParticleTable:
    """The particles of `path`, a STAR file or a SIMPLE project, whose keys are not in `known`.

    Keys are relative to the data root `root`. growing: the file may still be appended to; see `read_growing_star`.
    trusted: folders beside the data folder in which stacks may lie.
    Raises FormatError for a damaged file, NoParticlesError where there is no particle table, NotYetError where a
    stack is absent or too short, InputError for whatever else cannot be used; all name the file, and the row where
    one is at fault.
    """
    refuse_cryosparc(path)
    if path.suffix.lower() in _IMAGES:
        raise InputError(
            "is a file of images; the particles are in the table that names it.",
            where=str(path),
            remedy="Give the STAR file, the SIMPLE project, or their folder.",
        )
    read = _simple_tables(path) if path.suffix == ".simple" else _star_tables(path, growing)
    rows = read.rows
    if not len(rows):
        raise NotYetError("has a particle table without rows.", where=str(path), remedy="Write its particles.")
    images = find_images(rows.columns["rlnImageName"], Places(path, root, tuple(trusted)), rows.place)
    optics, group = _optics(path, read.blocks, rows)
    has_ctf = _check_numbers(rows, read.blocks)
    pixel_size_A, origin = _pixel_size(rows, read.blocks.get("optics"), images)
    records, repeated = _records(rows, images, optics, group, known, read.lacking)
    return ParticleTable(
        path=path,
        box_px=images.box_px,
        pixel_size_A=pixel_size_A,
        pixel_size_from=origin,
        has_ctf=has_ctf,
        records=records,
        repeated=repeated,
        inactive=read.inactive,
        stacks=tuple(info.path for info in images.stacks),
        outside=tuple(
            f"{name} (a link to {os.path.realpath(info.path)})" if not name.startswith("/") else name
            for name, info in zip(images.names, images.stacks, strict=True)
            if not lies_under(root, info.path)
        ),
        unfinished=read.unfinished,
    )


def refuse_cryosparc(path: Path) -> None:
    """InputError for a .cs file: it is looked at by `inspect`, and no particles are taken from it."""
    if path.suffix == ".cs":
        raise InputError(
            "is a particle table of CryoSPARC, from which no particles are taken.",
            where=str(path),
            remedy=f"Export the particles as a STAR file and give that; 'beamside inspect {path}' looks at this one.",
        )


def _star_tables(path: Path, growing: bool) -> _Tables:
    blocks, unfinished = read_growing_star(path, growing=growing)
    return _Tables(blocks, _particle_block(path, blocks), unfinished=unfinished)


def _simple_tables(path: Path) -> _Tables:
    found = read_tables(path)
    return _Tables({"optics": found.optics}, found.particles, found.lacking, found.inactive)


def _particle_block(path: Path, tables: Mapping[str, StarTable]) -> StarTable:
    for name in ("particles", "", "images"):
        if name in tables and "rlnImageName" in tables[name].columns:
            return tables[name]
    if "particles" in tables:
        tables["particles"].text("rlnImageName")
    raise NoParticlesError(
        f"has no particle table: its blocks are {', '.join('data_' + name for name in tables)}, and none of "
        "data_particles, data_ or data_images has rlnImageName.",
        where=str(path),
        remedy="Give a particle STAR file.",
    )


def _optics(path: Path, tables: Mapping[str, StarTable], rows: StarTable) -> tuple[list[str], list[int]]:
    """The optics groups as JSON texts, and for each row which of them; one empty group for STAR 3.0."""
    optics = tables.get("optics")
    if optics is None:
        return ["{}"], [0] * len(rows)
    numbers = optics.ints("rlnOpticsGroup").tolist()
    groups = [{label: values[i] for label, values in optics.columns.items()} for i in range(len(optics))]
    position = {number: i for i, number in enumerate(numbers)}
    if len(position) != len(numbers):
        raise InputError("names an optics group twice.", where=str(path), remedy="Number the groups apart.")
    wanted = rows.ints("rlnOpticsGroup").tolist()
    for row, number in enumerate(wanted):
        if number not in position:
            raise InputError(
                f"names optics group {number}, which data_optics does not have.",
                where=rows.place(row),
                remedy="Add the group, or correct the row.",
            )
    return [json.dumps(group, separators=(",", ":")) for group in groups], [position[n] for n in wanted]


def _check_numbers(rows: StarTable, tables: Mapping[str, StarTable]) -> bool:
    """Every number that the CTF needs is one; True when all of them are there."""
    both = [table for table in (rows, tables.get("optics")) if table is not None]
    present = 0
    for label in (*CTF_LABELS.values(), *(label for label, _ in OPTIONAL_LABELS.values())):
        holders = [table for table in both if label in table.columns]
        for table in holders:
            table.floats(label)
        present += bool(holders) and label in CTF_LABELS.values()
    return present == len(CTF_LABELS)


def _pixel_size(rows: StarTable, optics: StarTable | None, images: Images) -> tuple[float, str]:
    """In Angstrom, with where it was found; InputError where it is absent, not positive, or not one for all."""
    for table in (rows, optics):
        if table is None:
            continue
        if "rlnImagePixelSize" in table.columns:
            return _one_pixel_size(table, table.floats("rlnImagePixelSize"), "rlnImagePixelSize"), "rlnImagePixelSize"
        if {"rlnDetectorPixelSize", "rlnMagnification"} <= table.columns.keys():
            magnification = table.floats("rlnMagnification")
            label = "1e4 rlnDetectorPixelSize / rlnMagnification"
            with np.errstate(divide="ignore"):
                sizes = 1e4 * table.floats("rlnDetectorPixelSize") / magnification
            return _one_pixel_size(table, sizes, label), label
    header = images.stacks[0].voxel_size_A[0]
    if header <= 0:
        raise InputError(
            "gives no pixel size: neither rlnImagePixelSize, nor rlnDetectorPixelSize with rlnMagnification, nor the "
            f"header of {images.stacks[0].path}.",
            where=rows.path,
            remedy="Add rlnImagePixelSize.",
        )
    return float(header), f"the header of {images.stacks[0].path}"


def _one_pixel_size(table: StarTable, sizes: Any, label: str) -> float:
    first = float(sizes[0])
    wrong = np.flatnonzero(~((sizes > 0) & np.isfinite(sizes) & (np.abs(sizes - first) <= PIXEL_TOLERANCE * first)))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{label} is {sizes[row]:g} A, in the first row {first:g} A.",
            where=table.place(row),
            remedy="Give particles of one positive pixel size; rescale the others.",
        )
    return first


def _records(
    rows: StarTable,
    images: Images,
    optics: list[str],
    group: list[int],
    known: Container[str],
    lacking: NDArray[np.bool_] | None,
) -> tuple[list[Record], int]:
    """Records of particles not in `known`, in the order of the file, and how often a row repeated an earlier one."""
    kept: Columns = {label: values for label, values in rows.columns.items() if label not in RESULT_LABELS}
    labels, dumps = tuple(kept), json.JSONEncoder(separators=(",", ":")).encode
    records: dict[str, Record] = {}
    repeated = 0
    for row, values in enumerate(zip(*kept.values(), strict=True)):
        key = images.key(row)
        if key in records:
            repeated += 1
        elif key not in known:
            spelled = dict(zip(labels, values, strict=True))
            if lacking is not None and lacking[row]:
                spelled = {label: value for label, value in spelled.items() if label not in CTF_LABELS.values()}
            text = dumps(spelled)
            records[key] = Record(key, f'{{"optics":{optics[group[row]]},"columns":{text}}}')
    return list(records.values()), repeated


def numbers(particles: list[Particle], label: str, default: float, place: Callable[[int], str]) -> Any:
    """The values of `label` as float64 (n,), `default` where a particle has none."""
    spelled = str(default)
    return finite_floats([p.text(label) or spelled for p in particles], label, place)
