"""Which detector orientation and which place of DC fit the data: short reconstructions of every candidate, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beamside.optics.frames import ORIENTATIONS
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.optics import Optics
from beamside.ptycho.probe import Modes, circular_centre_px
from beamside.ptycho.start import pupil_probe, short_run, trial_frames
from beamside.ptycho.workshop import Detector, Likelihood
from beamside.run.engine import Array, Batch

_FRAMES, _ITERATIONS = 120, 4
_HURRIED_ITERATIONS, _OUT = 2, 1.25
"""In a hurry: how many iterations the first look takes, and from which misfit, relative to the best, one is out."""
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


_ALIKE = 0.95
"""Overlap from which a probe and the turned one are the same start."""


@dataclass(frozen=True)
class Candidate:
    """One geometry: orientation (0 to 7), whether DC is moved by half a frame, and what a short run reached.

    with_probe: the start probe had to be turned with the frames, so it is the scan's axes that are wrong.
    """

    orientation: int
    dc_moved: bool
    defocus_m: float | None
    misfit: float
    with_probe: bool = False

    @property
    def cure(self) -> str:
        """The options that make this geometry the given one, DC aside.

        Frames and probe turned by a transposition and then flips are the same as the scan's axes turned back.
        """
        if not self.with_probe:
            return f"--orientation {self.orientation}"
        transpose, rows, columns = ORIENTATIONS[self.orientation]
        y, x = (columns, rows) if transpose else (rows, columns)
        flags = {"--swap-axes": transpose, "--reverse-y": y, "--reverse-x": x}
        return " ".join(flag for flag, wanted in flags.items() if wanted)

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
    defocus_m: Sequence[float],
    with_dc: bool,
    seed: int,
    lanes: int,
    hurried: bool = False,
) -> list[Candidate]:
    """All candidates, the best first.

    probe: the start probe, or None, when every candidate begins from its own mean pattern at each of the defoci given.
    with_dc: try DC moved by half a frame too. hurried: candidates that are clearly behind after two iterations keep the
    misfit they have then; the geometry as given is always looked at in full.
    """
    frames = trial_frames(positions_px, store.usable, _FRAMES)
    counts, rows = store.block(frames)
    counts, here = counts[rows], positions_px[frames]

    def tried(orientation: int, moved: bool, iterations: int) -> list[Candidate]:
        base = np.fft.fftshift(counts, axes=(1, 2)) if moved else counts
        turned, detector = _turned(base, optics.detector, orientation, moved)
        starts: list[tuple[float | None, Modes, bool]]
        if probe is None:
            starts = [(z, pupil_probe(turned.mean_pattern, optics, z), False) for z in defocus_m]
        else:
            starts = [(None, start, start is not probe) for start in _starts(probe, orientation)]
        every = np.arange(len(turned))
        found = [
            Candidate(
                orientation, moved, z,
                short_run(turned, here, every, start, detector, noise, seed, lanes, iterations), with_probe,
            )
            for z, start, with_probe in starts
        ]  # fmt: skip
        return found if probe is None else [min(found, key=lambda c: c.misfit)]

    first = _HURRIED_ITERATIONS if hurried else _ITERATIONS
    places = [(orientation, moved) for moved in ((False, True) if with_dc else (False,)) for orientation in range(8)]
    table = {place: tried(*place, first) for place in places}
    if hurried:
        best = {place: min(c.misfit for c in found) for place, found in table.items()}
        for place in places:
            if place == (0, False) or best[place] <= _OUT * min(best.values()):
                table[place] = tried(*place, _ITERATIONS)
    return sorted((c for found in table.values() for c in found), key=lambda c: c.misfit)


def _starts(probe: Modes, orientation: int) -> list[Modes]:
    """The probe, and the probe turned with the frames where that is another one.

    Turned frames with the same probe are a detector mounted otherwise; with a turned probe, other axes of the scan.
    """
    turned = oriented(probe, orientation)
    overlap = abs(np.vdot(probe, turned)) / max(float(np.vdot(probe, probe).real), 1e-30)
    return [probe] if overlap > _ALIKE else [probe, turned]


def _turned(counts: Array, detector: Detector, orientation: int, moved: bool) -> tuple[FrameStore, Detector]:
    turned = oriented(counts, orientation)
    n = turned.shape[1]
    store = FrameStore(n, len(turned))
    keys = tuple(str(i) for i in range(len(turned)))
    store.append(Batch(keys, {"position_m": np.zeros((len(turned), 2))}, lambda rows: turned[rows]))
    valid = np.fft.fftshift(detector.valid) if moved else detector.valid
    mask = oriented(valid[None], orientation)[0]
    return store, Detector(mask, detector.saturation, detector.transfer)
