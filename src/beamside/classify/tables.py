"""Snapshots: class averages as images, and one row a particle and a class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamside.classify.finish import junk_score
from beamside.classify.model import found_shifts
from beamside.classify.survey import STRANGE
from beamside.run.engine import Snapshot

if TYPE_CHECKING:
    from beamside.classify.engine import Classifier

Table = dict[str, NDArray[Any]]


def snapshot_of(engine: Classifier) -> Snapshot:
    """The present averages (restored ones at the end) with their tables."""
    particles = particle_table(engine)
    assigned = int((particles["class_number"] > 0).sum())
    arrays, classes = _averages(engine, particles["class_number"])
    return Snapshot(
        arrays=arrays,
        tables={"classes": classes, "particles": particles},
        coverage=assigned / max(1, len(engine.population)),
        provisional=engine.provisional,
        notes=_notes(engine, particles),
    )


def metrics_of(engine: Classifier) -> dict[str, float]:
    """Figures of the present step, for the ledger and the terminal."""
    weight = engine.class_weight
    if weight is None:
        return {}
    rows = engine.population.rows
    assigned = rows[engine.known.weight[rows, 0] > 0]
    used = int((weight >= 0.2 * weight.sum() / len(weight)).sum())
    return {
        "log_likelihood": float(engine.known.score[assigned, 0].double().mean()) if len(assigned) else 0.0,
        "classes_used": float(used),
        "largest_share": float(weight.max() / weight.sum().clamp(min=1e-9)),
    }


def particle_table(engine: Classifier) -> Table:
    """Class from 1 (0: not assigned), pose as RELION has it, posterior probability, likelihood, junk score."""
    known, population = engine.known, engine.population
    count = len(population)
    assigned = (known.weight[:, 0] > 0).numpy() if count else np.zeros(0, dtype=bool)
    centre = population.centres_px.clone()
    if engine.final is None and engine.model is not None:
        rows = torch.as_tensor(np.flatnonzero(assigned))
        centre[rows] += found_shifts(engine.model.frame, known, rows)
    origin = -centre.double().numpy() * engine.pixel_size_A
    psi = (-torch.rad2deg(known.alpha[:, 0].double()).numpy() + 180.0) % 360.0 - 180.0
    score = known.score[:, 0].double().numpy()
    label = known.label[:, 0].numpy()
    table: Table = {
        "class_number": np.where(assigned, label % engine.classes + 1, 0),
        "psi_deg": np.where(assigned, psi, 0.0),
        "origin_x_A": np.where(assigned, origin[:, 0], 0.0),
        "origin_y_A": np.where(assigned, origin[:, 1], 0.0),
        "probability": np.where(assigned, _probability(engine), 0.0),
        "log_likelihood": np.where(assigned, score, 0.0),
        "flipped": (label >= engine.classes) & assigned,
    }
    if engine.final is not None:
        table["junk_score"] = np.where(assigned, _junk(engine, score), 1.0)
    return table


def _probability(engine: Classifier) -> NDArray[np.float64]:
    """Of the class: from the particle's direction where that gives it, else its share in the sums."""
    survey, weight = engine.survey, engine.known.weight[:, 0]
    if survey.cells is not None:
        weight = weight.clone()
        weight[: len(survey.held)] = torch.where(survey.held < 0, weight[: len(survey.held)], survey.sureness)
    probability: NDArray[np.float64] = weight.double().numpy()
    return probability


def _junk(engine: Classifier, score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Against the volume, where there is one: it fits a particle better than averages do, and noise no better."""
    survey, final = engine.survey, engine.final
    assert final is not None
    if survey.cells is None:
        return junk_score(score, final.null_mean, final.null_spread)
    return junk_score(survey.sightings.score[:, 0].double().numpy(), *survey.null, beyond=STRANGE)


def _averages(engine: Classifier, class_number: NDArray[np.int64]) -> tuple[dict[str, NDArray[Any]], Table]:
    counts = np.bincount(class_number, minlength=engine.classes + 1)[1:]
    references = engine.options.references
    numbers = np.arange(1, engine.classes + 1) if references is None else np.array(references.numbers)
    classes: Table = {"class_number": numbers, "particles": counts, "share": counts / max(1, counts.sum())}
    if engine.final is not None:
        found = engine.final.averages
        classes["resolution_A"] = found.resolution_A
        return {"class_averages": found.images, "frc": found.frc, "ssnr": found.ssnr}, classes
    shape = (engine.classes, engine.box_px, engine.box_px)
    images = np.zeros(shape, dtype=np.float32) if engine.model is None else engine.model.images().numpy()
    return {"class_averages": np.ascontiguousarray(images, dtype=np.float32)}, classes


def _notes(engine: Classifier, particles: Table) -> dict[str, Any]:
    model = engine.model
    notes: dict[str, Any] = {
        "engine": "classify",
        "start": "classes" if engine.survey.cells is None else "volume",
        "round": engine.round,
        "passes": engine.passes,
        "pixel_size_A": engine.pixel_size_A,
        "box_px": engine.box_px,
        "max_resolution_A": engine.limits.max_resolution_A,
        "mask_diameter_A": engine.diameter_A,
        "particles_seen": engine.seen,
    }
    assigned = particles["class_number"] > 0
    if assigned.any():
        notes["mean_log_likelihood"] = float(particles["log_likelihood"][assigned].mean())
        notes["mean_probability"] = float(particles["probability"][assigned].mean())
    if model is not None:
        encoder = model.frame.encoder
        notes["bytes_per_particle"] = encoder.subspace.bytes_per_particle
        notes["variance_kept"] = encoder.subspace.kept
        notes["stage_resolution_A"] = engine.box_px * engine.pixel_size_A / encoder.rings.last
    if engine.final is not None:
        notes["junk_share"] = float((particles["junk_score"][assigned] > 0.5).mean()) if assigned.any() else 0.0
    return notes
