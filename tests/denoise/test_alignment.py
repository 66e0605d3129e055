"""Displacements put in by hand come out again."""

from __future__ import annotations

import numpy as np
import pytest

from beamside.denoise.alignment import displacement
from beamside.denoise.guards import DEPENDENT, SIGNIFICANT
from beamside.denoise.intake import Intake, shared_noise
from beamside.denoise.normalise import Scale
from beamside.run.engine import Batch
from beamside.simulate.micrographs import Recipe, Session
from tests.denoise.scene import halves, truth

COLUMNS = {"tile_px": np.zeros(1, np.int64), "load_bytes": np.zeros(1, np.int64)}


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (3, -2), (-4, 1), (0, 11)])
def test_a_displaced_half_is_measured(dy: int, dx: int) -> None:
    side, margin = 256, 16
    clean = truth(7, side + 2 * margin)
    rng = np.random.default_rng(0)
    first = clean[margin:-margin, margin:-margin] + rng.standard_normal((side, side))
    second = clean[margin - dy : margin - dy + side, margin - dx : margin - dx + side]
    found = displacement(first, second + rng.standard_normal((side, side)), Scale(0.0, 1.0))
    assert (found.dy_px, found.dx_px) == (pytest.approx(dy, abs=0.6), pytest.approx(dx, abs=0.6))
    assert found.significance > SIGNIFICANT


def test_pure_noise_is_not_significant() -> None:
    rng = np.random.default_rng(1)
    assert displacement(*rng.standard_normal((2, 256, 256)), Scale(0.0, 1.0)).significance < SIGNIFICANT


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_noise_feigns_no_displacement(noise: float) -> None:
    """The peak of a noisy correlation lies up to 2 px off; three pixels in a clearer pair are found all the same."""
    found = Intake(single=False, least_px=64)
    for number in range(12):
        pair = halves(number, 192, noise)
        found.look(Batch(("aligned",), COLUMNS, lambda rows: rows), 0, pair)
    assert found.displaced == []
    moved = halves(3, 212)
    pair = np.stack([moved[0, 10:-10, 10:-10], moved[1, 7:-13, 10:-10]])
    found.look(Batch(("moved",), COLUMNS, lambda rows: rows), 0, pair)
    assert [each.key for each in found.displaced] == ["moved"]


def test_a_strong_signal_at_coarse_pixels_is_no_shared_noise() -> None:
    """Carbon at 5 A a pixel: its grain reaches Nyquist, so the finest detail of independent halves correlates."""
    made = Session(Recipe(size_px=192, pixel_size_A=5.0, contrast=1.2, gold=2, carbon=True, seed=4)).micrograph(3)
    assert 0.3 < shared_noise(made.even, made.odd) < DEPENDENT < shared_noise(made.even, made.even)
