"""Particle sets of several sessions as one STAR file, in one pass and little memory.

Only what describes the data travels: micrographs, stacks, particles, optics. Every image name is followed to its
stack, checked against it, and written so that it leads there from the new file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from beamside.doctor.guards import refuse_to_overwrite
from beamside.doctor.optics import OpticsJoiner
from beamside.doctor.parts import ParticleParts, open_parts
from beamside.errors import InputError
from beamside.formats.atomic import replacing
from beamside.formats.mrc import MrcInfo
from beamside.formats.star import Columns, StarTable, finite_floats, loop_head, loop_rows
from beamside.sources.particle_table import CTF_LABELS, OPTIONAL_LABELS, RESULT_LABELS
from beamside.sources.stacks import Places, locate, name_under, split_names, stack_info, trust_needed

LEFT_BEHIND = RESULT_LABELS | {
    "rlnAngleRotPrior",
    "rlnAngleTiltPrior",
    "rlnAnglePsiPrior",
    "rlnOriginXPrior",
    "rlnOriginYPrior",
    "rlnOriginZPrior",
    "rlnRandomSubset",
    "rlnGroupNumber",
    "rlnGroupName",
    "rlnImageId",
    "rlnParticleId",
}
"""What a search found or numbered in one session, and means nothing in another."""


@dataclass
class Merged:
    """What went into the new file. `repeated`: rows that named a particle again; `dropped`: columns left behind;
    `trust`: the folder that a run on it has to trust, where stacks lie outside of the new file's."""

    particles: int = 0
    repeated: int = 0
    stacks: int = 0
    optics_groups: int = 0
    inputs: dict[str, int] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    trust: Path | None = None


def merge(out: Path, inputs: Sequence[Path]) -> Merged:
    """Write the particles of `inputs` (STAR 3.0, 3.1 or .simple) to `out`, each once, in the order given.

    Raises InputError where `out` is an input or exists, where an image is absent, where some inputs have a CTF and
    others have none; FormatError for a damaged file. Nothing is written then.
    """
    refuse_to_overwrite(out, inputs)
    sets = [open_parts(path) for path in inputs]
    _refuse_mixed_ctf(sets)
    body = out.with_name(f".{out.name}.{os.getpid()}.body")
    try:
        with replacing(out) as file:
            with body.open("w+b") as rows:
                joined = _Joiner(out, sets)
                joined.write_rows(rows)
                joined.prove_names()
                joined.merged.trust = trust_needed(out, [info.path for info in joined.stacks.infos])
                file.write(joined.head().encode("utf-8", errors="surrogateescape"))
                rows.seek(0)
                shutil.copyfileobj(rows, file, 1 << 22)
            file.write(b"\n")
    finally:
        with suppress(OSError):
            body.unlink()
    return joined.merged


def _refuse_mixed_ctf(sets: Sequence[ParticleParts]) -> None:
    having = {}
    for one in sets:
        labels = {*one.first.columns, *(one.optics.columns if one.optics else ())}
        having[str(one.path)] = set(CTF_LABELS.values()) <= labels
    lacking = [path for path, has in having.items() if not has]
    if lacking and len(lacking) < len(having):
        raise InputError(
            f"ctf.present: it has no CTF (defocus, voltage, Cs and amplitude contrast), others have one; so have "
            f"{len(lacking)} of {len(having)} inputs.",
            where=lacking[0],
            remedy="Estimate its CTF first, or join only sets that are alike.",
        )


class _Stacks:
    """Stacks by the file that they are, the names that lead to them from the new table, and which images are taken."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.infos: list[MrcInfo] = []
        self.names: list[str] = []
        self.begins = [0]
        self.taken = np.zeros(0, dtype=np.bool_)
        self._known: dict[tuple[int, int], int] = {}

    def number(self, text: str, places: Places, table: StarTable, row: int) -> int:
        """The stack that `text` names."""
        _, path = locate(text, places, table.place, row)
        found = os.stat(path)
        key = (found.st_dev, found.st_ino)
        if key not in self._known:
            info = stack_info(path, None, table.place, row)
            self._known[key] = len(self.infos)
            self.infos.append(info)
            self.names.append(name_under(Path(os.path.abspath(self.out)).parent, path))
            self.begins.append(self.begins[-1] + info.images)
            if self.begins[-1] > self.taken.size:
                self.taken = np.append(self.taken, np.zeros(self.begins[-1], dtype=np.bool_))
        return self._known[key]

    def first_uses(self, stack: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows (n,) name an image that no earlier row named."""
        slot = np.array(self.begins, dtype=np.int64)[stack] + index - 1
        _, first = np.unique(slot, return_index=True)
        new = np.zeros(slot.size, dtype=np.bool_)
        new[first] = True
        new &= ~self.taken[slot]
        self.taken[slot] = True
        return new


