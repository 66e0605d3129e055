"""A first look: an object of the first frames, to be shown while the start and the geometry are still looked into.

It is drawn on the canvas, by the solver and with the options of the run, and wiped before the run begins: what it got
wrong from a probe out of focus, or on axes that turn out to be reversed, costs the run nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from beamside.ptycho.noise import smoothness
from beamside.ptycho.solvers.base import Pass
from beamside.ptycho.start import TRIAL_FRAMES, trial_frames
from beamside.ptycho.workshop import Frames

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_ITERATIONS = 10
"""On the reference scans the first 200 frames then have an error of .04 (empty: .16), for half a CPU-second."""


@dataclass(frozen=True)
class Sketch:
    """What was drawn: iterations over the `frames` frames that lie in the middle of those that had come."""

    iterations: int
    frames: int


def frames_of(engine: Ptychography, most: int = TRIAL_FRAMES) -> Frames:
    """The frames that a sketch is made of; none come while it is there."""
    return trial_frames(engine.positions_px, engine.store.usable, most)


def draw(engine: Ptychography) -> Sketch | None:
    """Object and probe from the probe that the engine has; None, and an empty canvas, where they come to nothing."""
    options, shop = engine.options, engine.shop
    frames, noise = frames_of(engine), engine.likelihood
    smooth = smoothness(options, engine.store, shop, frames)
    count = min(_ITERATIONS, options.max_iterations or _ITERATIONS)
    with shop.working():
        for number in range(count):
            learns = number >= max(1, options.probe_start)
            engine.solver.iterate(shop, Pass(frames, number, options.seed, noise, probe=learns, smooth=smooth))
    if not (np.isfinite(engine.canvas.object).all() and np.isfinite(shop.probe).all()):
        wipe(engine)
        return None
    engine.limit()
    return Sketch(count, len(frames))


def wipe(engine: Ptychography) -> None:
    """An empty canvas again, and nothing remembered; the probe is for the caller to set."""
    engine.canvas.object[:], engine.canvas.velocity[:] = 1, 0
    engine.shop.probe_velocity[:] = 0
    engine.shop.clear()
    engine.solver.reset()
