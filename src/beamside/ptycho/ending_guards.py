"""The guards of a finished reconstruction: whether the frames determine it, and whether it explains them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beamside.ptycho.foresight import FAINT, KNOWN, SPREAD
from beamside.run.guard import Finding, Guard, Severity

if TYPE_CHECKING:
    from beamside.ptycho.ending import Ending
    from beamside.ptycho.engine import Ptychography
    from beamside.ptycho.noise import Fit

_UNEXPLAINED = 0.35
_LEAST_OVERLAP, _LEAST_BREADTH, _MOST_BEAM, _LEAST_CONTRAST = 1.5, 0.15, 0.5, 1.3
_REMARKABLE = 0.12
_BORNE = 25.0
"""Significance of frames left out: 44 and more on good scans that are not counts, up to 16 on shuffled ones."""
_SLENDER = 0.2
_MOST_NOISE = 0.25
"""Of the amplitude; from there on what is noise in the object is no longer told by how much it varies."""
_SCALED = 1.04
_STRONG_BACKGROUND, _BACKGROUND = 1.0, 0.2
"""Counts of a background relative to those that the object scatters: its contrast squared, of all."""
_DEAD = 0.005
_FADED, _FADES = 1.7, 1.5
SETTLED_FROM = 20


def _at_the_end(engine: Ptychography) -> Ending | None:
    return engine.ending if engine.finished and engine.iteration >= SETTLED_FROM else None


def _explained(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    return None if end is None or end.fit is None or not _hardly(end) else _left_over(EXPLAINED, end.fit)


def _hardly(end: Ending) -> bool:
    """Whether too much is unexplained; of what is not counts, noise is a part of that, and frames left out decide."""
    borne = not end.counted and end.foreseen is not None and end.foreseen >= _BORNE
    return end.fit is not None and end.fit.unexplained > _UNEXPLAINED and not borne


def _partly_explained(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    # In the near field the last quarter takes more iterations than a run has by default.
    if end is None or end.fit is None or engine.optics.near:
        return None
    if end.fit.unexplained <= _REMARKABLE or _hardly(end):
        return None
    return _left_over(PARTLY, end.fit)


def _left_over(guard: Guard, found: Fit) -> Finding:
    return guard.finding(
        f"the object and the probe leave {min(1.0, found.unexplained):.0%} of what differs between frames unexplained "
        f"(misfit {found.model:.0f} a frame; counting noise alone {found.noise:.0f}, the mean pattern as a model of "
        f"every frame {found.mean_pattern:.0f}).",
        unexplained=found.unexplained,
        misfit=found.model,
        noise=found.noise,
        mean_pattern=found.mean_pattern,
    )


def _overlap(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or end.overlap >= _LEAST_OVERLAP:
        return None
    return OVERLAP.finding(
        f"of the light on a frame's pixels {1 / end.overlap:.0%} is its own: hardly any other frame reaches there.",
        overlap=end.overlap,
    )


def _line(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or len(engine.active) < 2 or end.breadth >= _LEAST_BREADTH or end.slender >= _SLENDER:
        return None
    return LINE.finding(f"all positions lie on a line, to {end.breadth:.2g} of the beam's width.", breadth=end.breadth)


def _window(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or engine.optics.near or end.beam_share <= _MOST_BEAM:
        return None
    return WINDOW.finding(f"the probe fills {end.beam_share:.0%} of its window.", share=end.beam_share)


def _dose(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or (end.contrast >= _LEAST_CONTRAST * end.noise and end.noise <= _MOST_NOISE):
        return None
    return DOSE.finding(
        f"the object varies by {end.contrast:.2g} of its mean, and counting noise alone makes {end.noise:.2g}.",
        contrast=end.contrast,
        noise=end.noise,
    )


def _unforeseen(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or end.foreseen is None or end.foreseen >= FAINT:
        return None
    so = "nothing that the frames agree on was found" if end.foreseen < KNOWN else "the picture is mostly noise"
    return UNFORESEEN.finding(
        f"frames left out are foreseen from the others with {end.foreseen:.1f} standard deviations of chance: {so}.",
        sigma=end.foreseen,
    )


def _scale(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or end.foreseen is None or end.spread is None or end.spread < _SCALED * end.foreseen:
        return None
    return SCALE.finding(
        f"frames left out are foreseen better with positions {SPREAD - 1:.0%} further apart, in pixels of the object "
        f"({end.spread:.0f} standard deviations of chance, {end.foreseen:.0f} as given): these are too large.",
        sigma=end.spread,
        given=end.foreseen,
    )


def _scattered(end: Ending) -> float:
    """Counts of a background relative to those that the object scatters."""
    return end.background / max(end.contrast**2, 1e-30)


def _strong_background(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or _scattered(end) <= _STRONG_BACKGROUND:
        return None
    return _lies_flat(STRONG_BACKGROUND, end)


def _background(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or not _BACKGROUND < _scattered(end) <= _STRONG_BACKGROUND:
        return None
    return _lies_flat(BACKGROUND, end)


def _lies_flat(guard: Guard, end: Ending) -> Finding:
    return guard.finding(
        f"{end.background:.1%} of all counts lie evenly on the whole detector and do not change from frame to frame; "
        f"the object scatters about {end.contrast**2:.1%}.",
        share=end.background,
        scattered=end.contrast**2,
    )


def _dead(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    return None if end is None or end.missed <= _DEAD else _never_counts(DEAD, end)


def _some_dead(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    return None if end is None or not end.dead or end.missed > _DEAD else _never_counts(SOME_DEAD, end)


def _never_counts(guard: Guard, end: Ending) -> Finding:
    return guard.finding(
        f"{end.dead:,} pixels beside bright ones have never counted, where about {end.missed:.2%} of all counts should "
        "have fallen.",
        pixels=end.dead,
        share=end.missed,
    )


def _faded(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    return None if end is None or end.fading < _FADED else _drifts(FADED, end)


def _fades(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    return None if end is None or not _FADES <= end.fading < _FADED else _drifts(FADES, end)


def _drifts(guard: Guard, end: Ending) -> Finding:
    return guard.finding(
        f"the frames' counts change steadily by a factor of {end.fading:.2g} from the first to the last.",
        factor=end.fading,
    )


EXPLAINED = Guard(
    "frames.explained", "step", "misfit beyond counting noise at the end, relative to that of the mean pattern",
    f"over {_UNEXPLAINED:g}", "under 0.1 on healthy scans; 0.3 to 0.5 with half of the frames late by one, 0.7 with "
    "all of them, 0.9 shuffled",
    Severity.SUSPECT, "A model that knows hardly more of a frame than the mean of all of them has not found the "
    "object, whatever its picture looks like.",
    "Check that each frame has its own position (first number, lag), then axes and units; mask hot pixels.", _explained,
)  # fmt: skip
PARTLY = Guard(
    "frames.explained", "step", "misfit beyond counting noise at the end, relative to that of the mean pattern",
    f"over {_REMARKABLE:g}", "0.1 to 0.2 behind a beam stop, with positions off by 2 px, or that drift by 6 px",
    Severity.NOTE,
    "Something that the model does not know is at work; the picture has errors of its own.",
    "Try --refine-positions, further --modes, or --background; look at the beam's stability.", _partly_explained,
)  # fmt: skip
OVERLAP = Guard(
    "scan.overlap", "step", "all light on a frame's pixels, relative to the frame's own", f"under {_LEAST_OVERLAP:g}",
    "good scans have 5 to 50, a beam in focus 1.9; one is no overlap at all", Severity.SUSPECT,
    "Without overlap nothing ties phases together, and any probe explains its own frame.",
    "Scan with steps of a third of the beam's width or less; give the probe by --probe.", _overlap,
)  # fmt: skip
LINE = Guard(
    "scan.line", "step", "breadth of the scan across its longest direction, relative to the beam's width",
    f"under {_LEAST_BREADTH:g}, and {_SLENDER:g} of its length",
    "along a line, probe and object may trade any factor that varies across it",
    Severity.SUSPECT, "A scan along a line does not determine what lies across it.", "Scan an area.", _line,
)  # fmt: skip
WINDOW = Guard(
    "probe.window", "step", "share of the window that the probe fills (far field)", f"over {_MOST_BEAM:g}",
    "a beam three quarters of a window wide fills 0.44 of it", Severity.SUSPECT,
    "A probe as large as its window wraps round it: it was not found, or the detector's pixels are too large for it.",
    "Give a start by --probe or --defocus; check distance, energy and detector pixel.", _window,
)  # fmt: skip
DOSE = Guard(
    "object.dose", "step", "variation of the object relative to what counting noise makes",
    f"under {_LEAST_CONTRAST:g}, or noise over {_MOST_NOISE:g} of the amplitude",
    "1.6 at 20 counts an object pixel, where the picture is good; 1.0 at 3",
    Severity.SUSPECT, "What the object shows is no more than noise would show.",
    "Count for longer, or scan less area with the same counts.", _dose,
)  # fmt: skip
UNFORESEEN = Guard(
    "object.foreseen", "step", "significance with which frames left out are foreseen from the others and the probe "
    "that was found (far field)", f"under {FAINT:g} standard deviations of chance", "at most 4.3 where frames show "
    "nothing, 5 to 9 where the picture's errors are as large as its contrast; 20 to several hundred on good scans",
    Severity.SUSPECT,
    "A misfit falls with noise that is fitted too; only frames that were not used tell an object from noise.",
    "Count for longer, or scan less area with the same counts; check that each frame has its own position, then the "
    "focus (--defocus, --probe) and the axes.", _unforeseen,
)  # fmt: skip
SCALE = Guard(
    "geometry.scale", "step", "significance with which frames left out are foreseen with the positions a fifth "
    "further apart", f"over {_SCALED:g} of that as given", "at most 0.96 on 42 kinds of right scans; 1.05 to 1.2 with "
    "a distance 25 % too long, but 0.9 with beams whose phase is a plain defocus. Closer positions overlap more and "
    "may fit better on right scans too, so a distance that is too short is not seen", Severity.SUSPECT,
    "Distance, energy and detector pixel make the object's pixel, positions are in metres: where they disagree, "
    "details and distances in the picture have two scales.",
    "Check --distance, --energy, --detector-pixel and --position-unit.", _scale,
)  # fmt: skip
STRONG_BACKGROUND = Guard(
    "frames.background", "step", "counts that lie evenly on the dark part of the detector without speckle, of all "
    "counts, relative to the square of the object's contrast", f"over {_STRONG_BACKGROUND:g}",
    "from there on errors are two to ten times those without it", Severity.SUSPECT,
    "What does not come from the object is fitted as fine detail of object and probe.",
    "Give the background by --background or --dark, or mask the dark part of the detector.", _strong_background,
)  # fmt: skip
BACKGROUND = Guard(
    "frames.background", "step", "counts that lie evenly on the dark part of the detector without speckle, of all "
    "counts, relative to the square of the object's contrast", f"over {_BACKGROUND:g}",
    "from there on errors are visibly larger", Severity.NOTE,
    "What does not come from the object is fitted as fine detail of object and probe.",
    "Give the background by --background or --dark.", _background,
)  # fmt: skip
DEAD = Guard(
    "frames.dead", "step", "pixels without a single count beside bright ones, and their share of the light by these "
    "(far field)", f"over {_DEAD:.1%}", "a beam stop, a gap or a dead quadrant misses 1 % or more along its rim; "
    "optics cut off nothing so sharply", Severity.SUSPECT,
    "Pixels that cannot count are fitted as if no light fell there.",
    "Give --mask with zeros at these pixels.", _dead,
)  # fmt: skip
SOME_DEAD = Guard(
    "frames.dead", "step", "pixels without a single count beside bright ones (far field)", "any",
    "optics cut off nothing so sharply", Severity.NOTE,
    "Pixels that cannot count are fitted as if no light fell there.",
    "Give --mask with zeros at these pixels.", _some_dead,
)  # fmt: skip
FADED = Guard(
    "frames.fading", "step", "largest to smallest of the medians of ten groups of frames, in their order, where they "
    "rise or fall steadily", f"{_FADED:g} or more",
    "up to 1.42 on healthy scans, of objects that absorb up to 40 %", Severity.SUSPECT,
    "A beam that fades looks like an object that absorbs where the scan was late; where no place is visited twice at "
    "different times, the data do not tell the two apart.",
    "Divide the frames by a monitor of the beam, or scan in an order that comes back to the same places.", _faded,
)  # fmt: skip
FADES = Guard(
    "frames.fading", "step", "largest to smallest of the medians of ten groups of frames, in their order, where they "
    "rise or fall steadily", f"{_FADES:g} or more",
    "up to 1.42 on healthy scans, of objects that absorb up to 40 %", Severity.NOTE,
    "A beam that fades looks like an object that absorbs where the scan was late.",
    "Compare with a monitor of the beam.", _fades,
)  # fmt: skip

ENDING_GUARDS = (
    EXPLAINED, PARTLY, OVERLAP, LINE, WINDOW, DOSE, UNFORESEEN, SCALE, STRONG_BACKGROUND, BACKGROUND, DEAD,
    SOME_DEAD, FADED, FADES,
)  # fmt: skip
