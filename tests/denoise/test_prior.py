"""The model that ships: small, whole, and better than a blur on micrographs that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from beamside.denoise import report
from beamside.denoise.export import read_model
from beamside.denoise.prior import PRIOR
from beamside.denoise.tiling import denoise, sum_scale
from beamside.simulate.micrographs import Recipe, Session


def test_it_is_small_and_whole() -> None:
    network, card = read_model(PRIOR)
    assert PRIOR.stat().st_size < 1_000_000
    assert network.name == card.network == "fast" and card.provenance["script"] == "scripts/train_prior.py"


@pytest.mark.parametrize("pixel_size_A", [0.8, 1.3, 2.6, 5.5])
@pytest.mark.parametrize("structures", [("small", "ring"), ("shell", "barrel")])
def test_it_beats_the_best_blur_against_the_truth(pixel_size_A: float, structures: tuple[str, ...]) -> None:
    """Seeds that the training did not use."""
    recipe = Recipe(size_px=320, pixel_size_A=pixel_size_A, structures=structures, contrast=0.7, seed=987_654_321)
    session, (network, card) = Session(recipe), read_model(PRIOR)
    snr: dict[str, list[float]] = {"model": [], "blur": [], "nothing": []}
    for number in range(3):
        made = session.micrograph(number)
        result = denoise(network, made.full, scale=sum_scale(made.full, card.pairs))
        found = report.against_truth(result, made.full, made.clean, pixel_size_A)
        for who, values in snr.items():
            values.append(found[who]["snr_db"])
        assert abs(result.mean() - made.full.mean()) < 0.05 * made.full.std()
        assert np.isfinite(result).all()
    assert np.mean(snr["model"]) > np.mean(snr["blur"]) > np.mean(snr["nothing"])
