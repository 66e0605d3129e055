"""The default: minibatch maximum likelihood with momentum.

Each minibatch moves object and probe along the gradient of its likelihood, divided by the diagonal of its normal
equations (as rPIE does: Maiden, Johnson & Li, Optica 4 (2017) 736), with heavy-ball momentum over the batches. There is
no state per frame, so a frame that arrives joins the next iteration like any other. The gain falls in the closing
iterations, which takes the minibatches' own noise out of the result. After each pass the object's long waves, which
such steps find late, are put right on a coarse grid (`longwave`).
"""

from __future__ import annotations

from beamside.ptycho.longwave import unbend
from beamside.ptycho.solvers.base import Pass, Solver, batches, calm_gain, minibatches
from beamside.ptycho.workshop import Frames, Workshop

_STEP, _MOMENTUM, _DAMPING = 0.4, 0.8, 0.02
_PROBE_STEP, _PROBE_MOMENTUM = 0.7, 0.85
_EARLY, _EARLY_FRAMES, _EARLY_SHARE = 4, 160, 3
"""Iterations in which the probe is updated only after so many frames, or a third of a small scan; later sooner, which
finds it twice as soon. Of an object that is still poor it would learn what is wrong: one out of focus, with pixels
masked and others saturated, ended at .23, and so at .02."""
_FRAMES, _SHARE = 64, 9
"""Later, so many frames, or a ninth of a small scan, which is each of its minibatches: an update takes as long as 14
frames. Two minibatches of 32 are too many: a scan of 150 frames ended at .051, and with each at .047."""


class Accelerated(Solver):
    """Minibatch maximum likelihood with momentum.

    long_waves: off for short trials of a start or a geometry, whose error a bent object may take upon itself.
    """

    def __init__(self, *, long_waves: bool = True) -> None:
        self.long_waves = long_waves

    def iterate(self, shop: Workshop, task: Pass) -> float:
        """One pass over all frames, in random minibatches."""
        misfit, seen = 0.0, 0
        most, share = (_EARLY_FRAMES, _EARLY_SHARE) if task.number < _EARLY else (_FRAMES, _SHARE)
        enough = min(most, len(task.frames) // share)
        for part in batches(task, shop):
            seen += len(part)
            misfit += shop.gradient(part, task.noise, probe=task.probe, displacement=task.displacement)
            shop.update_object(_STEP * task.gain, _DAMPING, _MOMENTUM, task.smooth, gather=self.long_waves)
            if task.probe and seen >= enough:
                shop.update_probe(_PROBE_STEP * task.gain, _PROBE_MOMENTUM)
                seen = 0
        if task.probe and seen:
            shop.update_probe(_PROBE_STEP * task.gain * min(1.0, seen / max(1, enough)), _PROBE_MOMENTUM)
        if self.long_waves:
            unbend(shop, task.frames, shop.take_force())
        return misfit

    def calm(self, shop: Workshop, frames: Frames) -> float:
        """Less where an iteration has more minibatches."""
        return calm_gain(minibatches(shop, frames))
