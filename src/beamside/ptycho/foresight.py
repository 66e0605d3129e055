"""What a reconstruction from some frames says of frames that it has not seen: whether it knows the object at all.

A misfit falls with whatever is fitted, noise too, so that a weak object at a wrong focus, or counts that are hardly
more than noise, fit as well as the truth. Frames left out are no better explained by noise that was fitted to others.
How they differ from the mean pattern is compared with how they were foreseen to differ: a matched filter, which is
normally distributed with variance 1 where nothing is known, and grows with the square root of the frames where
something is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho.canvas import Canvas
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.optics import Optics
from beamside.ptycho.orientation import ONE_OF_TWINS, Candidate, starts, turned
from beamside.ptycho.probe import Modes, scaled_to
from beamside.ptycho.solvers.accelerated import Accelerated
from beamside.ptycho.solvers.base import Pass
from beamside.ptycho.start import GLANCE_ITERATIONS, LOOK_FRAMES, defocus_ladder_m, pupil_probe, trial_frames
from beamside.ptycho.workshop import Frames, Likelihood, Workshop
from beamside.run.engine import Array

FOLDS = 4
"""A part of the frames is left out at a time."""
_MOST_FRAMES = 200
_LEAST_SHARE = 1e-3
_LEAST_COUNTS = 0.02
"""Mean counts of a pixel below which it is left out: what falls there once in a scan is no measure of anything.
Of what is not counts, share of the brightest pixel."""
_SURE = 15.0
"""Significance from which a start from a sweep is not doubted: rivals reach three quarters of the right one."""
UNDOUBTED = 65.0
"""Significance of frames left out from which a geometry that fits is not doubted: wrong ones that seemed to fit reached
15 to 50, at up to 30,000 counts a frame; right ones have 75 to 115 at 10,000 to 30,000, and 100 to 500 at 100,000."""
KNOWN = 5.0
"""Significance from which something is foreseen. Starts on frames that show nothing reach 3.5."""
FAINT = 10.0
"""Significance of all parts together up to which the picture has errors as large as its contrast."""
_TIMES = 1.2
"""Of the significance of the geometry as given, from which another one is the right one."""
_BEYOND = 2.0
"""Of the next best, as one part of the frames foresees them, from which the geometry as given is not doubted: all parts
together change the ratio of two by a few tenths."""
SPREAD = 1.2
"""Of the positions, tried at the end: where the object's pixel is too large, frames are foreseen better then."""
APART = 3.0
"""What two foci that are both possible differ by: twice the noise of a difference."""


@dataclass(frozen=True)
class Told:
    """What all foresights of one scan share."""

    store: FrameStore
    positions_px: NDArray[np.float64]
    optics: Optics
    noise: Likelihood
    seed: int
    lanes: int

    def sigma(self, probe: Modes, parts: int = FOLDS, *, scale: float = 1.0, most: int = _MOST_FRAMES) -> float:
        """Significance with which frames are foreseen from others and a start probe, `parts` of the folds left out.

        scale: of the positions, about their centre. most: of the frames; the significance grows with their root.
        """
        frames = trial_frames(self.positions_px, self.store.usable, most)
        centre = self.positions_px[frames].mean(0)
        places = (self.positions_px - centre) * scale + centre
        order = np.random.default_rng([self.seed, len(frames)]).permutation(frames)
        agreement = spread = 0.0
        for part in range(parts):
            found = self._part(
                probe, places, np.sort(order[part::FOLDS]), np.sort(np.delete(order, np.s_[part::FOLDS]))
            )
            agreement, spread = agreement + found[0], spread + found[1]
        return agreement / float(np.sqrt(max(spread, 1e-30)))

    def _part(self, probe: Modes, places: NDArray[np.float64], left_out: Frames, seen: Frames) -> tuple[float, float]:
        both = np.sort(np.concatenate([left_out, seen]))
        canvas = Canvas()
        canvas.cover(places[both], self.store.size)
        shop = Workshop(self.store, canvas, self.optics.detector, self.lanes)
        try:
            shop.set_probe(scaled_to(probe, float(self.store.total[seen].mean())))
            shop.place(canvas.inside(places, self.store.size))
            method = Accelerated(long_waves=False)
            for number in range(GLANCE_ITERATIONS):
                method.iterate(shop, Pass(seen, number, self.seed, self.noise, probe=False))
            parts = shop.over_blocks(left_out, lambda lane, block: (intensity(shop, lane, block), self._counts(block)))
        finally:
            shop.shut()
        foreseen, counts = (np.concatenate([pair[k] for pair in parts]) for k in (0, 1))
        valid = self.optics.detector.valid
        pattern = self._counts(seen).mean(0, dtype=np.float64) * valid
        return agreement_of(foreseen * valid, counts * valid, pattern, counted=self.store.integer)

    def _counts(self, frames: Frames) -> Array:
        counts, rows = self.store.block(frames)
        return counts[rows]


def intensity(shop: Workshop, lane: int, block: Frames) -> NDArray[np.float64]:
    """(k, N, N) expected counts of a block of frames."""
    waves = shop.to_detector(shop.exit_waves(lane, block), block)
    scale = 1.0 if shop.detector.transfer is not None else 1.0 / shop.size**2
    return np.asarray((np.abs(waves.astype(np.complex128)) ** 2).sum(1) * scale)


