"""A particle set as arrays, whatever wrote it, so that everything odd about it can be counted.

Readers here forgive what a run refuses: a number that is none becomes NaN, a stack that is not in the project -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.doctor.parts import PARTICLE_BLOCKS
from beamside.errors import InputError
from beamside.formats.cryosparc import CsTable, column_of, read_cs
from beamside.formats.simple import SimpleProject, read_simple
from beamside.formats.star import StarTable, read_star
from beamside.sources.particle_table import CTF_LABELS
from beamside.sources.simple_table import active, particle_segment, stacks_with_ctf

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
STAR_RESULTS = {
    "class": ("rlnClassNumber",),
    "score": ("rlnMaxValueProbDistribution", "rlnLogLikeliContribution"),
    "in-plane angle": ("rlnAnglePsi",),
    "shift": ("rlnOriginX", "rlnOriginY", "rlnOriginXAngst", "rlnOriginYAngst"),
}
CS_RESULTS = {
    "class": ("class",),
    "score": ("cross_cor", "class_posterior", "error"),
    "in-plane angle": ("pose",),
    "shift": ("shift",),
}
SIMPLE_RESULTS = {"class": ("class",), "score": ("corr",), "in-plane angle": ("e3",), "shift": ("x", "y")}
_CS_CTF = ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast")


@dataclass
class ParticleSet:
    """n particles as a file has them.

    stacks: texts that name stacks; stack: (n,) which, -1 where there is none of that number; index: (n,) image from 1.
    class_number: (n,) from 1, 0 for none, or None where the file knows no classes; classes: how many it declares.
    results: what an earlier search left -> (n,) who carries it. numbers: labels -> (n,), NaN where there is no number.
    """

    path: Path
    form: str
    stacks: list[str]
    stack: NDArray[np.int64]
    index: NDArray[np.int64]
    place: Callable[[int], str]
    active: Flags
    has_ctf: Flags
    micrographs: int | None = None
    defocus_u_A: Floats = field(default_factory=lambda: np.zeros(0))
    defocus_v_A: Floats = field(default_factory=lambda: np.zeros(0))
    pixel_sizes_A: tuple[float, ...] = ()
    class_number: NDArray[np.int64] | None = None
    classes: int | None = None
    declared_empty: tuple[int, ...] = ()
    results: dict[str, Flags] = field(default_factory=dict)
    unreadable: dict[str, Flags] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)


def read_set(path: Path) -> ParticleSet:
    """The particles of a .star, .cs or .simple file; FormatError or InputError where there are none to be had."""
    readers = {".star": _of_star, ".cs": _of_cs, ".simple": _of_simple}
    if path.suffix not in readers:
        raise InputError(
            f"has the ending {path.suffix!r}.", where=str(path), remedy="Give a .star, .cs or .simple file, or a run."
        )
    return readers[path.suffix](path)


def floats(values: Sequence[str]) -> Floats:
    """Texts as float64, NaN where one is no number."""
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        return np.array([_float(value) for value in values])


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def whole(values: Floats) -> NDArray[np.int64]:
    """Whole numbers, -1 where a value is none or too large."""
    sound = np.isfinite(values) & (np.abs(values) < 2**53) & (np.rint(values) == values)
    return np.where(sound, np.where(sound, values, 0), -1).astype(np.int64)


def split(names: Sequence[str]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct stacks, and for each image name which of them and which image, -1 where the name says neither."""
    known: dict[str, int] = {}
    stack, index = np.empty(len(names), dtype=np.int64), np.empty(len(names), dtype=np.int64)
    for row, name in enumerate(names):
        number, at, text = name.partition("@")
        stack[row] = known.setdefault(text if at else name, len(known))
        index[row] = int(number) if number.isdecimal() and len(number) < 18 else -1 if at else 1
    return list(known), stack, index


# ---- STAR


def _of_star(path: Path) -> ParticleSet:
    blocks = read_star(path)
    rows = next((blocks[b] for b in PARTICLE_BLOCKS if b in blocks and "rlnImageName" in blocks[b].columns), None)
    if rows is None or not len(rows):
        held = ", ".join(f"data_{name} ({len(table):,} rows)" for name, table in blocks.items()) or "nothing"
        raise InputError(
            f"has no particles: it holds {held}, and no row with rlnImageName.",
            where=str(path),
            remedy="Give a particle STAR file.",
        )
    optics = blocks.get("optics")
    stacks, stack, index = split(rows.columns["rlnImageName"])
    made = ParticleSet(path, "STAR 3.0" if optics is None else "STAR 3.1", stacks, stack, index, rows.place,
                       np.ones(len(rows), dtype=np.bool_), star_ctf(rows, optics))  # fmt: skip
    fill_from_star(made, rows)
    for label in CTF_LABELS.values():
        if optics is not None and label in optics.columns and not np.isfinite(floats(optics.columns[label])).all():
            made.unreadable[label] = np.ones(len(rows), dtype=np.bool_)
    made.pixel_sizes_A = _star_pixel_sizes(rows) or ((optics and _star_pixel_sizes(optics)) or ())
    made.classes = _declared_classes(path)
    return made


def star_ctf(rows: StarTable, optics: StarTable | None) -> Flags:
    """Whether each row has what a CTF needs, (n,)."""
    labels = {*rows.columns, *(optics.columns if optics is not None else ())}
    return np.full(len(rows), set(CTF_LABELS.values()) <= labels, dtype=np.bool_)


