"""LSQ-ML: least-squares step lengths along the preconditioned gradients of object and probe.

Odstrcil, Menzel & Guizar-Sicairos, Optics Express 26 (2018) 3108, eq. 22: with u = dO P and v = dP O the two lengths
solve [[<u,u>, Re<u,v>], [Re<u,v>, <v,v>]] a = (Re<u,chi>, Re<v,chi>), here once a minibatch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho.directions import directions, step_lengths
from beamside.ptycho.solvers.base import Pass, Solver, batches, calm_gain, minibatches
from beamside.ptycho.workshop import Frames, Kept, Workshop

_DAMPING = 0.1
_SHARE = 0.9
"""Of the joint optimum, because the batch is not the scan."""


class LeastSquares(Solver):
    """Minibatch LSQ-ML."""

    def iterate(self, shop: Workshop, task: Pass) -> float:
        """One pass over all frames, in random minibatches."""
        misfit = 0.0
        for part in batches(task, shop):
            kept: Kept = {}
            misfit += shop.gradient(part, task.noise, probe=task.probe, displacement=task.displacement, kept=kept)
            d_obj, d_probe = directions(shop, _DAMPING, task.smooth, probe=task.probe)
            steps = _solve(step_lengths(shop, part, kept, d_obj, d_probe), probe=task.probe)
            shop.canvas.object += np.float32(_SHARE * task.gain * steps[0]) * d_obj
            if task.probe:
                shop.set_probe(shop.probe + np.float32(_SHARE * task.gain * steps[1]) * d_probe)
            shop.clear()
        return misfit

    def calm(self, shop: Workshop, frames: Frames) -> float:
        """Less where an iteration has more minibatches."""
        return calm_gain(minibatches(shop, frames))


def _solve(normal: NDArray[np.float64], *, probe: bool) -> tuple[float, float]:
    """The two lengths from (Re<u,chi>, Re<v,chi>, <u,u>, <v,v>, Re<u,v>), each within 0 and 2."""
    gu, gv, uu, vv, uv = (float(v) for v in normal)
    if not probe or vv <= 0:
        return float(np.clip(gu / max(uu, 1e-30), 0, 2)), 0.0
    matrix = np.array([[uu * 1.001, uv], [uv, vv * 1.001]])
    a, b = np.linalg.solve(matrix, [gu, gv]) if uu > 0 else (0.0, gv / vv)
    return float(np.clip(a, 0, 2)), float(np.clip(b, 0, 2))
