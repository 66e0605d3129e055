"""What a finished reconstruction says of itself: whether the frames determine it, and whether it explains them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho.background import background_share, dead_share, fading
from beamside.ptycho.foresight import FAINT, SPREAD, Told
from beamside.ptycho.noise import Fit, fit, lit_pixels
from beamside.ptycho.start import LOOK_FRAMES
from beamside.ptycho.tables import well_lit
from beamside.ptycho.workshop import Frames

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_ENOUGH = 400
_LEAST_FRAMES, _FOR_BACKGROUND = 20, 200
_DUALS = ("dm", "raar")
"""Their misfit is that of a dual wave, which wanders."""


@dataclass(frozen=True)
class Ending:
    """fit: of the frames; None where the solver's misfit is of something else. counted: whether they are counts, of
    which the noise is known.

    overlap: all light on a frame's pixels relative to its own. beam_share: of the window that the beam fills.
    contrast, noise: standard deviation of the object where it is well lit, and what counting noise alone makes of it,
    both relative to its mean amplitude. breadth: of the scan across its longest direction, in beam widths; slender:
    the same relative to its length. foreseen: significance with which frames left out are foreseen from the others and
    the probe that was found; spread: the same with positions further apart; neither in the near field, or of a few
    frames. background: share of the counts that lies flat under all of the detector. dead, missed: pixels without a
    count beside bright ones, and the share that they miss. fading: factor by which the frames' counts drift.
    """

    fit: Fit | None
    counted: bool
    overlap: float
    beam_share: float
    contrast: float
    noise: float
    breadth: float
    slender: float
    foreseen: float | None
    spread: float | None
    background: float
    dead: int
    missed: float
    fading: float


def ending_of(engine: Ptychography) -> Ending:
    """Measured on the engine as it is."""
    active, store, shop = engine.active, engine.store, engine.shop
    light = (np.abs(shop.probe.astype(np.complex128)) ** 2).sum(0)
    lit = shop.illumination(active)
    area_px = beam_area_px(light)
    breadth, length = extent_px(engine.positions_px[active])
    dose = float(store.total[active].sum()) / max(1.0, lit_pixels(shop, active))
    inside = engine.canvas.object[well_lit(lit)]
    amplitude = float(np.abs(inside).mean()) if inside.size else 0.0
    found = None
    if engine.errors and engine.options.solver not in _DUALS:
        found = fit(engine.errors[-1], store, engine.optics.detector.valid, engine.likelihood.floor)
    foreseen, spread = _foreseen(engine)
    far = not engine.optics.near
    dead, missed = dead_share(store.mean_pattern * len(active), engine.optics.detector.valid) if far else (0, 0.0)
    return Ending(
        fit=found,
        counted=store.integer,
        overlap=1 / max(own_share(light, lit, shop.corners[_some(active)]), 1e-30),
        beam_share=area_px / engine.size**2,
        contrast=float(inside.std()) / max(amplitude, 1e-30) if inside.size else 0.0,
        noise=float(0.5 / np.sqrt(max(dose, 1e-30))) if store.integer else 0.0,
        breadth=breadth / float(np.sqrt(area_px)),
        slender=breadth / max(length, 1e-30),
        foreseen=foreseen,
        spread=spread,
        background=_background(engine),
        dead=dead,
        missed=missed,
        fading=fading(store.total[active]),
    )


def _foreseen(engine: Ptychography) -> tuple[float | None, float | None]:
    """With one part of the frames left out, and with every part in turn where that does not say enough."""
    if engine.optics.near or len(engine.active) < _LEAST_FRAMES:
        return None, None
    told = Told(engine.store, engine.positions_px, engine.optics, engine.likelihood, engine.options.seed, engine.lanes)
    sigma = told.sigma(engine.shop.probe, 1, most=LOOK_FRAMES)
    if sigma < FAINT:
        return told.sigma(engine.shop.probe), None
    return sigma, told.sigma(engine.shop.probe, 1, scale=SPREAD, most=LOOK_FRAMES)


def _background(engine: Ptychography) -> float:
    store = engine.store
    held = engine.active[engine.active < store.held]
    if engine.optics.near or not store.integer or not len(held):
        return 0.0
    return background_share(store.counts[_some(held)[:: _ENOUGH // _FOR_BACKGROUND]], engine.optics.detector.valid)


def _some(frames: Frames) -> Frames:
    """Frames from all over a scan, enough for a mean."""
    return np.asarray(frames[np.linspace(0, len(frames) - 1, min(len(frames), _ENOUGH)).astype(int)])


def own_share(light: NDArray[np.float64], lit: NDArray[np.float32], corners: NDArray[np.int32]) -> float:
    """Of the light that falls on a frame's pixels in the course of a scan, the frame's own, weighted by its light.

    light: (N, N) of one frame; lit: (H, W) of all frames; corners (n, 2) of the windows of some.
    """
    size, square, total = len(light), light**2, 0.0
    for row, col in corners.tolist():
        total += float((square / np.maximum(lit[row : row + size, col : col + size], 1e-30)).sum())
    return total / max(len(corners) * float(light.sum()), 1e-30)


def beam_area_px(light: NDArray[np.float64]) -> float:
    """Pixels that an intensity (N, N) would fill if it were the same on all of them."""
    return float(light.sum() ** 2 / max(float((light**2).sum()), 1e-30))


def extent_px(positions_px: NDArray[np.float64]) -> tuple[float, float]:
    """Standard deviations of positions (n, 2) across and along the direction in which they are spread the most."""
    if len(positions_px) < 2:
        return 0.0, 0.0
    across, along = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(positions_px.T)), 0.0)).tolist()
    return across, along
