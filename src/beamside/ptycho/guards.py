"""The guards of a ptychographic reconstruction: what they look at, when they trip, and what a person should do then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from beamside.ptycho import advice
from beamside.ptycho.advice import Given
from beamside.ptycho.opening import BEATEN
from beamside.ptycho.orientation import CLEARLY, dc_offset_px, dc_sharpness
from beamside.run.guard import Finding, Guard, Severity

if TYPE_CHECKING:
    from beamside.ptycho.ending import Ending
    from beamside.ptycho.engine import Ptychography
    from beamside.ptycho.noise import Fit

_REGRESS = 0.5
_UNEXPLAINED = 0.5
_LEAST_OVERLAP, _LEAST_BREADTH, _MOST_BEAM, _LEAST_CONTRAST = 1.5, 0.15, 0.5, 1.3
_REMARKABLE = 0.25
_SLENDER, _CLIPPED = 0.2, 0.01
_MOST_NOISE = 0.25
"""Of the amplitude; from there on what is noise in the object is no longer told by how much it varies."""
_DRIFTS = 4
_SETTLED_FROM = 20
_SHARP = 0.2
"""A pattern as wide as the detector has no centre to speak of; nothing is said about it."""


def _dc(engine: Ptychography) -> Finding | None:
    if engine.iteration or engine.optics.near or not engine.store.usable.any():
        return None
    offset = dc_offset_px(engine.store.mean_pattern)
    if np.abs(offset).max() <= engine.size / 4 or dc_sharpness(engine.store.mean_pattern) < _SHARP:
        return None
    return DC.finding(
        f"the mean pattern's weight lies {offset[0]:+.0f} rows and {offset[1]:+.0f} columns from the corner, where the "
        f"zero frequency must be (frames of {engine.size} px).",
        offset_px=[float(v) for v in offset],
    )


def _parity(engine: Ptychography) -> Finding | None:
    opening = engine.opening
    best, assumed = opening.better, opening.assumed
    if engine.iteration or opening.pending or best is None or assumed is None:
        return None
    say = advice.sentence(best, Given.of(engine.header.fields), signed=opening.signed)
    return PARITY.finding(
        f"the frames fit better with {best.name} (misfit {best.misfit:.0f} a frame, {assumed.misfit:.0f} as given): "
        f"{say}.",
        best=best.orientation,
        misfit=best.misfit,
        assumed=assumed.misfit,
    )


def _refocused(engine: Ptychography) -> Finding | None:
    found = engine.opening.refocus
    if engine.iteration or engine.opening.pending or found is None or not found.moved_m:
        return None
    return REFOCUSED.finding(
        f"the start probe fits better {found.moved_m * 1e3:+.3g} mm along the beam (misfit {found.misfit:.0f} a frame, "
        f"{found.given_misfit:.0f} as given); the run began from there.",
        moved_m=found.moved_m,
        misfit=found.misfit,
        given=found.given_misfit,
    )


def _poor_start(engine: Ptychography) -> Finding | None:
    found, given = engine.opening.cold, engine.opening.refocus
    if engine.iteration or engine.opening.pending or found is None or given is None:
        return None
    return POOR_START.finding(
        f"the start probe fits worse (misfit {given.misfit:.0f} a frame) than a start from the frames alone, with a "
        f"defocus of about {found.defocus_m * 1e3:+.2g} mm ({found.misfit:.0f}).",
        defocus_m=found.defocus_m,
        misfit=found.misfit,
        given=given.misfit,
    )


def _clipped(engine: Ptychography) -> Finding | None:
    crowd, store = engine.store.crowd, engine.store
    share = crowd.top * crowd.at_top / max(float(store.total.sum()), 1.0)
    known = crowd.top >= engine.optics.detector.saturation
    if engine.iteration or engine.optics.near or known or not crowd.crowded or share < _CLIPPED:
        return None
    return CLIPPED.finding(
        f"{crowd.at_top:,} pixels, with {min(share, 1.0):.0%} of all counts, hold exactly {crowd.top}, and "
        f"{crowd.below:,} up to 2 % less.",
        top=crowd.top,
        share=share,
    )


def _finite_input(engine: Ptychography) -> Finding | None:
    names, engine.set_aside = engine.set_aside, []
    if not names:
        return None
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return FINITE.finding(f"{len(names)} frames are not finite, negative or empty and were set aside: {shown}.")


def _object_finite(engine: Ptychography) -> Finding | None:
    if np.isfinite(engine.canvas.object).all() and np.isfinite(engine.shop.probe).all():
        return None
    return OBJECT.finding("the object or the probe holds values that are not finite.")


def _diverged(engine: Ptychography) -> Finding | None:
    if not engine.safety.lost:
        return None
    return DIVERGED.finding(
        f"{len(engine.safety.rollbacks)} iterations were taken back and even short steps raise the misfit.",
        rollbacks=engine.safety.rollbacks,
    )


def _regress(engine: Ptychography) -> Finding | None:
    change, engine.regress = engine.regress, 0.0
    if change <= _REGRESS or engine.iteration < _SETTLED_FROM:
        return None
    return REGRESS.finding(
        f"frames that arrived at iteration {engine.iteration} changed {change:.0%} of the contrast of what was known.",
        change=change,
    )


def _at_the_end(engine: Ptychography) -> Ending | None:
    return engine.ending if engine.finished and engine.iteration >= _SETTLED_FROM else None


def _explained(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    if end is None or end.fit is None or end.fit.unexplained <= _UNEXPLAINED:
        return None
    return _left_over(EXPLAINED, end.fit)


def _partly_explained(engine: Ptychography) -> Finding | None:
    end = _at_the_end(engine)
    # In the near field the last quarter takes more iterations than a run has by default.
    if end is None or end.fit is None or engine.optics.near:
        return None
    if not _REMARKABLE < end.fit.unexplained <= _UNEXPLAINED:
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


def _drift(engine: Ptychography) -> Finding | None:
    if len(engine.recentred) < _DRIFTS:
        return None
    return CENTRED.finding(
        f"the probe has left the window's centre {len(engine.recentred)} times and was brought back each time.",
        moved_px=engine.recentred,
    )


def _capacity(engine: Ptychography) -> Finding | None:
    if not engine.store.beyond:
        return None
    return CAPACITY.finding(
        f"{engine.store.beyond} of {len(engine.store)} frames are beyond the capacity of {engine.store.capacity} "
        f"({engine.store.bytes_per_frame} bytes each) and are read again in every iteration.",
        beyond=engine.store.beyond,
    )


DC = Guard(
    "frames.dc", "ingest", "circular mean of the mean pattern, from the corner", "a quarter of the frame",
    "a zero frequency in the centre lies at half a frame", Severity.STOP,
    "Every solver here takes the zero frequency at the corner; elsewhere nothing converges.",
    "Say where it lies: --dc centre, --dc corner or --dc ROW,COLUMN.", _dc,
)  # fmt: skip
PARITY = Guard(
    "geometry.parity", "step", "misfit beyond counting noise of short runs in all eight orientations",
    f"another one under {CLEARLY:g} of it", "the right one has a third to a half of any wrong one's on simulated scans",
    Severity.SUSPECT, "A wrong sign or exchange of axes gives an object that looks right and is not.",
    "Give what is named; check-geometry prints the table of all candidates.", _parity,
)  # fmt: skip
REFOCUSED = Guard(
    "warmstart.defocus", "step", "misfit of short runs from the start probe moved along the beam",
    "a minimum at least 3 % of the sweep's reach away", "on nine of ten kinds of simulated scans a probe 30 % off is "
    "moved to within 11 % of its place (the tenth has too few counts), a right one is left alone", Severity.NOTE,
    "A probe of another day is out of focus; without this the run ends up to three times worse than without a probe.",
    "Save this run's probe for the next start; --no-geometry-check takes a probe as it is.", _refocused,
)  # fmt: skip
POOR_START = Guard(
    "warmstart.better", "step", "misfit of a short run from the start probe and from none", f"under {BEATEN:g} of it",
    "right probes are never beaten on simulated scans; those of another instrument have 5 to 500 times the misfit",
    Severity.NOTE, "A wrong start probe costs more iterations than it saves. The run goes on from it all the same.",
    "Leave --probe out, or give the probe of this instrument.", _poor_start,
)  # fmt: skip
CLIPPED = Guard(
    "frames.clipped", "ingest", "counts in pixels at the largest value, where fewer pixels lie up to 2 % below it",
    f"{_CLIPPED:.0%} of all", "the largest of many Poisson counts is reached once or twice", Severity.SUSPECT,
    "Pixels that stop counting, or are stuck at a value, are fitted as if they had counted.",
    "Give --saturation with that value, or mask the pixels.", _clipped,
)  # fmt: skip
FINITE = Guard(
    "input.finite", "ingest", "NaN, infinite, negative or empty frames", "any", "no likelihood exists for them",
    Severity.NOTE, "Such frames are set aside and named; the run goes on.",
    "Look at the detector at these points.", _finite_input,
)  # fmt: skip
OBJECT = Guard(
    "object.finite", "step", "values of object and probe", "any not finite", "divisions are guarded",
    Severity.STOP, "A reconstruction that holds NaN is lost.", "Report this with the dump.", _object_finite,
)  # fmt: skip
DIVERGED = Guard(
    "solver.diverged", "step", "iterations taken back", "steps under 1/256", "a step that short cannot overshoot",
    Severity.STOP, "The misfit rises whatever the step.",
    "Check the geometry (check-geometry) and the start probe.", _diverged,
)  # fmt: skip
REGRESS = Guard(
    "object.regress", "step", "change of known pixels' contrast when frames arrive", f"{_REGRESS:.0%}",
    "healthy arrivals change under a tenth once 20 iterations have gone by", Severity.SUSPECT,
    "New frames contradict what the earlier ones agreed on.",
    "Look at the positions of the new frames and at the stability of the beam.", _regress,
)  # fmt: skip
EXPLAINED = Guard(
    "frames.explained", "step", "misfit beyond counting noise at the end, relative to that of the mean pattern",
    f"over {_UNEXPLAINED:g}", "under 0.1 on healthy scans; 0.7 with positions late by a frame, 0.9 shuffled",
    Severity.SUSPECT, "A model that knows hardly more of a frame than the mean of all of them has not found the "
    "object, whatever its picture looks like.",
    "Check that each frame has its own position (first number, lag), then axes and units; mask hot pixels.", _explained,
)  # fmt: skip
PARTLY = Guard(
    "frames.explained", "step", "misfit beyond counting noise at the end, relative to that of the mean pattern",
    f"over {_REMARKABLE:g}", "0.42 with positions off by 3 px, 0.46 with a beam that flickers by 20 %", Severity.NOTE,
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
CENTRED = Guard(
    "probe.centred", "step", "how often the probe was brought back to the centre", f"{_DRIFTS} times",
    "a cold start needs it once or twice", Severity.SUSPECT, "A probe that keeps drifting wraps round the corner.",
    "Give a start probe by --probe, or the defocus by --defocus.", _drift,
)  # fmt: skip
CAPACITY = Guard(
    "capacity.declared", "ingest", "frames beyond the declared capacity", "any", "--capacity, or half of the memory",
    Severity.NOTE, "What does not fit is read again from the source, never dropped and never written past the end.",
    "Raise --capacity if there is memory.", _capacity,
)  # fmt: skip

GUARDS = (
    DC, PARITY, REFOCUSED, POOR_START, CLIPPED, FINITE, OBJECT, DIVERGED, REGRESS, EXPLAINED, PARTLY, OVERLAP, LINE,
    WINDOW, DOSE, CENTRED, CAPACITY,
)  # fmt: skip
