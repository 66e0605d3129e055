"""The engine's state as arrays and plain values, and back; and what a snapshot shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.blend import Blend
from beamside.denoise.micrograph import TRAIN, Micrograph
from beamside.denoise.model_file import pack_model
from beamside.run.engine import Batch, Snapshot, State

if TYPE_CHECKING:
    from beamside.denoise.engine import Denoiser

BEST, LAST = "model", "last"
"""Arrays of a snapshot: the bytes of model files, uint8."""
_COUNTERS = (
    "rounds", "round_ends_at", "round_steps", "losses_version", "objection", "floor", "train_loss", "closed",
    "finished",
)  # fmt: skip


def as_array(data: bytes) -> NDArray[np.uint8]:
    """Bytes as an array, so that they travel with the others."""
    return np.frombuffer(data, dtype=np.uint8)


def state_of(engine: Denoiser) -> State:
    """Everything but pixels and crops, which are read again."""
    arrays: dict[str, NDArray[Any]] = dict(engine.trainer.arrays())
    values: dict[str, Any] = {name: getattr(engine, name) for name in _COUNTERS}
    values |= {
        "trainer": engine.trainer.values(),
        "loader": engine.loader.state(),
        "losses": list(engine.losses),
        "micrographs": [found.to_json() for found in engine.micrographs],
        "masking": engine.masking.bit_generator.state,
        "last": None if engine.last is None else asdict(engine.last),
        "floor_reached": engine.floor_reached,
        "bf16": engine.trainer.bf16,
        "published": None,
        "blend": None if (blend := engine.trainer.average.blend) is None else blend.to_json(),
    }
    if engine.published is not None:
        arrays["published"] = as_array(engine.published.model)
        kept = engine.published
        values["published"] = [kept.steps, kept.loss, kept.version, list(kept.lost), kept.judged]
    return State(arrays, values)


def restore(engine: Denoiser, state: State, batches: Sequence[Batch]) -> None:
    """Fill a new engine from `state`; `batches` are those it had ingested."""
    from beamside.denoise.engine import Evaluation, Published
    from beamside.denoise.gate import Score, Verified
    from beamside.denoise.held_out import Controls

    values = state.values
    for batch in batches:
        engine.pixels.add(batch)
    engine.micrographs = [Micrograph.from_json(found) for found in values["micrographs"]]
    engine.loader.join([found for found in engine.micrographs if found.role == TRAIN])
    engine.add_held_out(engine.micrographs)
    engine.loader.restore(values["loader"])
    engine.trainer.bf16 = bool(values["bf16"])
    engine.trainer.restore(dict(state.arrays), values["trainer"])
    engine.masking.bit_generator.state = values["masking"]
    for name in _COUNTERS:
        setattr(engine, name, values[name])
    engine.losses = list(values["losses"])
    blend = values.get("blend")
    engine.trainer.average.blend = None if blend is None else Blend.from_json(blend)
    reached = values["floor_reached"]
    engine.floor_reached = None if reached is None else (reached[0], reached[1])
    if values["published"] is not None:
        steps, loss, version, lost, judged = values["published"]
        engine.published = Published(state.arrays["published"].tobytes(), steps, loss, version, tuple(lost), judged)
    if (last := values["last"]) is not None:
        fresh = last["fresh"]
        verified = None
        if fresh is not None:
            verified = Verified(None if fresh["score"] is None else Score(**fresh["score"]), fresh["fault"])
        engine.last = Evaluation(
            last["steps"], Score(**last["score"]), Score(**last["independent"]), Controls(**last["controls"]), verified
        )


def snapshot_of(engine: Denoiser) -> Snapshot:
    """The published model, the last one when the run has finished, the micrographs' roles, the scores."""
    arrays: dict[str, NDArray[Any]] = {"held_out_loss": np.array(engine.losses)}
    notes: dict[str, Any] = {
        "network": engine.options.network,
        "optimiser_steps": engine.trainer.steps,
        "rounds": engine.rounds,
        "pairs": engine.pairs,
    }
    if engine.published is not None:
        arrays[BEST] = as_array(engine.published.model)
        notes |= {"published_at_step": engine.published.steps, "published_loss": engine.published.loss}
        notes["lost_to_blur"] = list(engine.published.lost)
    if engine.last is not None:
        notes |= {"score": asdict(engine.last.independent), "controls": asdict(engine.last.controls)}
        if engine.finished:
            arrays[LAST] = as_array(pack_model(engine.trainer.average, engine.card(engine.last.independent)))
    micrographs = {
        "key": np.array([found.key for found in engine.micrographs], dtype=np.str_),
        "role": np.array([found.role for found in engine.micrographs], dtype=np.str_),
        "mean": np.array([found.scale.mean for found in engine.micrographs]),
        "spread": np.array([found.scale.spread for found in engine.micrographs]),
        "dy_px": np.array([found.dy_px for found in engine.micrographs], dtype=np.int64),
        "dx_px": np.array([found.dx_px for found in engine.micrographs], dtype=np.int64),
    }
    provisional = "" if engine.published is not None else f"No model has passed the gate yet: {engine.objection}."
    return Snapshot(arrays, {"micrographs": micrographs}, 1.0 if engine.micrographs else 0.0, provisional, notes)
