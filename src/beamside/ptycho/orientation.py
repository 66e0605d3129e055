"""Which detector orientation and which place of DC fit the data: short reconstructions of every candidate, ranked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from beamside.optics.frames import ORIENTATIONS, composed
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.noise import expected_misfit
from beamside.ptycho.optics import Optics
from beamside.ptycho.probe import Modes, circular_centre_px
from beamside.ptycho.start import (
    GLANCE_FRAMES,
    GLANCE_ITERATIONS,
    LOOK_FRAMES,
    LOOK_ITERATIONS,
    defocus_ladder_m,
    pupil_probe,
    short_run,
    trial_frames,
)
from beamside.ptycho.workshop import Detector, Likelihood
from beamside.run.engine import Array, Batch

_OUT = 1.25
"""In a hurry: from which misfit at a glance, relative to the best, a candidate is out. So is what does not fit better
than the geometry as given: where that is wrong, the right one has 0.7 of its unexplained misfit or less."""
CLEARLY = 0.75
"""Misfit beyond what counting noise explains, relative to that of the geometry as given, where another is better."""
LEARNS = 0.5
"""On simulated scans right geometries learn half or more of what is unexplained, wrong ones 0.3 or less, but for the
half turn of a probe that is nearly symmetric, and starts so wrong that anything is better."""
_FITS = 1.5
"""Misfit relative to counting noise: right geometries reach 0.9 to 1.3."""
_NATS = 300.0
"""Log-likelihood by which one geometry must fit better than another where nothing else tells them apart."""
_LEAST_EXCESS = 0.05
HALF_TURN = ORIENTATIONS.index((False, True, True))
NAMES = (
    "as given",
    "y reversed",
    "x reversed",
    "x and y reversed",
    "x and y exchanged",
    "x and y exchanged, then y reversed",
    "x and y exchanged, then x reversed",
    "x and y exchanged and reversed",
)
"""What each orientation of `ORIENTATIONS` does to the frames relative to the scan, in words."""


ONE_OF_TWINS = (0, 1, 4, 5)
_TWIN = 0.3
_ALIKE = 0.95
"""Overlap from which a probe and the turned one are the same start."""


@dataclass(frozen=True)
class Candidate:
    """One geometry: orientation (0 to 7), whether DC is moved by half a frame, and what a short run reached.

    with_probe: the start probe had to be turned with the frames, so it is the scan's axes that are wrong. What to say
    for a candidate to be the geometry in use is in `advice`. explained: the part of the misfit that counting noise is.
    glanced: the misfit is of fewer frames, which fit more easily; not to be compared with that of a look in full.
    learnt: how much of what noise does not explain went away between the first and the last iteration of a look, as a
    share. frames: how many were looked at. floored: what counting noise explains with the floor of the likelihood.
    sigma: significance with which frames left out are foreseen (`foresight`), where that was asked.
    """

    orientation: int
    dc_moved: bool
    defocus_m: float | None
    misfit: float
    with_probe: bool = False
    explained: float = 0.0
    glanced: bool = False
    learnt: float = 0.0
    frames: int = 0
    floored: float = 0.0
    sigma: float = 0.0

    @property
    def learns(self) -> bool:
        """Whether its frames agree so well that no other geometry need be looked at."""
        return self.learnt >= LEARNS and self.misfit <= _FITS * self.floored

    @property
    def noisy(self) -> bool:
        """Whether most of its misfit is counting noise, of which the misfits of two geometries say little."""
        return self.floored > 0 and self.misfit <= _FITS * self.floored

    def clearly_beats(self, other: Candidate) -> bool:
        """By what noise does not explain, or, at low dose, where the other one learns nothing from the frames' overlap.

        All frames together tell two geometries apart where one frame is noise; twice a misfit is a log-likelihood.
        """
        if self.misfit - self.explained < CLEARLY * (other.misfit - other.explained):
            return True
        evidence = 2 * min(self.frames, other.frames) * (other.misfit - self.misfit)
        return other.learnt <= 0 < self.learnt and evidence > _NATS and other.explained > 0

    @property
    def twin(self) -> Candidate:
        """Frames turned by 180 degrees, with the conjugate object and the opposite defocus: the same misfit."""
        defocus_m = None if self.defocus_m is None else -self.defocus_m
        return dataclasses.replace(self, orientation=composed(self.orientation, HALF_TURN), defocus_m=defocus_m)

    @property
    def name(self) -> str:
        """In words."""
        return NAMES[self.orientation] + (", DC moved by half a frame" if self.dc_moved else "")


def dc_offset_px(mean_pattern: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) where the mean pattern's weight lies relative to pixel [0, 0], by its circular mean."""
    return circular_centre_px(mean_pattern, 0)


