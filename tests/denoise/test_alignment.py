"""Displacements put in by hand come out again."""

from __future__ import annotations

import numpy as np
import pytest

from beamside.denoise.alignment import displacement
from beamside.denoise.guards import SIGNIFICANT
from beamside.denoise.normalise import Scale
from tests.denoise.scene import truth


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
