"""The engine's state as arrays and plain values, and back.

Vectors are not stored: they are made again from the pixels, by the same products on the same blocks, so that they are
the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from beamside.classify import model as models
from beamside.classify.agenda import Agenda
from beamside.classify.average import Averages, Sums
from beamside.classify.expectation import Assignment
from beamside.classify.finish import Final
from beamside.classify.masking import Mask
from beamside.classify.plan import Task
from beamside.classify.restore import ClassAverages
from beamside.classify.schedule import Stage
from beamside.run.engine import Batch, State

if TYPE_CHECKING:
    from beamside.classify.engine import Classifier

_KNOWN = ("score", "label", "alpha", "shift", "weight", "presence")
_COUNTERS = ("round", "passes", "seen", "covered", "closed", "limit_note", "mask_note")
_LISTS = ("set_aside", "reseeded", "entropies", "encoded_upto")
_AGENDA = ("efforts", "done", "after", "shown")
_FINAL = ("images", "frc", "ssnr", "resolution_A", "occupancy")


def state_of(engine: Classifier) -> State:
    """Everything but the vectors."""
    arrays: dict[str, Tensor] = {f"known.{n}": getattr(engine.known, n) for n in _KNOWN}
    arrays |= {
        "centres_px": engine.population.centres_px,
        "usable": engine.population.usable,
        "generator": engine.generator.get_state(),
    }
    values: dict[str, Any] = {n: getattr(engine, n) for n in (*_COUNTERS, *_LISTS)}
    values["tasks"] = [asdict(task) for task in engine.tasks]
    values["agenda"] = {n: getattr(engine.tasks, n) for n in _AGENDA}
    if engine.masks is not None:
        arrays |= {"mask.tight": engine.masks.tight, "mask.wide": engine.masks.wide}
        values["mask"] = [engine.masks.diameter_A, engine.masks.note]
    if engine.model is not None:
        model = engine.model
        arrays |= {"encoded_px": engine.encoded_px, "training": engine.training, "noise": model.noise}
        arrays |= {"newcomers": engine.newcomers, "free_px": engine.free_px}
        arrays |= _sums("sums", model.sums) | _sums("others", engine.others) | _sums("base", model.base)
        arrays |= {"averages.values": torch.view_as_real(model.averages.values)}
        assert model.averages.precision is not None and model.averages.prior is not None
        arrays |= {"averages.precision": model.averages.precision, "averages.prior": model.averages.prior}
        values["stage"] = asdict(model.stage)
    surveyed, plain = engine.survey.state()
    arrays |= surveyed
    values |= plain
    packed = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in arrays.items()}
    if engine.final is not None:
        packed |= {f"final.{n}": np.asarray(getattr(engine.final.averages, n)) for n in _FINAL}
        values["null"] = [engine.final.null_mean, engine.final.null_spread]
    return State(packed, values)


def _sums(name: str, sums: Sums | None) -> dict[str, Tensor]:
    if sums is None:
        return {}
    return {
        f"{name}.coefficients": torch.view_as_real(sums.coefficients),
        f"{name}.ctf2": sums.ctf2,
        f"{name}.weight": sums.weight,
    }


def restore(engine: Classifier, state: State, batches: Sequence[Batch]) -> None:
    """Fill a new engine from `state`; `batches` are those it had ingested."""
    arrays = {n: torch.as_tensor(np.array(a)) for n, a in state.arrays.items() if not n.startswith("final.")}
    values = state.values
    usable, at = arrays["usable"].numpy(), 0
    for batch in batches:
        engine.population.append(batch, usable[at : at + len(batch)])
        at += len(batch)
    engine.population.centres_px = arrays["centres_px"]
    engine.known = Assignment(*(arrays[f"known.{n}"] for n in _KNOWN))
    engine.generator.set_state(arrays["generator"])
    for name in (*_COUNTERS, *_LISTS):
        setattr(engine, name, values[name])
    engine.tasks = Agenda(map(_task, values["tasks"]), **values["agenda"])
    if "mask" in values:
        engine.masks = Mask(arrays["mask.tight"], arrays["mask.wide"], *values["mask"])
    band = engine.band if engine.diameter_A else None
    engine.survey.restore(arrays, values, band, engine.masks)
    if "stage" in values:
        _restore_model(engine, Stage(**values["stage"]), arrays)
    if "null" in values:
        found = ClassAverages(**{n: np.array(state.arrays[f"final.{n}"]) for n in _FINAL})
        engine.final = Final(found, *values["null"])


def _task(values: Mapping[str, Any]) -> Task:
    stage = values["stage"]
    return Task(**{**values, "stage": None if stage is None else Stage(**stage)})


def _restore_model(engine: Classifier, stage: Stage, arrays: dict[str, Tensor]) -> None:
    assert engine.masks is not None
    population, now = engine.population, engine.population.centres_px
    engine.encoded_px, engine.training = arrays["encoded_px"], arrays["training"]
    engine.newcomers, engine.others = arrays["newcomers"], _sums_from("others", arrays)
    engine.free_px = arrays["free_px"]
    population.centres_px = engine.encoded_px
    # The compression was trained when the first `encoded_upto` particles were there, on noise groups known then.
    made = models.begin(
        engine.scene, stage, population, engine.masks, arrays["noise"], engine.band.reach_px, engine.training
    )
    start = 0
    for end in engine.encoded_upto:
        rows = population.rows
        made.encode(population, rows[(rows >= start) & (rows < end)])
        start = end
    population.centres_px = now
    sums = _sums_from("sums", arrays)
    assert sums is not None
    made.sums, made.base = sums, _sums_from("base", arrays)
    values = torch.view_as_complex(arrays["averages.values"])
    made.averages = Averages(values, arrays["averages.precision"], arrays["averages.prior"])
    engine.model = made


def _sums_from(name: str, arrays: dict[str, Tensor]) -> Sums | None:
    if f"{name}.weight" not in arrays:
        return None
    coefficients = torch.view_as_complex(arrays[f"{name}.coefficients"])
    return Sums(coefficients, arrays[f"{name}.ctf2"], arrays[f"{name}.weight"])
