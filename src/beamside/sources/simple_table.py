"""The particles of a SIMPLE project as the tables of a STAR file, so that one reader serves both.

Only what describes the data travels: which image, defocus, optics. Class, score, angles and shifts stay behind, as they
do for STAR files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.formats.simple import SimpleProject, read_simple
from beamside.formats.star import Columns, StarTable, column, finite_floats

_OPTICS = {
    "smpd": "rlnImagePixelSize",
    "kv": "rlnVoltage",
    "cs": "rlnSphericalAberration",
    "fraca": "rlnAmplitudeContrast",
}
_CTF_KEYS = ("kv", "cs", "fraca")
_STACKS, _PTCL2D, _PTCL3D = 2, 3, 6
_EXACT_FLOAT32 = 1 << 24
"""Record numbers are float32, which counts exactly up to here."""


@dataclass
class _Rows(StarTable):
    """A table whose rows are records of a segment."""

    project: SimpleProject | None = None
    segment: int = 0
    records: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def place(self, row: int) -> str:
        assert self.project is not None
        return self.project.place(self.segment, int(self.records[row]))


@dataclass(frozen=True)
class SimpleTables:
    """Particles of a project as STAR tables; `lacking`: rows (n,) whose stack has no CTF, `inactive`: left out."""

    optics: StarTable
    particles: StarTable
    lacking: NDArray[np.bool_]
    inactive: int


def particle_segment(project: SimpleProject) -> int:
    """The segment that holds the particles; InputError where there is none."""
    for number in (_PTCL2D, _PTCL3D):
        if number in project.particles and _STACKS in project.texts:
            return number
    raise InputError(
        "has no particles: segments stk and ptcl2D or ptcl3D are empty.",
        where=str(project.path),
        remedy="Extract particles first.",
    )


def whole_numbers(project: SimpleProject, segment: int, name: str) -> NDArray[np.int64]:
    """A field of counts as int64 (n,); InputError names the first record where it is none."""
    values = project.field(segment, name)
    wrong = np.flatnonzero(~(np.isfinite(values) & (np.rint(values) == values) & (np.abs(values) <= _EXACT_FLOAT32)))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"{name} is {values[row]:g}, not a whole number.",
            where=project.place(segment, row),
            remedy="The project is damaged; write it again.",
        )
    return values.astype(np.int64)


def stack_of(project: SimpleProject, segment: int) -> NDArray[np.int64]:
    """For each particle its stack, from 0; InputError names the first record whose stack is not in the project."""
    stacks = project.texts[_STACKS]
    number = whole_numbers(project, segment, "stkind")
    wrong = np.flatnonzero((number < 1) | (number > len(stacks)))
    if wrong.size:
        row = int(wrong[0])
        raise InputError(
            f"table.ranges: names stack {number[row]} of {len(stacks)} ({wrong.size} such records).",
            where=project.place(segment, row),
            remedy="The project was merged or cut wrongly; write it again.",
        )
    return number - 1


def index_in_stack(project: SimpleProject, segment: int, stack: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each particle the image in its stack, from 1: `indstk`, or by the stack's first particle where that is 0."""
    index = whole_numbers(project, segment, "indstk")
    first = np.array([_number(project, row, "fromp", "0") for row in range(len(project.texts[_STACKS]))])
    counted = project.segments[segment].first + np.arange(index.size) - first[stack].astype(np.int64) + 1
    return np.where((index == 0) & (first[stack] > 0), counted, index)


def active(project: SimpleProject, segment: int, stack: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each particle whether it and its stack are selected (state above 0)."""
    chosen = np.array([_number(project, row, "state", "1") > 0 for row in range(len(project.texts[_STACKS]))])
    selected: NDArray[np.bool_] = (project.field(segment, "state") > 0) & chosen[stack]
    return selected


def stacks_with_ctf(project: SimpleProject) -> NDArray[np.bool_]:
    """For each stack whether its images carry a CTF to correct: `ctf=yes`, with voltage, Cs and amplitude contrast.

    `ctf=flip` is none: those images are corrected already.
    """
    stacks = project.texts[_STACKS]
    return np.array([s.get("ctf") == "yes" and all(key in s for key in _CTF_KEYS) for s in stacks], dtype=np.bool_)


def read_tables(path: Path) -> SimpleTables:
    """The active particles of a project.

    Raises FormatError for a damaged file, InputError for a project without particles, numbers that are none, and
    particles of a stack that is not there.
    """
    project = read_simple(path)
    segment = particle_segment(project)
    stack = stack_of(project, segment)
    index = index_in_stack(project, segment, stack)
    rows = np.flatnonzero(active(project, segment, stack))
    if not rows.size:
        raise InputError(
            f"all {stack.size} particles are deselected (state 0).", where=str(path), remedy="Select some of them."
        )
    lacking = ~stacks_with_ctf(project)[stack[rows]]
    optics, group = _groups(project)
    names = [_stack_name(project, row) for row in range(len(project.texts[_STACKS]))]
    columns: Columns = {
        "rlnImageName": [f"{index[row]:06d}@{names[stack[row]]}" for row in rows.tolist()],
        "rlnOpticsGroup": [str(group[s] + 1) for s in stack[rows].tolist()],
    }
    if not lacking.all():
        columns |= _ctf(project, segment, rows, stack)
    made = _Rows(columns, True, "particles", str(path), (), project, segment, rows)
    return SimpleTables(optics, made, lacking, int(stack.size - rows.size))


def _ctf(project: SimpleProject, segment: int, rows: NDArray[np.int64], stack: NDArray[np.int64]) -> Columns:
    plate = np.array([s.get("phaseplate") == "yes" for s in project.texts[_STACKS]])[stack[rows]]
    shift_deg = np.where(plate, np.rad2deg(project.field(segment, "phshift")[rows]), 0.0)
    found = {
        "rlnDefocusU": column(1e4 * project.field(segment, "dfx")[rows], 2),
        "rlnDefocusV": column(1e4 * project.field(segment, "dfy")[rows], 2),
        "rlnDefocusAngle": column(project.field(segment, "angast")[rows], 3),
    }
    return found | ({"rlnPhaseShift": column(shift_deg, 3)} if plate.any() else {})


def _groups(project: SimpleProject) -> tuple[StarTable, list[int]]:
    """data_optics with one group for each set of optics values, and each stack's group (from 0)."""
    stacks = project.texts[_STACKS]
    present = [key for key in _OPTICS if any(key in s for s in stacks)]
    for row in range(len(stacks)):
        for key in present:
            _number(project, row, key, "0")
    numbers: dict[tuple[str, ...], int] = {}
    group = [numbers.setdefault(tuple(s.get(key, "0") for key in present), len(numbers)) for s in stacks]
    columns: Columns = {
        "rlnOpticsGroupName": [f"opticsGroup{n + 1}" for n in range(len(numbers))],
        "rlnOpticsGroup": [str(n + 1) for n in range(len(numbers))],
    }
    columns |= {_OPTICS[key]: [values[i] for values in numbers] for i, key in enumerate(present)}
    return StarTable(columns, name="optics", path=str(project.path)), group


def _number(project: SimpleProject, row: int, key: str, default: str) -> float:
    text = project.texts[_STACKS][row].get(key, default)
    return float(finite_floats([text], key, project.place(_STACKS, row))[0])


def _stack_name(project: SimpleProject, row: int) -> str:
    stack: Mapping[str, str] = project.texts[_STACKS][row]
    if not stack.get("stk"):
        raise InputError("names no stack (stk=).", where=project.place(_STACKS, row), remedy="Write the project again.")
    return stack["stk"]