def dc_sharpness(mean_pattern: NDArray[np.float64]) -> float:
    """How far the pattern's weight agrees on a centre at all: 1 for a point, 0 for a flat or a symmetric one."""
    turn = np.exp(2j * np.pi * np.arange(len(mean_pattern)) / len(mean_pattern))
    lengths = [abs(complex((mean_pattern.sum(1 - axis) * turn).sum())) for axis in (0, 1)]
    return float(min(lengths) / max(float(mean_pattern.sum()), 1e-30))


def oriented(frames: Array, orientation: int) -> Array:
    """Frames (k, N, N) with DC at the corner, their frequencies transposed and reversed as the table says."""
    transpose, rows, columns = ORIENTATIONS[orientation]
    out = frames.transpose(0, 2, 1) if transpose else frames
    if rows:
        out = np.roll(out[:, ::-1], 1, axis=1)
    if columns:
        out = np.roll(out[:, :, ::-1], 1, axis=2)
    return np.ascontiguousarray(out)


def compare(
    store: FrameStore,
    positions_px: NDArray[np.float64],
    optics: Optics,
    noise: Likelihood,
    probe: Modes | None,
    *,
    defocus_m: float | None,
    signed: bool,
    with_dc: bool,
    seed: int,
    lanes: int,
    hurried: bool = False,
    among: tuple[int, ...] | None = None,
) -> list[Candidate]:
    """All candidates, the best first.

    probe: the start probe, or None, when each candidate begins from its own mean pattern: at `defocus_m` where somebody
    has given it (signed), else at the best of a ladder of its own, which costs the geometry as given nothing if
    defocus_m was found for it. Then two orientations that differ by 180 degrees are twins, with opposite defocus and
    one misfit. with_dc: try DC moved by half a frame too. hurried: after a glance at fewer frames only those candidates
    are looked at in full that do better than the geometry as given, and that one itself; the others come behind them,
    with the misfit that they have at a glance. among: only these orientations, the one as given first.
    """

    def look_at(most: int) -> _Look:
        frames = trial_frames(positions_px, store.usable, most)
        counts, rows = store.block(frames)
        return _Look(counts[rows], positions_px[frames], optics, noise, seed, lanes, store.integer)

    twins = probe is None and not signed
    places = [
        (orientation, moved)
        for moved in ((False, True) if with_dc else (False,))
        for orientation in (among or (ONE_OF_TWINS if twins else range(8)))
    ]

    def tried(look: _Look, iterations: int, orientation: int, moved: bool, defocus_m: float | None) -> Candidate:
        if probe is not None:
            begun = starts(probe, orientation)
            return min((look.at(orientation, moved, s, s is not probe, iterations) for s in begun), key=_misfit)
        defoci = look.ladder_m if defocus_m is None else [defocus_m]
        return min((look.from_pattern(orientation, moved, z, iterations) for z in defoci), key=_misfit)

    look = look_at(LOOK_FRAMES)
    glance = look_at(GLANCE_FRAMES) if hurried else look
    first: dict[tuple[int, bool], Candidate] = {}
    for place in places:
        known = defocus_m if signed or place == (0, False) else None
        first[place] = tried(glance, GLANCE_ITERATIONS, *place, known)
    given, best = first[0, False].misfit, min(c.misfit for c in first.values())
    full, behind = [], []
    for place, c in first.items():
        if not hurried or place == (0, False) or (c.misfit < given and c.misfit <= _OUT * best):
            full.append(tried(look, LOOK_ITERATIONS, *place, c.defocus_m))
        else:
            behind.append(dataclasses.replace(c, glanced=True))
    return [c for group in (full, behind) for c in sorted(_with_twins(group) if twins else group, key=_misfit)]


def _with_twins(table: list[Candidate]) -> list[Candidate]:
    return [*table, *(c.twin for c in table)]


def as_given(
    store: FrameStore, positions_px: NDArray[np.float64], optics: Optics, noise: Likelihood, probe: Modes | None, *,
    defocus_m: float | None, seed: int, lanes: int,
) -> Candidate:  # fmt: skip
    """The geometry as given, looked at in full; arguments as of `compare`, with a defocus where there is no probe."""
    frames = trial_frames(positions_px, store.usable, LOOK_FRAMES)
    counts, rows = store.block(frames)
    look = _Look(counts[rows], positions_px[frames], optics, noise, seed, lanes, store.integer)
    if probe is not None:
        return look.at(0, False, probe, False, LOOK_ITERATIONS)
    return look.from_pattern(0, False, defocus_m or 0.0, LOOK_ITERATIONS)


