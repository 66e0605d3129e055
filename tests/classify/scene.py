"""Particles with a known truth for the tests of classification, in memory, and an engine run without a loop."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamside.classify.engine import Classifier
from beamside.classify.options import ClassifyOptions
from beamside.run.engine import Batch, Header, Progress
from beamside.simulate.particles import Recipe, Session
from beamside.simulate.volumes import load_volume

BOX, PIXEL_A = 32, 8.0


@lru_cache(maxsize=4)
def session(count: int = 240, snr: float = 0.5, seed: int = 3, shift_px: float = 1.5) -> Session:
    """Small particles of the built-in map, loud enough for a short run."""
    volume, _ = load_volume("walk", BOX, PIXEL_A, 0.0)
    return Session(volume, Recipe(BOX, PIXEL_A, count, snr=snr, shift_px=shift_px, micrographs=6, seed=seed))


def batch(made: Session, rows: NDArray[np.int64], images: NDArray[np.float32] | None = None) -> Batch:
    """Those particles as a batch; `images` (all of the session's) replaces the pixels."""
    pixels = made.images(rows) if images is None else images[rows]
    truth, recipe, n = made.truth, made.recipe, len(rows)
    columns: dict[str, Any] = {
        "defocus_u_A": truth.optics.defocus_u_A[rows],
        "defocus_v_A": truth.optics.defocus_v_A[rows],
        "defocus_angle_deg": truth.optics.defocus_angle_deg[rows],
        "phase_shift_deg": np.zeros(n),
        "voltage_kV": np.full(n, recipe.voltage_kV),
        "cs_mm": np.full(n, recipe.cs_mm),
        "amplitude_contrast": np.full(n, recipe.amplitude_contrast),
        "bfactor_A2": np.zeros(n),
        "ctf_scale": np.ones(n),
        "has_ctf": np.ones(n, dtype=bool),
        "optics_group": np.ones(n, dtype=np.int64),
        "micrograph": np.array(["m"] * n),
    }
    return Batch(tuple(f"{row + 1:06d}@s.mrcs" for row in rows), columns, lambda index: pixels[index])


HEADER = Header("particles", {"box_px": BOX, "pixel_size_A": PIXEL_A, "has_ctf": True})


def options(**changed: Any) -> ClassifyOptions:
    """Few classes and passes, a mask that needs no measuring, one thread."""
    standard: dict[str, Any] = {
        "classes": 4, "first_batch": 120, "iterations": 3, "mask_diameter_A": 220.0, "training_particles": 100,
        "max_resolution_A": 20.0, "threads": 1,
    }  # fmt: skip
    return ClassifyOptions(**(standard | changed))


def settle(engine: Classifier) -> Progress:
    """Step until there is nothing left to do."""
    while True:
        progress = engine.step()
        if progress.finished or (progress.idle and not engine.closed):
            return progress


def run(made: Session, chosen: ClassifyOptions, header: Header = HEADER) -> Classifier:
    """All particles in batches of the policy's sizes, to the end."""
    engine = Classifier.fresh(chosen, header)
    count, at = made.recipe.count, 0
    while at < count:
        size = engine.policy.first if at == 0 else engine.policy.later
        engine.ingest(batch(made, np.arange(at, min(count, at + size))))
        at += size
        settle(engine)
    engine.close()
    settle(engine)
    return engine


def same_bits(first: Classifier, second: Classifier) -> bool:
    """Both snapshots are the same to the bit."""
    one, two = first.snapshot(), second.snapshot()
    arrays = all(np.array_equal(one.arrays[k], two.arrays[k]) for k in one.arrays)
    tables = all(np.array_equal(one.tables[t][c], two.tables[t][c]) for t in one.tables for c in one.tables[t])
    return arrays and tables and one.arrays.keys() == two.arrays.keys()


def clean_images(made: Session) -> NDArray[np.float32]:
    """The session's particles without noise."""
    rows = np.arange(made.recipe.count)
    signal = made.signal(rows)
    return torch.as_tensor(signal).float().numpy()
