"""The guards of a ptychographic reconstruction: what they look at, when they trip, and what a person should do then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from beamside.ptycho import advice
from beamside.ptycho.advice import Given
from beamside.ptycho.ending_guards import ENDING_GUARDS, SETTLED_FROM
from beamside.ptycho.foresight import APART
from beamside.ptycho.opening import BEATEN
from beamside.ptycho.orientation import CLEARLY, dc_offset_px, dc_sharpness
from beamside.run.guard import Finding, Guard, Severity

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_REGRESS = 0.5
_CLIPPED = 0.01
_DRIFTS = 4
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
    if best in opening.foreseen:
        given = next(c for c in opening.foreseen if not c.orientation)
        return PARITY.finding(
            f"frames left out are foreseen from the others with {best.name} ({best.sigma:.0f} standard deviations of "
            f"chance, {given.sigma:.0f} as given): {say}.",
            best=best.orientation,
            sigma=best.sigma,
            given=given.sigma,
        )
    return PARITY.finding(
        f"the frames fit better with {best.name} (misfit {best.misfit:.0f} a frame, {assumed.misfit:.0f} as given): "
        f"{say}.",
        best=best.orientation,
        misfit=best.misfit,
        assumed=assumed.misfit,
    )


def _open_focus(engine: Ptychography) -> Finding | None:
    found = engine.opening.focus
    if engine.iteration or engine.opening.pending or found is None or found.rival_m is None or not found.open:
        return None
    return OPEN_FOCUS.finding(
        f"a start with a defocus of {found.defocus_m * 1e3:+.3g} mm foresees frames left out with {found.sigma:.0f} "
        f"standard deviations of chance, one of {found.rival_m * 1e3:+.3g} mm with {found.rival_sigma:.0f}: these data "
        "do not say which of them it is.",
        defocus_m=found.defocus_m,
        sigma=found.sigma,
        rival_m=found.rival_m,
        rival_sigma=found.rival_sigma,
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
    if change <= _REGRESS or engine.iteration < SETTLED_FROM:
        return None
    return REGRESS.finding(
        f"frames that arrived at iteration {engine.iteration} changed {change:.0%} of the contrast of what was known.",
        change=change,
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
OPEN_FOCUS = Guard(
    "start.focus", "step", "significance with which frames left out are foreseen from a cold start and from its best "
    "rival elsewhere", f"a difference under {APART:g}", "two significances differ by 1.4 by chance; a right focus is "
    "ahead by 4 or more where anything is seen at all", Severity.SUSPECT,
    "A weak object, or few counts, fit at several foci; the picture at a wrong one is blurred or ringed.",
    "Give --defocus or a --probe of this instrument, or count for longer.", _open_focus,
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
    DC, PARITY, OPEN_FOCUS, REFOCUSED, POOR_START, CLIPPED, FINITE, OBJECT, DIVERGED, REGRESS, *ENDING_GUARDS, CENTRED,
    CAPACITY,
)  # fmt: skip