def agreement_of(
    foreseen: NDArray[np.float64], counts: Array, mean_pattern: NDArray[np.float64], *, counted: bool = True
) -> tuple[float, float]:
    """Sum of what differs from the mean pattern times what was foreseen to, and the variance of that by chance.

    foreseen, counts: (k, N, N). A frame's total is taken as it is, so that a beam that flickers, or an object that
    merely absorbs here more than there, proves nothing. counted: counts have the variance of counts; what is not
    counts has that with which it is seen to differ, of which a strong object is a part.
    """
    n = mean_pattern.size
    counts, foreseen, mean = counts.reshape(-1, n), foreseen.reshape(-1, n), mean_pattern.ravel()
    total = counts.sum(1, dtype=np.float64)
    share = mean / max(float(mean.sum()), 1e-30)
    least = _LEAST_COUNTS if counted else max(_LEAST_SHARE * float(mean.max()), 1e-30)
    heard = np.where(mean > least, 1 / np.maximum(mean, least), 0.0)
    # total x (share of the frame - its mean over the frames) / mean, in one array: these are large.
    weight = foreseen / np.maximum(foreseen.sum(1, keepdims=True), 1e-30)
    weight -= weight.mean(0)
    weight *= heard
    weight *= total[:, None]
    found = np.einsum("kp,kp->k", weight, counts) - total * (weight @ share)
    if counted:
        return float(found.sum()), float(total @ (np.square(weight, out=weight) @ share))
    differs = counts - total[:, None] * share
    return float(found.sum()), float(np.einsum("kp,kp,kp,kp->", weight, weight, differs, differs))


@dataclass(frozen=True)
class Focus:
    """Where a cold start began, with its significance, and the next best elsewhere; sure: that was beyond doubt."""

    defocus_m: float
    sigma: float
    rival_m: float | None = None
    rival_sigma: float = 0.0

    @property
    def open(self) -> bool:
        """Whether the data leave open which of the two it is."""
        return self.rival_m is not None and self.sigma - self.rival_sigma < APART


def focus(told: Told, found_m: float, others_m: Sequence[float] = ()) -> Focus:
    """The focus that a sweep has found, or, where frames left out do not bear it out, the one that they prefer."""
    pattern = told.store.mean_pattern

    def sigma(z: float, parts: int = FOLDS) -> float:
        return told.sigma(pupil_probe(pattern, told.optics, z), parts)

    first = sigma(found_m, 1)
    if first >= _SURE:
        return Focus(found_m, first)
    ladder = defocus_ladder_m(pattern, told.optics)
    known = {z: sigma(z) for z in sorted({*ladder, *others_m, found_m})}
    best = max(known, key=lambda z: known[z])
    if known[best] < KNOWN:
        return Focus(found_m, known[found_m])
    low, high = _about(best, ladder)
    elsewhere = [z for z in known if not low <= z <= high]
    if not elsewhere:
        return Focus(best, known[best])
    rival = max(elsewhere, key=lambda z: known[z])
    return Focus(best, known[best], rival, known[rival])


def _about(z: float, ladder: Sequence[float]) -> tuple[float, float]:
    """What is near a focus: to the next rung, or to the one after that where it lies between two."""
    steps = 1 if z in ladder else 2
    below, above = [r for r in ladder if r < z], [r for r in ladder if r > z]
    return (below[-steps:] or [z])[0], (above[:steps] or [z])[-1]


def turns(told: Told, probe: Modes | None, *, defocus_m: float | None, signed: bool) -> list[Candidate]:
    """Every orientation of the frames with the significance with which they are foreseen in it, the best first.

    Arguments as of `orientation.compare`. One part of the frames says which focus and which other orientation are the
    best, and all of them how good this one and the one as given are, unless that is beyond doubt already.
    """
    frames = trial_frames(told.positions_px, told.store.usable, _MOST_FRAMES)
    counts, rows = told.store.block(frames)
    places = told.positions_px[frames]
    cold = probe is None and not signed

    def looked_at(orientation: int) -> tuple[Candidate, Callable[[], float]]:
        store, detector = turned(counts[rows], told.optics.detector, orientation, False)
        here = replace(told, store=store, positions_px=places, optics=replace(told.optics, detector=detector))
        pattern = store.mean_pattern
        begun: list[tuple[Modes, float | None, bool]] = []
        if probe is not None:
            begun += [(start, None, start is not probe) for start in starts(probe, orientation)]
        else:
            ladder = defocus_ladder_m(pattern, told.optics) if cold else []
            known = [defocus_m] if defocus_m is not None and (signed or not orientation) else []
            begun += [(pupil_probe(pattern, told.optics, z), z, False) for z in (*ladder, *known)]
        sigmas = [here.sigma(start, 1, most=LOOK_FRAMES) for start, _, _ in begun]
        start, z, with_probe = begun[int(np.argmax(sigmas))]
        return Candidate(orientation, False, z, 0.0, with_probe, sigma=max(sigmas)), lambda: here.sigma(start)

    found = [looked_at(orientation) for orientation in (ONE_OF_TWINS if cold else range(8))]
    (given, whole), (best, whole_best) = found[0], max(found[1:], key=lambda pair: pair[0].sigma)
    table = [c for c, _ in found]
    if given.sigma < max(_SURE, _BEYOND * best.sigma):
        table = [c for c in table if c not in (given, best)]
        table += [replace(given, sigma=whole()), replace(best, sigma=whole_best())]
    return sorted(table, key=lambda c: -c.sigma)


def better(table: Sequence[Candidate]) -> Candidate | None:
    """A geometry in which frames are foreseen that are not in the one as given."""
    if not table:
        return None
    best, given = table[0], next(c for c in table if not c.orientation)
    clear = best.sigma > max(KNOWN + 1, _TIMES * given.sigma, given.sigma + APART)
    return best if best.orientation and clear else None
