"""What keeps a solver from running away: copies of the last good iterations, and shorter steps after a rise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Array

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_LEAST_CAUTION = 2.0**-8
_UNKNOWN = float(np.finfo(np.float64).max)
"""Misfit of what no iteration has looked at yet."""
_COPIES, _PARTS = ("good", "proved"), ("object", "probe", "positions_px")


@dataclass(frozen=True)
class _Good:
    """An iteration to go back to."""

    misfit: float
    frames: int
    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    positions_px: NDArray[np.float64]


class Safety:
    """Rolls back an iteration whose misfit is not finite or has risen, and halves the steps that follow.

    The misfit is what the frames saw while an iteration went on, so what an iteration left behind is known to be good
    only once the next one has gone well. Two copies are kept: that one, and the newest.
    """

    def __init__(self) -> None:
        self.good: _Good | None = None
        """After the last iteration that went well."""
        self.proved: _Good | None = None
        """After the one before, from which the last one began and went well."""
        self.caution = 1.0
        self.rollbacks: list[int] = []
        """Iterations that were taken back."""

    @property
    def lost(self) -> bool:
        """Whether even the shortest steps made things worse."""
        return self.caution < _LEAST_CAUTION

    def begin(self, engine: Ptychography, frames: int) -> None:
        """Before an iteration: where there is nothing to go back to, what it begins from is kept."""
        if self.good is None:
            self.good = _copy(engine, _UNKNOWN, frames)

    def judge(self, engine: Ptychography, misfit: float, frames: int) -> bool:
        """Keep the iteration or take it back; True when it was kept."""
        finite = (
            np.isfinite(misfit) and np.isfinite(engine.canvas.object).all() and np.isfinite(engine.shop.probe).all()
        )
        good = self.good
        risen = good is not None and good.frames == frames and misfit / engine.solver.rise > good.misfit
        if finite and not risen:
            self.proved = good
            self.good = _copy(engine, misfit, frames)
            return True
        self.caution /= 2
        self.rollbacks.append(engine.iteration)
        if self.proved is not None:
            self.good, self.proved = self.proved, None
        if self.good is not None:
            self._go_back(engine, self.good)
        return False

    def forget(self) -> None:
        """There is nothing to go back to: the canvas has changed its shape or its place."""
        self.good = self.proved = None

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

    # a checkpoint

    def arrays(self) -> dict[str, Array]:
        """The copies, named `good.*` and `proved.*`."""
        return {
            f"{name}.{part}": getattr(kept, part)
            for name in _COPIES
            if (kept := getattr(self, name)) is not None
            for part in _PARTS
        }

    def values(self) -> dict[str, Any]:
        """The rest, as JSON values."""
        kept = {name: getattr(self, name) for name in _COPIES}
        numbers = {name: None if copy is None else [copy.misfit, copy.frames] for name, copy in kept.items()}
        return {"caution": self.caution, "rollbacks": list(self.rollbacks), **numbers}

    @classmethod
    def restored(cls, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Safety:
        """From what `values` and `arrays` gave."""
        safety = cls()
        safety.caution, safety.rollbacks = float(values["caution"]), list(values["rollbacks"])
        for name in _COPIES:
            if values[name] is not None:
                misfit, frames = values[name]
                copies = (arrays[f"{name}.{part}"].copy() for part in _PARTS)
                setattr(safety, name, _Good(float(misfit), int(frames), *copies))
        return safety


def _copy(engine: Ptychography, misfit: float, frames: int) -> _Good:
    return _Good(misfit, frames, engine.canvas.object.copy(), engine.shop.probe.copy(), engine.positions_px.copy())
