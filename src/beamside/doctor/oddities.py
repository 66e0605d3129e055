"""What is odd about a particle set, what each oddity would do to a new run, and what beamside does about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from beamside.doctor.census import Flags, ParticleSet
from beamside.errors import BeamsideError, FormatError
from beamside.formats.mrc import MrcInfo, read_images, read_info
from beamside.run.guard import Severity
from beamside.sources.stacks import Places, lies_under, trust_needed

SAMPLED_IMAGES = 300
_BLOCK = 128
DEFOCUS_RANGE_A = (1_000.0, 40_000.0)
MOST_ASTIGMATISM_A = 1_000.0
"""Both as Scipion's monitors alarm."""
_LARGEST_SHARE, _LARGEST_OF_FEW = 0.5, 3.0


@dataclass(frozen=True)
class Oddity:
    """name: the guard that answers it; effect: on a new run; answer: what beamside does. `stop` ends a run."""

    name: str
    severity: Severity
    saw: str
    effect: str
    answer: str


@dataclass
class Stacks:
    """The stacks of a set: headers of those that are there, by their number; sentences for the others."""

    infos: dict[int, MrcInfo] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)


def look_up_stacks(made: ParticleSet, places: Places) -> Stacks:
    """Find every stack and read its header."""
    found = Stacks()
    for number, text in enumerate(made.stacks):
        path = places.find(text) if text else None
        if path is None:
            found.missing[number] = text or "a stack without a name"
            continue
        try:
            found.infos[number] = read_info(path)
        except FormatError as error:
            found.damaged[number] = error.paragraph()
    return found


def oddities(made: ParticleSet, stacks: Stacks, places: Places, *, all_images: bool) -> Iterator[Oddity]:
    """All that is odd, in the order in which a run would meet it."""
    yield from _tables(made)
    yield from _stacks(made, stacks, places)
    yield from _results(made)
    yield from _classes(made)
    yield from _ctf(made)
    yield from _pixel_sizes(made)
    yield from _images(made, stacks, all_images=all_images)


def _tables(made: ParticleSet) -> Iterator[Oddity]:
    for label, wrong in made.unreadable.items():
        rows = np.flatnonzero(wrong)
        yield Oddity(
            "table.readable", Severity.STOP,
            f"{label} is no finite number in {rows.size} rows, first {made.place(rows[0])}.",
            "A CTF that is not a number makes every sum it enters not a number.",
            "Refuses the table and names the row; correct or remove those rows.",
        )  # fmt: skip
    inactive = int((~made.active).sum())
    if inactive:
        yield Oddity(
            "input.inactive", Severity.STOP if inactive == len(made) else Severity.NOTE,
            f"{inactive:,} of {len(made):,} particles are deselected.",
            "A run that takes all rows would bring them back.", "Leaves them out.",
        )  # fmt: skip
    slots = np.unique(np.stack([made.stack, made.index]), axis=1).shape[1]
    if slots < len(made):
        yield Oddity(
            "input.repeated", Severity.NOTE, f"{counted(len(made) - slots, 'row', 'names', 'name')} a particle again.",
            "Those particles would weigh twice.", "Uses each once.",
        )  # fmt: skip


def _stacks(made: ParticleSet, stacks: Stacks, places: Places) -> Iterator[Oddity]:
    lost = np.flatnonzero(made.stack < 0)
    if lost.size:
        yield _out_of_range(
            f"{counted(lost.size, 'particle', 'names', 'name')} a stack that is not in the file, first "
            f"{made.place(lost[0])}."
        )
    for missing in [stacks.missing] if stacks.missing else []:
        rows = np.flatnonzero(np.isin(made.stack, list(missing)))
        yield Oddity(
            "input.missing", Severity.STOP,
            f"{counted(len(missing), 'stack')} of {counted(rows.size, 'particle')} {be(len(missing))} not there: "
            f"{_few(list(missing.values()))}.{_other_name(made, missing)}",
            "Those particles have no pixels.",
            "Refuses a file; in a watched folder it waits for them and says so. Bring them, or correct the paths.",
        )  # fmt: skip
    for sentence in list(stacks.damaged.values())[:5]:
        yield Oddity("table.readable", Severity.STOP, sentence, "Its particles cannot be read.", "Refuses the stack.")
    held = np.array([stacks.infos[n].images if n in stacks.infos else 2**62 for n in range(len(made.stacks))])
    if held.size:
        beyond = np.flatnonzero((made.stack >= 0) & ((made.index < 1) | (made.index > held[np.maximum(made.stack, 0)])))
        if beyond.size:
            row = int(beyond[0])
            yield _out_of_range(
                f"{counted(beyond.size, 'row', 'names', 'name')} an image outside of the stack; the first, image "
                f"{made.index[row]} of {made.stacks[made.stack[row]]}, is {made.place(row)}."
            )
    boxes = {info.shape[-2:] for info in stacks.infos.values()}
    if len(boxes) > 1 or any(ny != nx for ny, nx in boxes):
        shown = ", ".join(f"{nx} x {ny}" for ny, nx in sorted(boxes))
        yield Oddity(
            "table.readable", Severity.STOP, f"the boxes are not one square size: {shown} px.",
            "Images of different sizes cannot be averaged.", "Refuses the set; extract all with one box.",
        )  # fmt: skip
    outside = {n: info.path for n, info in stacks.infos.items() if not lies_under(places.root, info.path)}
    away = [path for n, path in outside.items() if not places.holds(made.stacks[n], path)]
    for found, severity, answer in (
        ([path for path in outside.values() if path not in away], Severity.NOTE, "Reads them, and says so."),
        (away, Severity.STOP, f"Refuses the table, unless it is given --trust {trust_needed(places.table, away)}."),
    ):
        if found:
            saw = f"{counted(len(found), 'stack', 'lies', 'lie')} outside of {places.root}, the first {found[0]}."
            yield Oddity("input.outside", severity, saw, "They may move without the set.", answer)


