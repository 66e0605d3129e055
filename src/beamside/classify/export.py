"""The result as RELION writes it: data, model and class averages of an iteration.

Image names in the data table are those of the input, so RELION is started where those names lead to their stacks: in
the input's folder, or in the project that it came from. The model names its classes as images of the stack beside it;
RELION takes all of them with --ref run_itNNN_model.star once that stack lies where RELION is started, and only the
first with --ref run_itNNN_classes.mrcs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.formats.mrc import write_stack
from beamside.formats.relion import Model, write_data, write_model
from beamside.formats.star import column
from beamside.run.engine import Snapshot

Columns = dict[str, list[str]]
RESULTS = {
    "rlnClassNumber": "class_number",
    "rlnAnglePsi": "psi_deg",
    "rlnOriginXAngst": "origin_x_A",
    "rlnOriginYAngst": "origin_y_A",
    "rlnMaxValueProbDistribution": "probability",
    "rlnLogLikeliContribution": "log_likelihood",
}
"""RELION's labels for our columns; rlnParticleFigureOfMerit is 1 - junk score: 0 where noise explains a particle."""


def write_result(folder: Path, snapshot: Snapshot, optics: Columns, particles: Columns) -> list[Path]:
    """Write run_itNNN_{data,model}.star and run_itNNN_classes.mrcs of a finished run into `folder`; their paths.

    optics, particles: the input's tables; columns that are results are replaced.
    """
    notes, table = snapshot.notes, snapshot.tables["particles"]
    stem = f"run_it{min(int(notes['passes']), 999):03d}"
    data, model, classes = (folder / f"{stem}_{name}" for name in ("data.star", "model.star", "classes.mrcs"))
    results = {label: column(table[name]) for label, name in RESULTS.items()}
    results["rlnParticleFigureOfMerit"] = column(1 - table["junk_score"])
    if table["flipped"].any():
        results["rlnIsFlip"] = column(table["flipped"].astype(np.int64))
    write_stack(classes, snapshot.arrays["class_averages"], float(notes["pixel_size_A"]))
    write_data(data, optics, particles, results)
    write_model(model, _model(classes.name, snapshot))
    return [data, model, classes]


def _model(class_images: str, snapshot: Snapshot) -> Model:
    notes, classes, table = snapshot.notes, snapshot.tables["classes"], snapshot.tables["particles"]
    assigned = table["class_number"] > 0
    origins = np.concatenate([table["origin_x_A"][assigned], table["origin_y_A"][assigned]])
    return Model(
        class_images=class_images,
        box_px=int(notes["box_px"]),
        pixel_size_A=float(notes["pixel_size_A"]),
        occupancy=classes["share"],
        resolution_A=classes["resolution_A"],
        completeness=np.ones(len(classes["share"])),
        frc=snapshot.arrays["frc"],
        ssnr=snapshot.arrays["ssnr"],
        log_likelihood=_sum(table["log_likelihood"][assigned]),
        average_pmax=float(table["probability"][assigned].mean()) if assigned.any() else 0.0,
        sigma_offset_A=float(origins.std()) if origins.size else 0.0,
    )


def _sum(values: NDArray[np.float64] | Sequence[float]) -> float:
    return float(np.sum(values, dtype=np.float64))