class _Look:
    """Short runs on the same few frames, turned and moved."""

    def __init__(
        self, counts: Array, here: NDArray[np.float64], optics: Optics, noise: Likelihood, seed: int, lanes: int,
        integer: bool,
    ) -> None:  # fmt: skip
        self.counts, self.here, self.optics, self.noise, self.seed, self.lanes = (
            counts,
            here,
            optics,
            noise,
            seed,
            lanes,
        )
        self._held: tuple[tuple[int, bool], tuple[FrameStore, Detector]] | None = None
        pattern = counts.mean(0, dtype=np.float64)
        self.ladder_m = defocus_ladder_m(pattern, optics)
        valid = optics.detector.valid
        # What is not counts has noise of its own, and nothing is known of it.
        self.explained = float((expected_misfit(pattern) * valid).sum()) if integer else 0.0
        self.floored = float((expected_misfit(pattern, noise.floor) * valid).sum()) if integer else 0.0

    def at(self, orientation: int, moved: bool, probe: Modes, with_probe: bool, iterations: int) -> Candidate:
        """From a given probe."""
        store, detector = self._turned(orientation, moved)
        tried = self._tried(store, detector, probe, iterations)
        return replace(tried, orientation=orientation, dc_moved=moved, with_probe=with_probe)

    def from_pattern(self, orientation: int, moved: bool, defocus_m: float, iterations: int) -> Candidate:
        """From the mean pattern at a defocus."""
        store, detector = self._turned(orientation, moved)
        probe = pupil_probe(store.mean_pattern, self.optics, defocus_m)
        tried = self._tried(store, detector, probe, iterations)
        return replace(tried, orientation=orientation, dc_moved=moved, defocus_m=defocus_m)

    def _tried(self, store: FrameStore, detector: Detector, probe: Modes, iterations: int) -> Candidate:
        """What a short run on turned frames reached, with the geometry yet to be named."""
        misfit, learnt = self._run(store, detector, probe, iterations)
        return Candidate(
            0,
            False,
            None,
            misfit,
            explained=self.explained,
            learnt=learnt,
            frames=len(self.counts),
            floored=self.floored,
        )

    def _turned(self, orientation: int, moved: bool) -> tuple[FrameStore, Detector]:
        """Kept until other ones are asked for: several starts are tried on the same frames."""
        if self._held is None or self._held[0] != (orientation, moved):
            base = np.fft.fftshift(self.counts, axes=(1, 2)) if moved else self.counts
            self._held = ((orientation, moved), turned(base, self.optics.detector, orientation, moved))
        return self._held[1]

    def _run(self, store: FrameStore, detector: Detector, probe: Modes, iterations: int) -> tuple[float, float]:
        """Misfit in the end, and what was learnt."""
        every = np.arange(len(store))
        first, last = short_run(store, self.here, every, probe, detector, self.noise, self.seed, self.lanes, iterations)
        if not np.isfinite(first):
            return last, 0.0
        return last, (first - last) / max(first - self.floored, _LEAST_EXCESS * self.floored, 1e-30)


def _misfit(candidate: Candidate) -> float:
    return candidate.misfit


def starts(probe: Modes, orientation: int) -> list[Modes]:
    """The probe, and the probe turned with the frames where that is another one.

    Turned frames with the same probe are a detector mounted otherwise; with a turned probe, other axes of the scan.
    """
    other = oriented(probe, orientation)
    overlap = abs(np.vdot(probe, other)) / max(float(np.vdot(probe, probe).real), 1e-30)
    return [probe] if overlap > _ALIKE else [probe, other]


def is_its_twin(probe: Modes) -> bool:
    """Whether a probe resembles its conjugate turned by 180 degrees, as one in focus does.

    Then frames turned by 180 degrees agree with it too, and with the conjugate of the object.
    """
    twin = oriented(probe, HALF_TURN).conj()
    return bool(abs(np.vdot(probe, twin)) > _TWIN * float(np.vdot(probe, probe).real))


def turned(counts: Array, detector: Detector, orientation: int, moved: bool) -> tuple[FrameStore, Detector]:
    """A store of frames turned as the table says, and the detector turned with them."""
    frames = oriented(counts, orientation)
    n = frames.shape[1]
    store = FrameStore(n, len(frames))
    keys = tuple(str(i) for i in range(len(frames)))
    store.append(Batch(keys, {"position_m": np.zeros((len(frames), 2))}, lambda rows: frames[rows]))
    valid = np.fft.fftshift(detector.valid) if moved else detector.valid
    mask = oriented(valid[None], orientation)[0]
    return store, Detector(mask, detector.saturation, detector.transfer)
