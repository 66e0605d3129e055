"""Batch maximum likelihood with conjugate gradients.

Thibault & Guizar-Sicairos, New J. Phys. 14 (2012) 063004: the gradient over all frames, preconditioned by the
illumination, Polak-Ribiere directions, and a line search from the second-order expansion of the likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho.directions import directions, gradients, line_search
from beamside.ptycho.solvers.base import Pass, Solver
from beamside.ptycho.workshop import Workshop
from beamside.run.engine import Array

_DAMPING = 0.02
_NAMES = ("d_obj", "d_probe", "g_obj", "g_probe")


class ConjugateGradient(Solver):
    """Preconditioned nonlinear conjugate gradients on object and probe together."""

    def __init__(self) -> None:
        self.memory: dict[str, NDArray[np.complex64]] = {}
        self.norm = 0.0

    def iterate(self, shop: Workshop, task: Pass) -> float:
        """One direction, one line search; a step of exact length is shortened after a rollback only."""
        misfit = shop.gradient(task.frames, task.noise, probe=task.probe, displacement=task.displacement)
        raw_obj, raw_probe = gradients(shop, task.smooth)
        step_obj, step_probe = directions(shop, _DAMPING, task.smooth, probe=task.probe)
        norm = _dot(raw_obj, step_obj) + _dot(raw_probe, step_probe)
        beta = 0.0
        if self.memory and self.memory["d_obj"].shape == step_obj.shape and self.norm > 0:
            change = norm - _dot(self.memory["g_obj"], step_obj) - _dot(self.memory["g_probe"], step_probe)
            beta = max(0.0, change / self.norm)
        d_obj = step_obj + np.float32(beta) * self.memory["d_obj"] if beta else step_obj
        d_probe = step_probe + np.float32(beta) * self.memory["d_probe"] if beta else step_probe
        if not task.probe:
            d_probe = np.zeros_like(shop.probe)
        weight = task.smooth * float(shop.den.sum(0).max())
        shop.clear()
        length = task.caution * line_search(shop, task.frames, task.noise, d_obj, d_probe, weight)
        shop.canvas.object += np.float32(length) * d_obj
        shop.set_probe(shop.probe + np.float32(length) * d_probe)
        self.memory = {"d_obj": d_obj, "d_probe": d_probe, "g_obj": raw_obj, "g_probe": raw_probe}
        self.norm = norm
        return misfit

    def state(self) -> Mapping[str, Array]:
        """The last direction and gradient."""
        return {**self.memory, "norm": np.array([self.norm])} if self.memory else {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Take the last direction and gradient back."""
        if arrays:
            self.memory = {name: arrays[name].copy() for name in _NAMES}
            self.norm = float(arrays["norm"][0])

    def reset(self) -> None:
        """Begin again along the gradient."""
        self.memory, self.norm = {}, 0.0


def _dot(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> float:
    return float(np.vdot(a.astype(np.complex128), b.astype(np.complex128)).real) if a.shape == b.shape else 0.0
