"""What keeps a solver from running away: a copy of the last good iteration, and shorter steps after a rise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Array

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_LEAST_CAUTION = 2.0**-8


@dataclass(frozen=True)
class _Good:
    """An iteration to go back to."""

    misfit: float
    frames: int
    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    positions_px: NDArray[np.float64]


class Safety:
    """Rolls back an iteration whose misfit is not finite or has risen, and halves the steps that follow."""

    def __init__(self) -> None:
        self.good: _Good | None = None
        self.caution = 1.0
        self.rollbacks: list[int] = []
        """Iterations that were taken back."""

    @property
    def lost(self) -> bool:
        """Whether even the shortest steps made things worse."""
        return self.caution < _LEAST_CAUTION

    def judge(self, engine: Ptychography, misfit: float, frames: int) -> bool:
        """Keep the iteration or take it back; True when it was kept.

        The misfit is what the frames saw while the iteration went on, so a rise shows in the iteration it happens or
        in the next one; both start from the copy.
        """
        finite = (
            np.isfinite(misfit) and np.isfinite(engine.canvas.object).all() and np.isfinite(engine.shop.probe).all()
        )
        good = self.good
        comparable = good is not None and good.frames == frames
        if finite and not (comparable and good is not None and misfit > engine.solver.rise * good.misfit):
            self.good = _Good(
                misfit, frames, engine.canvas.object.copy(), engine.shop.probe.copy(), engine.positions_px.copy()
            )  # fmt: skip
            return True
        self.caution /= 2
        self.rollbacks.append(engine.iteration)
        if good is not None:
            self._go_back(engine, good)
        elif not finite:
            engine.canvas.object[:] = 1
        return False

    def forget(self) -> None:
        """There is nothing to go back to: the canvas has changed its shape or its place."""
        self.good = None

    @staticmethod
    def _go_back(engine: Ptychography, good: _Good) -> None:
        engine.canvas.object[:] = good.object
        engine.canvas.velocity[:] = 0
        engine.shop.set_probe(good.probe)
        engine.shop.probe_velocity[:] = 0
        engine.shop.clear()
        engine.positions_px[: len(good.positions_px)] = good.positions_px
        engine.shop.place(engine.positions_px)
        engine.solver.reset()

    @classmethod
    def restored(
        cls, caution: float, rollbacks: list[int], good: list[float] | None, arrays: Mapping[str, Array]
    ) -> Safety:
        """As a checkpoint kept it: `good` is [misfit, frames], its arrays are named `good.*`."""
        safety = cls()
        safety.caution, safety.rollbacks = caution, list(rollbacks)
        if good is not None:
            copies = (arrays[f"good.{name}"].copy() for name in ("object", "probe", "positions_px"))
            safety.good = _Good(float(good[0]), int(good[1]), *copies)
        return safety