class _Joiner:
    def __init__(self, out: Path, sets: Sequence[ParticleParts]) -> None:
        self.out, self.sets = out, sets
        self.stacks = _Stacks(out)
        self.optics = OpticsJoiner()
        self.merged = Merged()
        self.labels: dict[str, str] = {}
        for one in sets:
            moved = self.optics.moved(one)
            for label, values in one.first.columns.items():
                if label in LEFT_BEHIND:
                    self.merged.dropped.add(label)
                elif label not in moved:
                    self.labels.setdefault(label, "0" if _is_number(values[0]) else "None")
        self.labels.pop("rlnOpticsGroup", None)

    def write_rows(self, file: BinaryIO) -> None:
        for one in self.sets:
            before = self.merged.particles
            found: dict[str, int] = {}
            for part in one.parts():
                rows = self.part(one, part, found)
                file.write(loop_rows(str(self.out), rows).encode("utf-8", errors="surrogateescape"))
            self.merged.inputs[str(one.path)] = self.merged.particles - before

    def part(self, one: ParticleParts, part: StarTable, found: dict[str, int]) -> Columns:
        """The rows of one part as they are written: checked, named anew, each particle once."""
        index, texts = split_names(part.text("rlnImageName"), part.place)
        for row, text in enumerate(texts):
            if text not in found:
                found[text] = self.stacks.number(text, one.places, part, row)
        stack = np.array([found[text] for text in texts], dtype=np.int64)
        self._check(part, stack, index, texts)
        group = self.optics.groups(one, part, [self.stacks.infos[s] for s in stack.tolist()])
        keep = self.stacks.first_uses(stack, index)
        names = self.stacks.names
        columns: Columns = {
            label: part.columns.get(label) or [missing] * len(part) for label, missing in self.labels.items()
        }
        pairs = zip(index.tolist(), stack.tolist(), strict=True)
        columns["rlnImageName"] = [f"{number:06d}@{names[s]}" for number, s in pairs]
        columns["rlnOpticsGroup"] = group
        self.merged.repeated += int((~keep).sum())
        self.merged.particles += int(keep.sum())
        self.merged.stacks = len(names)
        if keep.all():
            return columns
        wanted = np.flatnonzero(keep).tolist()
        return {label: [values[row] for row in wanted] for label, values in columns.items()}

    def _check(self, part: StarTable, stack: NDArray[np.int64], index: NDArray[np.int64], texts: list[str]) -> None:
        held = np.array([info.images for info in self.stacks.infos], dtype=np.int64)[stack]
        beyond = np.flatnonzero((index < 1) | (index > held))
        if beyond.size:
            row = int(beyond[0])
            shown = ", ".join(str(part.lines[r] if part.lines else r + 1) for r in beyond[:5].tolist())
            raise InputError(
                f"table.ranges: names image {index[row]} of {texts[row]}, which holds {held[row]} "
                f"({beyond.size} such rows in this part, at {shown}).",
                where=part.place(row),
                remedy="The table and the stack do not belong together; write them again.",
            )
        for label in (*CTF_LABELS.values(), *(label for label, _ in OPTIONAL_LABELS.values())):
            if label in part.columns:
                finite_floats(part.columns[label], label, part.place)

    def prove_names(self) -> None:
        """Every name leads from the new file to the stack it was made for."""
        places = Places(self.out, self.out.parent)
        for name, info in zip(self.stacks.names, self.stacks.infos, strict=True):
            found = places.find(name)
            if found is None or not os.path.samefile(found, info.path):
                raise InputError(
                    f"the name {name} would lead to {found}, not to {info.path}.",
                    where=str(self.out),
                    remedy="Write the new file into another folder.",
                )

    def head(self) -> str:
        """data_optics, and what stands before the rows of data_particles."""
        optics = self.optics.table()
        self.merged.optics_groups = len(optics["rlnOpticsGroup"])
        rows = loop_rows(str(self.out), optics)
        return f"{loop_head('optics', optics)}{rows}\n{loop_head('particles', [*self._order(), 'rlnOpticsGroup'])}"

    def _order(self) -> list[str]:
        return [label for label in self.labels if label != "rlnOpticsGroup"]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