def fill_from_star(made: ParticleSet, rows: StarTable) -> None:
    """Micrographs, defocus and results from the rows of a STAR table."""
    if "rlnMicrographName" in rows.columns:
        made.micrographs = len(set(rows.columns["rlnMicrographName"]))
    for name, label in (("defocus_u_A", "rlnDefocusU"), ("defocus_v_A", "rlnDefocusV")):
        setattr(made, name, floats(rows.columns[label]) if label in rows.columns else np.zeros(0))
    for label in CTF_LABELS.values():
        if label in rows.columns:
            wrong = ~np.isfinite(floats(rows.columns[label]))
            if wrong.any():
                made.unreadable[label] = wrong
    for kind, labels in STAR_RESULTS.items():
        found = [floats(rows.columns[label]) != 0 for label in labels if label in rows.columns]
        if found:
            made.results[kind] = np.logical_or.reduce(found)
    if "rlnClassNumber" in rows.columns:
        made.class_number = whole(floats(rows.columns["rlnClassNumber"]))


def _star_pixel_sizes(table: StarTable) -> tuple[float, ...]:
    if "rlnImagePixelSize" in table.columns:
        return tuple(np.unique(floats(table.columns["rlnImagePixelSize"])).tolist())
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= table.columns.keys():
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = 1e4 * floats(table.columns["rlnDetectorPixelSize"]) / floats(table.columns["rlnMagnification"])
        return tuple(np.unique(sizes.round(6)).tolist())
    return ()


def _declared_classes(path: Path) -> int | None:
    """rlnNrClasses of the model beside run_itNNN_data.star."""
    model = path.with_name(path.name.replace("_data.star", "_model.star"))
    if model == path or not model.is_file():
        return None
    general = read_star(model).get("model_general")
    if general is None or "rlnNrClasses" not in general.columns:
        return None
    return max(0, int(whole(floats(general.columns["rlnNrClasses"]))[0]))


# ---- CryoSPARC


def _of_cs(path: Path) -> ParticleSet:
    table = read_cs(path)
    stacks, index = table.texts("blob/path"), column_of(table, "blob/idx")
    if stacks is None or index is None or not len(table):
        raise InputError(
            "has no particles: blob/path and blob/idx are missing, or there is no record.",
            where=str(path),
            remedy="Give the particle table of an extraction, a selection or a 2D classification.",
        )
    known: dict[str, int] = {}
    stack = np.array([known.setdefault(text, len(known)) for text in stacks], dtype=np.int64)
    everybody = np.ones(len(table), dtype=np.bool_)
    ctf = all(f"ctf/{name}" in table.fields for name in _CS_CTF)
    made = ParticleSet(path, "CryoSPARC .cs", list(known), stack, whole(index) + 1, table.place, everybody,
                       everybody & ctf)  # fmt: skip
    micrographs = table.texts("location/micrograph_path")
    made.micrographs = None if micrographs is None else len(set(micrographs))
    for name, label in (("defocus_u_A", "ctf/df1_A"), ("defocus_v_A", "ctf/df2_A")):
        values = column_of(table, label)
        setattr(made, name, np.zeros(0) if values is None else values)
        if values is not None and not np.isfinite(values).all():
            made.unreadable[label] = ~np.isfinite(values)
    sizes = column_of(table, "blob/psize_A")
    made.pixel_sizes_A = () if sizes is None else tuple(np.unique(sizes.round(6)).tolist())
    for kind, names in CS_RESULTS.items():
        if any(f"alignments{d}D/{name}" in table.fields for d in (2, 3) for name in names):
            made.results[kind] = everybody.copy()
    made.class_number = _cs_classes(table)
    return made


def _cs_classes(table: CsTable) -> NDArray[np.int64] | None:
    """Counted from 1 here, from 0 in the file; those of a 3D search where there was none in 2D."""
    values = column_of(table, "alignments2D/class")
    values = column_of(table, "alignments3D/class") if values is None else values
    return None if values is None else whole(values) + 1


# ---- SIMPLE


def _of_simple(path: Path) -> ParticleSet:
    project = read_simple(path)
    segment = particle_segment(project)
    records = project.texts[2]
    number = whole(project.field(segment, "stkind")) - 1
    stack = np.where((number >= 0) & (number < len(records)), number, -1)
    index = _simple_index(project, segment, stack)
    made = ParticleSet(path, "SIMPLE project", [r.get("stk", "") for r in records], stack, index,
                       lambda row: project.place(segment, row), active(project, segment, np.maximum(stack, 0)),
                       stacks_with_ctf(project)[np.maximum(stack, 0)])  # fmt: skip
    made.micrographs = len(project.texts.get(1, ()))
    made.defocus_u_A, made.defocus_v_A = (1e4 * project.field(segment, name) for name in ("dfx", "dfy"))
    for name in ("dfx", "dfy", "angast"):
        wrong = ~np.isfinite(project.field(segment, name))
        if wrong.any():
            made.unreadable[name] = wrong
    made.pixel_sizes_A = tuple(np.unique(floats([r["smpd"] for r in records if "smpd" in r])).tolist())
    for kind, names in SIMPLE_RESULTS.items():
        made.results[kind] = np.logical_or.reduce([project.field(segment, name) != 0 for name in names])
    made.class_number = whole(project.field(segment, "class"))
    classes = project.texts.get(4, ())
    made.classes = len(classes) or None
    made.declared_empty = tuple(
        row + 1 for row, record in enumerate(classes) if "pop" in record and _float(record["pop"]) == 0
    )
    return made


def _simple_index(project: SimpleProject, segment: int, stack: NDArray[np.int64]) -> NDArray[np.int64]:
    index = whole(project.field(segment, "indstk"))
    first = whole(floats([record.get("fromp", "0") for record in project.texts[2]]))[np.maximum(stack, 0)]
    counted = project.segments[segment].first + np.arange(index.size) - first + 1
    return np.where((index == 0) & (first > 0), counted, index)
