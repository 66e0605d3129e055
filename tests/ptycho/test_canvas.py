"""The canvas grows without moving what is drawn, and no window ever leaves it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamside.errors import CapacityError
from beamside.ptycho.canvas import MARGIN_PX, Canvas
from beamside.ptycho.probe import BINS

SIZE = 16
place = st.floats(-300, 300)
pairs = st.lists(st.tuples(place, place), min_size=1, max_size=6).map(np.array)


def mark(canvas: Canvas, row: int, col: int, value: complex) -> None:
    """Write at a place of the input's own pixel frame."""
    canvas.object[row - canvas.origin[0], col - canvas.origin[1]] = value


def read(canvas: Canvas, row: int, col: int) -> complex:
    return complex(canvas.object[row - canvas.origin[0], col - canvas.origin[1]])


@given(pairs, pairs)
def test_growth_never_moves_what_is_drawn(first: np.ndarray, later: np.ndarray) -> None:
    canvas = Canvas()
    canvas.cover(first, SIZE)
    corner = np.floor(first[0]).astype(int)
    mark(canvas, corner[0], corner[1], 2 + 3j)
    canvas.velocity[corner[0] - canvas.origin[0], corner[1] - canvas.origin[1]] = 5j
    before, shape = canvas.object.copy(), canvas.shape
    grown = canvas.cover(later, SIZE)
    assert read(canvas, corner[0], corner[1]) == 2 + 3j
    assert canvas.velocity[tuple(corner - canvas.origin)] == 5j
    assert (canvas.object == 2 + 3j).sum() == 1 and (canvas.velocity != 0).sum() == 1
    assert grown == (canvas.shape != shape)
    if not grown:
        assert np.array_equal(before, canvas.object)
    assert (canvas.object[canvas.object != 2 + 3j] == 1).all(), "what is new is empty"


@given(pairs, pairs)
def test_every_window_lies_inside_with_its_margin(first: np.ndarray, later: np.ndarray) -> None:
    """Gauntlet row 19: negative windows are impossible, wherever frames arrive."""
    canvas = Canvas()
    canvas.cover(first, SIZE)
    canvas.cover(later, SIZE)
    corners, bins = canvas.corners(np.concatenate([first, later]), BINS)
    assert (corners >= MARGIN_PX - 1).all()
    assert (corners + SIZE <= np.array(canvas.shape) - MARGIN_PX + 1).all()
    assert ((bins >= 0) & (bins < BINS**2)).all()


@given(pairs)
def test_corner_and_bin_together_are_the_position(positions: np.ndarray) -> None:
    canvas = Canvas()
    canvas.cover(positions, SIZE)
    corners, bins = canvas.corners(positions, BINS)
    back = corners + np.stack(np.divmod(bins, BINS), 1) / BINS + canvas.origin
    assert np.abs(back - positions).max() <= 0.5 / BINS + 1e-9


@given(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)))
def test_a_position_that_wanders_is_kept_on_the_canvas(wild: tuple[float, float]) -> None:
    canvas = Canvas()
    canvas.cover(np.array([[0.0, 0.0], [30.0, 20.0]]), SIZE)
    inside = canvas.inside(np.array([wild, [3.25, 4.5]]), SIZE)
    corners, _ = canvas.corners(inside, BINS)
    assert (corners >= 1).all() and (corners + SIZE < np.array(canvas.shape)).all()
    assert inside[1].tolist() == [3.25, 4.5], "a good one stays where it is"


@given(st.integers(-12, 12), st.integers(-12, 12))
def test_a_roll_brings_in_emptiness(dy: int, dx: int) -> None:
    canvas = Canvas()
    canvas.cover(np.array([[0.0, 0.0]]), SIZE)
    middle = np.array(canvas.shape) // 2
    canvas.object[tuple(middle)] = 4j
    canvas.object[0, :] = canvas.object[-1, :] = canvas.object[:, 0] = canvas.object[:, -1] = 7
    canvas.roll(np.array([dy, dx]))
    assert canvas.object[middle[0] + dy, middle[1] + dx] == 4j
    if dy > 0:
        assert (canvas.object[:dy] == 1).all()
    if dx < 0:
        assert (canvas.object[:, dx:] == 1).all()


def test_an_absurd_canvas_is_refused() -> None:
    canvas = Canvas()
    with pytest.raises(CapacityError, match=r"20\d+ x 20\d+ pixels.*--position-unit"):
        canvas.cover(np.array([[0.0, 0.0], [2e4, 2e4]]), SIZE)
    assert canvas.shape == (0, 0), "nothing was allocated"
