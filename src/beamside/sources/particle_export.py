"""Records of particles as the two tables of STAR 3.1 again, whatever files they came from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from beamside.formats.relion import add_optics
from beamside.formats.star import Columns
from beamside.run.source import Record
from beamside.sources.particle_batch import optics_signature
from beamside.sources.particle_table import Particle, decode


def particle_tables(
    records: Sequence[Record], *, root: Path, box_px: int, pixel_size_A: float
) -> tuple[Columns, Columns]:
    """(data_optics, data_particles) with every column that the records have, in their order and spelling.

    Optics groups that are equal but for their number in their own file become one; rlnOpticsGroup is rewritten. Where
    one image name stands for two stacks of different folders, names become absolute paths under `root`.
    """
    particles = [decode(record) for record in records]
    with_groups = [p for p in particles if p.optics]
    rows = union_of([p.columns for p in particles])
    if "rlnImageName" in rows:
        rows["rlnImageName"] = _image_names(particles, root)
    if len(with_groups) < len(particles):
        # STAR 3.0, alone or mixed with 3.1: the optics of every row are in the row, and are grouped from there.
        full = union_of([{**p.optics, **p.columns} for p in particles])
        full.pop("rlnOpticsGroupName", None)
        if "rlnImageName" in rows:
            full["rlnImageName"] = rows["rlnImageName"]
        return add_optics(full, box_px=box_px, pixel_size_A=pixel_size_A)
    numbers: dict[object, int] = {}
    groups: list[Particle] = []
    assigned = []
    for particle in particles:
        number = numbers.setdefault(optics_signature(particle), len(numbers) + 1)
        if number > len(groups):
            groups.append(particle)
        assigned.append(str(number))
    optics = union_of([group.optics for group in groups])
    if "rlnOpticsGroupName" in optics:
        optics["rlnOpticsGroupName"] = distinct(optics["rlnOpticsGroupName"])
    optics["rlnOpticsGroup"] = [str(number) for number in range(1, len(groups) + 1)]
    rows["rlnOpticsGroup"] = assigned
    return optics, rows


def union_of(rows: Sequence[Mapping[str, str]]) -> Columns:
    """Columns of all labels in order of appearance; 0 or None, as RELION has it, where a row lacks a label."""
    labels: dict[str, str] = {}
    for row in rows:
        for label, value in row.items():
            labels.setdefault(label, "0" if _is_number(value) else "None")
    return {label: [row.get(label, missing) for row in rows] for label, missing in labels.items()}


def distinct(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that came before: RELION wants optics groups named apart."""
    taken: set[str] = set()
    result = []
    for name in names:
        fresh = next(n for i in range(1, len(names) + 1) if (n := name if i == 1 else f"{name}_{i}") not in taken)
        taken.add(fresh)
        result.append(fresh)
    return result


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _image_names(particles: Sequence[Particle], root: Path) -> list[str]:
    """As the files spelled them, unless that is ambiguous."""
    given = [p.columns["rlnImageName"] for p in particles]
    stacks: dict[str, str] = {}
    named = ((name.rpartition("@")[2], p.stack) for name, p in zip(given, particles, strict=True))
    if all(stacks.setdefault(text, stack) == stack for text, stack in named):
        return given
    return [f"{p.index:06d}@{os.path.abspath(os.path.join(root, p.stack))}" for p in particles]
