"""ePIE and rPIE: object and probe move at once, frame by frame or nearly so, without momentum."""

from __future__ import annotations

from beamside.ptycho.solvers.base import Pass, Solver
from beamside.ptycho.workshop import Workshop

_EPIE_FRAMES, _RPIE_FRAMES = 8, 16
"""Frames that share an update. With a bank of shifted probes an update costs FFTs of its own; a few frames share it."""
_RPIE_ALPHA = 0.1


class _Pie(Solver):
    frames_per_update = _EPIE_FRAMES
    damping = 1.0
    """1: divide by the peak, as ePIE does; alpha of rPIE otherwise."""

    def iterate(self, shop: Workshop, task: Pass) -> float:
        """One pass over all frames in random order."""
        order, misfit = task.shuffled(), 0.0
        for at in range(0, len(order), self.frames_per_update):
            part = order[at : at + self.frames_per_update]
            misfit += shop.gradient(part, task.noise, probe=task.probe, displacement=task.displacement)
            shop.update_object(task.gain, self.damping, 0.0, task.smooth)
            if task.probe:
                shop.update_probe(task.gain, 0.0, self.damping)
        return misfit


class Epie(_Pie):
    """Maiden & Rodenburg, Ultramicroscopy 109 (2009) 1256, on groups of 8 frames."""


class Rpie(_Pie):
    """Maiden, Johnson & Li, Optica 4 (2017) 736, alpha 0.1, on groups of 16 frames."""

    frames_per_update = _RPIE_FRAMES
    damping = _RPIE_ALPHA
