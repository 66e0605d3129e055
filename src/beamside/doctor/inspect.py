"""A particle set or a run, looked at from outside: what is there, what is odd, what would stop a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beamside.doctor.census import ParticleSet, read_set
from beamside.doctor.oddities import Oddity, Stacks, look_up_stacks, oddities
from beamside.errors import BeamsideError, InputError
from beamside.run.guard import Severity
from beamside.run.store import MANIFEST
from beamside.sources.particle_table import read_particles
from beamside.sources.stacks import Places

RANGES = ("defocus (A)", "astigmatism (A)")
"""Facts that are a least and a greatest value."""
_MOST_SHOWN = 20
_FORMS = (".star", ".cs", ".simple")
Row = int | float | str | list[Any] | None


@dataclass
class Examination:
    """What was found: counts and ranges under names for people, and the oddities."""

    path: str
    form: str
    facts: dict[str, Row] = field(default_factory=dict)
    oddities: list[Oddity] = field(default_factory=list)

    @property
    def stops(self) -> bool:
        """Whether something would stop a run."""
        return any(found.severity in (Severity.STOP, Severity.REFUSE) for found in self.oddities)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = [{**asdict(oddity), "severity": str(oddity.severity)} for oddity in self.oddities]
        return {"path": self.path, "form": self.form, "facts": self.facts, "oddities": found, "stops": self.stops}


def _what_to_name(folder: Path) -> str:
    """Particle sets that lie in a folder which is no run, newest first."""
    found = [each for each in folder.iterdir() if each.suffix in _FORMS and each.is_file()]
    found.sort(key=lambda each: each.stat().st_mtime, reverse=True)
    if not found:
        return "Give a run directory or a file."
    return f"Give a run directory, or one of its files, such as {', '.join(each.name for each in found[:3])}."


def inspect(path: Path, *, all_images: bool = False) -> Examination:
    """A .star, .cs or .simple file, or a run directory.

    all_images: look at every image instead of a sample. Raises BeamsideError for what cannot be read at all.
    """
    if path.is_dir():
        if not (path / MANIFEST).exists():
            raise InputError(f"holds no {MANIFEST}.", where=str(path), remedy=_what_to_name(path))
        from beamside.doctor.run_report import examine_run

        return examine_run(path, all_images=all_images)
    found = examine_set(read_set(path), Places(path, path.parent), all_images=all_images)
    if not found.stops and path.suffix in (".star", ".simple"):
        found.oddities += _as_a_run_reads_it(path)
    return found


def _as_a_run_reads_it(path: Path) -> list[Oddity]:
    """What a run's own reader refuses and nothing above has named."""
    try:
        read_particles(path, path.parent)
    except BeamsideError as error:
        answer = "Refuses the file with this sentence."
        return [Oddity("table.readable", Severity.STOP, error.paragraph(), "No particle could be read.", answer)]
    return []


def examine_set(made: ParticleSet, places: Places, *, all_images: bool) -> Examination:
    """Counts, ranges and oddities of one particle set."""
    stacks = look_up_stacks(made, places)
    result = Examination(str(made.path), made.form, facts_of(made, stacks))
    result.oddities += oddities(made, stacks, places, all_images=all_images)
    return result


def facts_of(made: ParticleSet, stacks: Stacks) -> dict[str, Row]:
    """Counts and ranges."""
    facts: dict[str, Row] = {
        "micrographs": made.micrographs,
        "stacks": len(made.stacks),
        "missing stacks": len(stacks.missing),
        "particles": len(made),
        "active particles": int(made.active.sum()),
        "inactive particles": int((~made.active).sum()),
    }
    facts |= _class_facts(made)
    for kind in ("class", "score", "in-plane angle", "shift"):
        carried = made.results.get(kind)
        facts[f"particles with an earlier {kind}"] = 0 if carried is None else int(carried.sum())
    lacking = np.unique(made.stack[~made.has_ctf & (made.stack >= 0)])
    facts["stacks without CTF"] = int(lacking.size)
    facts |= _ranges(made)
    facts["boxes (px)"] = sorted({int(info.shape[-1]) for info in stacks.infos.values()})
    facts["pixel sizes (A)"] = list(made.pixel_sizes_A)
    return facts


def _class_facts(made: ParticleSet) -> dict[str, Row]:
    number = made.class_number
    if number is None or not (number != 0).any():
        none: dict[str, Row] = {"classes": made.classes or 0, "empty classes": list(made.declared_empty)}
        return none | {"particles in the last class": 0, "class numbers out of range": 0}
    most = made.classes or int(number.max())
    inside = number[(number > 0) & (number <= most)]
    counts = np.bincount(inside, minlength=most + 1)[1:]
    empty = sorted({*(np.flatnonzero(counts == 0) + 1).tolist(), *made.declared_empty})
    return {
        "classes": most,
        "empty classes": empty,
        "particles in the last class": int(counts[-1]) if counts.size else 0,
        "class numbers out of range": int(((number < 0) | (number > most)).sum()),
    }


def _ranges(made: ParticleSet) -> dict[str, Row]:
    u, v = made.defocus_u_A, made.defocus_v_A
    unknown: dict[str, Row] = {"defocus (A)": None, "astigmatism (A)": None}
    if u.size != len(made) or v.size != len(made):
        return unknown
    rows = made.has_ctf & np.isfinite(u + v)
    if not rows.any():
        return unknown
    mean, astigmatism = ((u + v) / 2)[rows], np.abs(u - v)[rows]
    return {
        "defocus (A)": [round(float(mean.min()), 1), round(float(mean.max()), 1)],
        "astigmatism (A)": [round(float(astigmatism.min()), 1), round(float(astigmatism.max()), 1)],
    }


def table(examination: Examination) -> str:
    """For a person."""
    width = max(map(len, examination.facts), default=0)
    lines = [f"{examination.path} ({examination.form})"]
    lines += [
        f"  {name:<{width}}  {_shown(value, ' to ' if name in RANGES else ', ')}"
        for name, value in examination.facts.items()
    ]
    for found in examination.oddities:
        lines += ["", f"[{found.severity}] {found.name}: {found.saw}", f"  In a run: {found.effect}"]
        lines.append(f"  beamside: {found.answer}")
    lines += ["", "A run would be stopped by this." if examination.stops else "Nothing here would stop a run."]
    return "\n".join(lines)


def _shown(value: Row, between: str = ", ") -> str:
    if value is None:
        return "not said"
    if isinstance(value, list):
        more = f" and {len(value) - _MOST_SHOWN} more" if len(value) > _MOST_SHOWN else ""
        return between.join(map(_shown, value[:_MOST_SHOWN])) + more or "none"
    if isinstance(value, float) and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value
