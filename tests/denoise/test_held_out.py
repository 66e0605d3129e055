"""Held-out crops lie where no training crop does, and the controls are what scipy finds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from beamside.denoise.held_out import SIGMAS_PX, Example, HeldOut, grid, measured_controls, spread
from beamside.denoise.intake import with_roles
from beamside.denoise.loader import draw_corners
from beamside.denoise.micrograph import HELD_OUT, TRAIN, Micrograph
from beamside.denoise.normalise import Scale
from tests.denoise.scene import halves


def micrograph(**changed: object) -> Micrograph:
    values = {"key": "m", "height_px": 700, "width_px": 600, "tile_px": 0, "scale": Scale(100.0, 6.0), "dy_px": 0}
    values |= {"dx_px": 0, "load_bytes": 0, "role": HELD_OUT, "top": 0, "bottom": 700}
    return Micrograph(**{**values, **changed})  # type: ignore[arg-type]


def test_crops_tile_without_overlap_and_keep_to_the_stride() -> None:
    covered = np.zeros((700, 600), int)
    for y, x, height, width in grid(micrograph(dy_px=3, dx_px=-2), 16):
        assert height % 16 == width % 16 == 0 and y + 3 + height <= 700 and x - 2 >= 0
        covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1 and covered.mean() > 0.9


def test_a_lone_micrograph_is_held_out_where_it_is_not_trained_on() -> None:
    train, held = with_roles([micrograph(role=TRAIN)], some_held_out=False)
    used = np.zeros(700, bool)
    for y, _ in draw_corners(train, 500, 64, np.random.default_rng(0)):
        used[y : y + 64] = True
    for y, _, height, _ in grid(held, 16):
        assert not used[y : y + height].any()


@pytest.mark.parametrize("roles", [[TRAIN, TRAIN, TRAIN], [HELD_OUT, HELD_OUT], [TRAIN, HELD_OUT, TRAIN]])
def test_there_is_always_something_of_both_roles(roles: list[str]) -> None:
    first = [micrograph(key=f"m{n}", role=role) for n, role in enumerate(roles)]
    assert {found.role for found in with_roles(first, some_held_out=False)} == {TRAIN, HELD_OUT}
    assert with_roles(first[:1], some_held_out=True) == first[:1]


def test_controls_are_scipys() -> None:
    scale = Scale(100.0, 7.0)
    first, second = (scale.normalise(half) for half in halves(4, 128))
    found, (alone,) = measured_controls([Example(first, second)])
    assert alone == pytest.approx(found.blur)
    both, each = measured_controls([Example(first, second), Example(second[:64], first[:64])])
    assert (4 * each[0] + 2 * each[1]) / 6 == pytest.approx(both.blur)
    assert found.nothing == pytest.approx(float(np.mean((first.astype(float) - second) ** 2)), rel=1e-6)
    errors = {}
    for sigma in SIGMAS_PX:
        blurred = gaussian_filter(first.astype(float), sigma, mode="mirror", truncate=4.0).ravel()
        line = np.polyfit(blurred, second.ravel(), 1)
        errors[sigma] = float(np.mean((np.polyval(line, blurred) - second.ravel()) ** 2))
    best = min(errors, key=lambda sigma: errors[sigma])
    assert found.blur_sigma_px == best and found.blur == pytest.approx(errors[best], rel=1e-4)


def test_spread_takes_evenly() -> None:
    boxes = [(n, 0, 64, 64) for n in range(10)]
    assert [box[0] for box in spread(boxes, 4)] == [0, 3, 6, 9]
    assert spread(boxes, 0) == [] and spread([], 3) == [] and len(spread(boxes, 99)) == 10


def test_both_directions_of_a_pair_count() -> None:
    held = HeldOut()
    held.add(micrograph(height_px=192, width_px=192, bottom=192), halves(1), 16, None)
    first, second = held.examples
    assert np.array_equal(first.input, second.target) and np.array_equal(first.target, second.input)
    assert held.version == 1
