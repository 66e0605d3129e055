"""What is hidden cannot be seen, and the noise's variance is found without knowing the signal."""

from __future__ import annotations

import numpy as np
import pytest

from beamside.denoise.blindspot import SPOT_REACH_PX, hide, noise_floor
from tests.denoise.scene import truth


def test_nothing_near_a_hidden_pixel_shows() -> None:
    """Each pixel carries its own place; around a centre no value may come from inside its square."""
    side = 60
    y, x = np.mgrid[0:side, 0:side]
    image = (y * 1000 + x).astype(np.float32)
    hidden, mask = hide(image, np.random.default_rng(0))
    centres = np.argwhere(mask > 0)
    assert len(centres) == (side // 12) ** 2
    for cy, cx in centres:
        square = hidden[cy - 2 : cy + 3, cx - 2 : cx + 3]
        from_y, from_x = square // 1000, square % 1000
        assert (np.maximum(abs(from_y - cy), abs(from_x - cx)) > SPOT_REACH_PX).all()
    touched = hidden != image
    assert touched.sum() <= len(centres) * 25 and (image[~touched] == hidden[~touched]).all()


@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_noise_floor_is_the_variance_of_the_noise(sd: float) -> None:
    rng = np.random.default_rng(1)
    smooth = truth(3, 512)
    for _ in range(2):
        smooth = (smooth + np.roll(smooth, 2, 0) + np.roll(smooth, 2, 1) + np.roll(smooth, 3, 0)) / 4
    image = (smooth + sd * rng.standard_normal(smooth.shape)).astype(np.float32)
    assert noise_floor([image]) == pytest.approx(sd**2, rel=0.05)