def _out_of_range(saw: str) -> Oddity:
    return Oddity(
        "table.ranges", Severity.STOP, saw, "Another particle's pixels, or none, would be taken.",
        "Refuses the table and names the row; write table and stack again.",
    )  # fmt: skip


def _results(made: ParticleSet) -> Iterator[Oddity]:
    counts = {kind: int(carried.sum()) for kind, carried in made.results.items() if carried.any()}
    if counts:
        shown = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
        yield Oddity(
            "fresh.clean", Severity.NOTE, f"particles carry results of an earlier search ({shown}).",
            "A run that starts from them repeats the earlier run's mistakes.",
            "Drops them where the table is read: the result is that of a clean table, bit for bit.",
        )  # fmt: skip


def _classes(made: ParticleSet) -> Iterator[Oddity]:
    number = made.class_number
    if number is None or not (number != 0).any():
        return
    most = made.classes or int(number.max())
    wrong = np.flatnonzero((number < 0) | (number > most))
    if wrong.size:
        yield Oddity(
            "fresh.clean", Severity.NOTE,
            f"{counted(wrong.size, 'class number')} {be(wrong.size)} not between 1 and {most}; the first is "
            f"{made.place(wrong[0])}.",
            "A run that keeps classes would write past its averages.",
            "Drops class numbers; a merge leaves them behind.",
        )  # fmt: skip
    inside = number[(number > 0) & (number <= most)]
    counts = np.bincount(inside, minlength=most + 1)[1:]
    empty = sorted({*(np.flatnonzero(counts == 0) + 1).tolist(), *made.declared_empty})
    if empty:
        yield Oddity(
            "fresh.clean", Severity.NOTE,
            f"{len(empty)} {'class is' if len(empty) == 1 else 'classes are'} empty: {_few([str(n) for n in empty])}.",
            "A run that trusts this table skips those classes when it prepares its references, and some stay zero.",
            "Never reads an earlier class table; refs.prepared stops a run with a lost average.",
        )  # fmt: skip
    if inside.size and counts.max() > max(_LARGEST_SHARE, _LARGEST_OF_FEW / most) * inside.size:
        full = int(counts.argmax()) + 1
        last = ", the last one: equal scores walk there when ties go to the later class" if full == most else ""
        yield Oddity(
            "classes.collapse", Severity.NOTE,
            f"class {full} holds {counts.max() / inside.size:.0%} of the classified particles{last}.",
            "None, if nothing is taken over; the earlier search has collapsed.",
            "Starts anew, breaks ties by a seeded generator, and marks a run as suspect when a class takes over half.",
        )  # fmt: skip


def _ctf(made: ParticleSet) -> Iterator[Oddity]:
    chosen = made.active
    lacking = chosen & ~made.has_ctf
    if lacking.any():
        names = sorted({made.stacks[n] for n in np.unique(made.stack[lacking]).tolist() if n >= 0})
        yield Oddity(
            "ctf.present", Severity.STOP,
            f"{counted(int(lacking.sum()), 'particle', 'carries', 'carry')} no CTF, of {counted(len(names), 'stack')}: "
            f"{_few(names)}.",
            "Images with and without a CTF cannot be averaged together.",
            "Refuses them; estimate the CTF first, or run with --no-ctf.",
        )  # fmt: skip
    if made.defocus_u_A.size != len(made) or made.defocus_v_A.size != len(made):
        return
    rows = chosen & made.has_ctf & np.isfinite(made.defocus_u_A + made.defocus_v_A)
    mean = (made.defocus_u_A + made.defocus_v_A) / 2
    odd = rows & ((mean < DEFOCUS_RANGE_A[0]) | (mean > DEFOCUS_RANGE_A[1]))
    if odd.any():
        yield Oddity(
            "ctf.range", Severity.NOTE,
            f"the defocus of {counted(int(odd.sum()), 'particle')} is outside {DEFOCUS_RANGE_A[0]:,.0f} to "
            f"{DEFOCUS_RANGE_A[1]:,.0f} A.",
            "A wrong defocus flips the contrast of whole rings.",
            "Uses what the table says; look at those micrographs.",
        )  # fmt: skip
    odd = rows & (np.abs(made.defocus_u_A - made.defocus_v_A) > MOST_ASTIGMATISM_A)
    if odd.any():
        yield Oddity(
            "ctf.range", Severity.NOTE,
            f"the astigmatism of {counted(int(odd.sum()), 'particle')} is over {MOST_ASTIGMATISM_A:,.0f} A.",
            "Either the microscope or the fit is off.", "Uses what the table says; look at those micrographs.",
        )  # fmt: skip


