"""Projection methods that keep a dual wave per frame: the difference map and RAAR.

With chi(w) the modulus residual of a wave, Pi(w) = w + chi(w), the relaxed update
psi <- b (psi + Pi(2 P O - psi) - P O) + (1 - b) P O is the same as psi <- P O + b chi(2 P O - psi).
b = 1 is the difference map (Thibault et al., Ultramicroscopy 109 (2009) 338).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho import kernels
from beamside.ptycho.solvers.base import Pass, Solver
from beamside.ptycho.workshop import Frames, Workshop
from beamside.run.engine import Array

_OBJECT_INERTIA, _PROBE_INERTIA = 0.02, 1e-3
"""Share of the peak weight that holds a pixel where it was: PtyPy's object_inertia has the same task."""


class Dual(Solver):
    """The relaxed difference map; `beta` tells the two methods apart."""

    beta = 1.0
    rise = 10.0
    """The misfit is that of 2 P O - psi, which wanders; only a rise out of proportion is divergence."""

    def __init__(self) -> None:
        self.psi: NDArray[np.complex64] | None = None
        self.begun = np.zeros(0, bool)
        """(frames,) which of them have a dual wave; it is made when a frame becomes active, never before."""

    def iterate(self, shop: Workshop, task: Pass) -> float:
        """All frames at once: object first, then the probe with the new object."""
        psi = self._waves(shop, task.frames)

        def exchange(lane: int, block: Frames) -> float:
            waves = shop.exit_waves(lane, block)
            at_sample = waves.copy()
            waves *= np.float32(2)
            waves -= psi[block]
            misfit, chi = shop.residual(lane, block, waves, task.noise)
            psi[block] = at_sample + np.float32(self.beta) * chi
            shop.accumulate(lane, block, psi[block], probe=False)
            return misfit

        misfit = sum(shop.over_blocks(task.frames, exchange))
        num, den = shop.object_sums()
        held = np.float32(_OBJECT_INERTIA * den.max())
        lit = den > 1e-3 * den.max()
        shop.canvas.object[lit] = ((num + held * shop.canvas.object) / (den + held))[lit]
        shop.clear()
        if task.probe:
            self._update_probe(shop, task.frames, psi)
        return misfit

    def _update_probe(self, shop: Workshop, frames: Frames, psi: NDArray[np.complex64]) -> None:
        def gather(lane: int, block: Frames) -> None:
            kernels.accumulate_probe(
                shop.planes, shop.corners, shop.bins, block, psi[block].view(np.float32), shop.pnum[lane],
                shop.pden[lane],
            )  # fmt: skip

        shop.over_blocks(frames, gather)
        num, den = shop.probe_sums()
        held = _PROBE_INERTIA * float(den.max())
        shop.set_probe(((num + held * shop.probe) / (den + held)).astype(np.complex64))
        shop.clear()

    def _waves(self, shop: Workshop, frames: Frames) -> NDArray[np.complex64]:
        """The dual waves; those of frames that are new begin as P O."""
        count = len(shop.corners)
        if self.psi is None or len(self.psi) < count:
            larger = np.empty((count, len(shop.probe), shop.size, shop.size), np.complex64)
            if self.psi is not None:
                larger[: len(self.psi)] = self.psi
            self.psi = larger
        self.begun = np.concatenate([self.begun, np.zeros(count - len(self.begun), bool)])
        new = frames[~self.begun[frames]]
        if new.size:
            psi = self.psi

            def begin(lane: int, block: Frames) -> None:
                psi[block] = shop.exit_waves(lane, block)

            shop.over_blocks(new, begin)
            self.begun[new] = True
        return self.psi

    def state(self) -> Mapping[str, Array]:
        """The dual waves of the frames that have one."""
        return {} if self.psi is None else {"psi": np.where(self._mask(), self.psi, 0), "begun": self.begun}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Take the dual waves back."""
        if "psi" in arrays:
            self.psi, self.begun = arrays["psi"].copy(), arrays["begun"].astype(bool)

    def reset(self) -> None:
        """Begin every dual wave again from the present object and probe."""
        self.begun[:] = False

    def _mask(self) -> NDArray[np.bool_]:
        return self.begun[:, None, None, None]
