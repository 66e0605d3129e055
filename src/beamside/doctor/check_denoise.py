"""Denoising of simulated micrographs: is the shipped model better than any blur, and does training learn?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.engine import Denoiser
from beamside.denoise.model_file import unpack_model
from beamside.denoise.options import DenoiseOptions
from beamside.denoise.prior import PRIOR
from beamside.denoise.report import against_truth
from beamside.denoise.tiling import denoise, sum_scale
from beamside.doctor.selfcheck import Check
from beamside.run.engine import Array, Batch, Header
from beamside.simulate.micrographs import Micrograph, Recipe, Session

RECIPE = Recipe(size_px=320, pixel_size_A=1.3, count=2, contrast=0.7)
PAIRS = Recipe(size_px=192, pixel_size_A=5.0, count=4, contrast=1.2, dose_per_A2=60.0)
STEPS = 60
LEAST = 1.15
"""On one seed the shipped model gains 1.8 and training 1.5; one that learns nothing gains 1.0."""


def check(seed: int = 1) -> Check:
    """The smaller of two ratios: error of the best blur over the shipped model's, and loss before over after."""
    measured = min(gain_of_the_prior(seed), gain_of_training(seed))
    return Check("the smaller gain, of the shipped model over a blur and of training over its start,", measured, LEAST)


def gain_of_the_prior(seed: int) -> float:
    """Mean squared error against the truth of the best Gaussian blur, over that of the shipped model."""
    session = Session(replace(RECIPE, seed=1_000_000 + seed))
    network, card = unpack_model(PRIOR.read_bytes(), where=str(PRIOR))
    errors = []
    for number in range(RECIPE.count):
        made = session.micrograph(number)
        found = denoise(network, made.full, scale=sum_scale(made.full, card.pairs))
        judged = against_truth(found, made.full, made.clean, RECIPE.pixel_size_A)
        errors.append([judged[who]["mse"] for who in ("blur", "model")])
    blur, model = np.sum(errors, axis=0)
    return float(blur / model)


def gain_of_training(seed: int) -> float:
    """Held-out loss of a new network after its first step, over that at the end."""
    session = Session(replace(PAIRS, seed=seed))
    options = DenoiseOptions(
        network="seed3", steps=STEPS, crop_px=64, batch=4, learning_rate=1e-2, warm_up_steps=10, lesson_steps=0,
        first_round_steps=1, round_growth=float(STEPS), seed=seed,
    )  # fmt: skip
    header = Header("micrographs", {"pairs": "halves", "pixel_size_A": PAIRS.pixel_size_A, "tile_px": 0})
    engine = Denoiser.fresh(options, header)
    engine.ingest(batch_of([session.micrograph(number) for number in range(PAIRS.count)]))
    engine.close()
    while not engine.step().finished:
        pass
    return engine.losses[0] / engine.losses[-1]


def batch_of(made: list[Micrograph]) -> Batch:
    """Micrographs as a source would give them."""
    pixels = np.stack([np.stack([each.even, each.odd]) for each in made])
    columns = {
        "tile_px": np.zeros(len(made), dtype=np.int64),
        "load_bytes": np.full(len(made), 2 * pixels[0].nbytes, dtype=np.int64),
    }

    def load(rows: NDArray[np.int64]) -> Array:
        taken: Array = pixels[rows]
        return taken

    return Batch(tuple(f"micrograph {number}" for number in range(len(made))), columns, load)
