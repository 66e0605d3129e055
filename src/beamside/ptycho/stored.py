"""A reconstruction as a checkpoint keeps it, without the frames, which come back as batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beamside.ptycho.foresight import Focus
from beamside.ptycho.orientation import Candidate
from beamside.ptycho.sketch import Sketch
from beamside.ptycho.start import Refocus, Trial
from beamside.run.engine import Batch, State

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_COUNTERS = (
    "iteration", "since_arrival", "visits", "closing", "closed", "errors", "recentred", "regress",
    "unexplained",
)  # fmt: skip


def state_of(engine: Ptychography) -> State:
    """All that `restore` needs."""
    safety, opening = engine.safety, engine.opening
    arrays = {
        "object": engine.canvas.object,
        "velocity": engine.canvas.velocity,
        "probe": engine.shop.probe,
        "probe_velocity": engine.shop.probe_velocity,
        "positions_px": engine.positions_px,
        **{f"solver.{name}": value for name, value in engine.solver.state().items()},
        **safety.arrays(),
    }
    if engine.before_arrival is not None and engine.known_before is not None:
        arrays |= {"before_arrival": engine.before_arrival, "known_before": engine.known_before.astype(np.uint8)}
    values: dict[str, Any] = {name: getattr(engine, name) for name in _COUNTERS}
    values |= {
        "lanes": engine.lanes,
        "origin": [int(v) for v in engine.canvas.origin],
        "safety": safety.values(),
        "pending": list(opening.pending),
        "defocus_m": opening.defocus_m,
        "sketch": None if opening.sketch is None else dataclasses.astuple(opening.sketch),
        "trials": [[t.defocus_m, t.misfit] for t in opening.trials],
        "refocus": None if opening.refocus is None else dataclasses.astuple(opening.refocus),
        "cold": None if opening.cold is None else dataclasses.astuple(opening.cold),
        "geometry": [dataclasses.astuple(c) for c in opening.geometry],
        "foreseen": [dataclasses.astuple(c) for c in opening.foreseen],
        "focus": None if opening.focus is None else dataclasses.astuple(opening.focus),
    }
    return State({name: np.ascontiguousarray(value) for name, value in arrays.items()}, values)


def restore(engine: Ptychography, state: State, batches: Sequence[Batch]) -> None:
    """Frames first, then everything else as it was."""
    from beamside.ptycho.safety import Safety

    arrays, values = state.arrays, state.values
    for batch in batches:
        engine.store.append(batch)
    engine.canvas.origin = np.array(values["origin"], np.int64)
    engine.canvas.object, engine.canvas.velocity = arrays["object"].copy(), arrays["velocity"].copy()
    engine.positions_px = arrays["positions_px"].copy()
    if len(arrays["probe"]):
        engine.shop.set_probe(arrays["probe"])
        engine.shop.probe_velocity = arrays["probe_velocity"].copy()
    engine.shop.place(engine.positions_px)
    engine.solver.restore({n.removeprefix("solver."): a for n, a in arrays.items() if n.startswith("solver.")})
    for name in _COUNTERS:
        value = values[name]
        setattr(engine, name, list(value) if isinstance(value, list) else value)
    opening = engine.opening
    opening.pending, opening.defocus_m = list(values["pending"]), values["defocus_m"]
    opening.trials = [Trial(z, m) for z, m in values["trials"]]
    opening.sketch = Sketch(*values["sketch"]) if values.get("sketch") else None
    # Runs begun before a start probe was looked at have none of the two.
    opening.refocus = Refocus(*values["refocus"]) if values.get("refocus") else None
    opening.cold = Trial(*values["cold"]) if values.get("cold") else None
    opening.geometry = [Candidate(*found) for found in values["geometry"]]
    # Nor had they frames left out.
    opening.foreseen = [Candidate(*found) for found in values.get("foreseen", [])]
    opening.focus = Focus(*values["focus"]) if values.get("focus") else None
    engine.safety = Safety.restored(values["safety"], arrays)
    if "before_arrival" in arrays:
        engine.before_arrival = arrays["before_arrival"].copy()
        engine.known_before = arrays["known_before"].astype(bool)