def _pixel_sizes(made: ParticleSet) -> Iterator[Oddity]:
    sizes = made.pixel_sizes_A
    unusable = [s for s in sizes if not (np.isfinite(s) and s > 0)]
    if unusable or (sizes and max(sizes) - min(sizes) > 1e-3 * max(sizes)):
        yield Oddity(
            "table.readable", Severity.STOP, f"pixel sizes are {', '.join(f'{s:g}' for s in sizes[:8])} A.",
            "Particles of different scales cannot be averaged.", "Refuses them; rescale, or run them apart.",
        )  # fmt: skip
    elif not sizes:
        yield Oddity(
            "input.pixel-size", Severity.NOTE, "the file gives no pixel size.",
            "Every resolution limit depends on it.", "Takes it from the header of the stack, and says so.",
        )  # fmt: skip


# ---- pixels


def _images(made: ParticleSet, stacks: Stacks, *, all_images: bool) -> Iterator[Oddity]:
    held = np.array([stacks.infos[n].images if n in stacks.infos else 0 for n in range(len(made.stacks))])
    if not held.size:
        return
    there = (made.stack >= 0) & made.active & (made.index >= 1) & (made.index <= held[np.maximum(made.stack, 0)])
    rows = np.flatnonzero(there)
    if not all_images and rows.size > SAMPLED_IMAGES:
        rows = np.sort(np.random.default_rng(0).choice(rows, SAMPLED_IMAGES, replace=False))
    kinds: dict[str, list[int]] = {"all zero": [], "constant": [], "not finite": []}
    for number in np.unique(made.stack[rows]).tolist():
        members = rows[made.stack[rows] == number]
        for start in range(0, members.size, _BLOCK):
            block = members[start : start + _BLOCK]
            try:
                pixels = read_images(stacks.infos[number].path, made.index[block] - 1)
            except BeamsideError as error:
                yield Oddity("input.settled", Severity.STOP, error.paragraph(), "Its pixels are lost.", "Refuses them.")
                break
            for kind, flags in judge(pixels).items():
                kinds[kind] += block[flags].tolist()
    for kind, found in kinds.items():
        if found:
            yield Oddity(
                "input.finite", Severity.NOTE,
                f"{len(found):,} of {counted(rows.size, 'image')} looked at {be(len(found))} {kind}; the first is "
                f"{made.place(found[0])}.",
                "One such image spoils the sums of a whole class.", "Sets them aside and names them; the run goes on.",
            )  # fmt: skip


def judge(pixels: NDArray[np.float32]) -> dict[str, Flags]:
    """Which of the images (k, n, n) are all zero, constant but not zero, or not finite: (k,) each."""
    flat = pixels.reshape(len(pixels), -1)
    finite = np.isfinite(flat).all(axis=1)
    constant = finite & (flat.max(axis=1) == flat.min(axis=1))
    zero = constant & (flat[:, 0] == 0)
    return {"all zero": zero, "constant": constant & ~zero, "not finite": ~finite}


def counted(number: int, what: str, singular: str = "", plural: str = "") -> str:
    """ "1 stack", "2,019 particles"; with the two forms of a verb "1 row names"."""
    verb = singular if number == 1 else plural
    return f"{number:,} {what}{'' if number == 1 else 's'}" + (f" {verb}" if verb else "")


def be(number: int) -> str:
    """ "is" for one, "are" for any other number."""
    return "is" if number == 1 else "are"


def _other_name(made: ParticleSet, missing: dict[int, str]) -> str:
    """A hint where one stack is missing and one lies beside the table that nobody names."""
    beside = sorted(path.name for path in made.path.parent.glob("*.mrc*") if path.stem[:8] == made.path.stem[:8])
    if len(missing) != 1 or len(made.stacks) != 1 or len(beside) != 1:
        return ""
    return f" {beside[0]} lies beside the table: is it that stack under another name?"


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
