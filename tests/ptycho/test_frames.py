"""The frame store: what memory does not hold is read again, what no likelihood knows is set aside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.ptycho.frames import FrameStore
from beamside.run.engine import Batch
from tests.ptycho import scene

SIZE = 8


def given(pixels: NDArray[Any], first: int = 0, asked: list[int] | None = None) -> Batch:
    """Frames as a batch; the rows that are asked for are noted."""

    def load(rows: NDArray[np.int64]) -> NDArray[Any]:
        if asked is not None:
            asked.extend((first + rows).tolist())
        return pixels[rows]

    keys = tuple(f"frame {first + i}" for i in range(len(pixels)))
    return Batch(keys, {"position_m": np.full((len(pixels), 2), float(first))}, load)


def poisson(n: int, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).poisson(5.0, (n, SIZE, SIZE)).astype(np.uint16)


def all_of(store: FrameStore, frames: NDArray[np.int64]) -> NDArray[Any]:
    counts, rows = store.block(frames)
    return counts[rows]


@pytest.mark.parametrize("capacity", [1, 10, 70, 100, 150, 200])
def test_every_frame_is_read_whatever_the_capacity(capacity: int) -> None:
    pixels, asked = poisson(150), []  # type: tuple[NDArray[np.uint16], list[int]]
    store = FrameStore(SIZE, capacity)
    store.append(given(pixels[:100], 0, asked))
    store.append(given(pixels[100:], 100, asked))
    assert len(store) == 150 and store.held == min(capacity, 150) and store.beyond == max(0, 150 - capacity)
    asked.clear()
    order = np.random.default_rng(1).permutation(150)
    for at in range(0, 150, 37):
        part = order[at : at + 37]
        np.testing.assert_array_equal(all_of(store, part), pixels[part])
    assert sorted(set(asked)) == list(range(store.held, 150)), "exactly the frames beyond are read again"
    assert len(store.counts) <= max(capacity, 1), "never written past the end"
    np.testing.assert_array_equal(store.total, pixels.sum((1, 2)))
    np.testing.assert_allclose(store.mean_pattern, pixels.mean(0))


def test_integers_take_two_bytes_and_fractions_four() -> None:
    store = FrameStore(SIZE, 100)
    store.append(given(poisson(20)))
    assert store.counts.dtype == np.uint16 and store.integer and store.bytes_per_frame == 2 * SIZE**2
    fractions = poisson(10, 1).astype(np.float32) + 0.25
    store.append(given(fractions, 20))
    assert store.counts.dtype == np.float32 and not store.integer and store.bytes_per_frame == 4 * SIZE**2
    np.testing.assert_array_equal(all_of(store, np.arange(20)), poisson(20))
    np.testing.assert_array_equal(all_of(store, np.arange(20, 30)), fractions)


def test_counts_beyond_16_bits_survive() -> None:
    strong = poisson(4).astype(np.float32)
    strong[2, 3, 3] = 70000
    store = FrameStore(SIZE, 10)
    store.append(given(poisson(3)))
    store.append(given(strong, 3))
    assert all_of(store, np.array([5]))[0, 3, 3] == 70000


@pytest.mark.parametrize("capacity", [100, 5], ids=["in memory", "beyond"])
def test_what_no_likelihood_knows_is_set_aside_and_named(capacity: int) -> None:
    pixels = poisson(12).astype(np.float32)
    pixels[1, 0, 0], pixels[4, 2, 2], pixels[7, 1, 1], pixels[9] = np.nan, np.inf, -1, 0
    store = FrameStore(SIZE, capacity)
    assert store.append(given(pixels)) == ["frame 1", "frame 4", "frame 7", "frame 9"]
    good = np.setdiff1d(np.arange(12), [1, 4, 7, 9])
    np.testing.assert_array_equal(np.flatnonzero(store.usable), good)
    assert np.isfinite(store.counts[: store.held]).all() and np.isfinite(store.mean_pattern).all()
    np.testing.assert_allclose(store.mean_pattern, pixels[good].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(all_of(store, good), pixels[good])
    assert (store.total[[1, 4, 7, 9]] == 0).all()


def test_a_blank_integer_frame_is_set_aside() -> None:
    pixels = poisson(5)
    pixels[3] = 0
    assert FrameStore(SIZE, 10).append(given(pixels)) == ["frame 3"]


@pytest.mark.parametrize("capacity", [1, 60])
def test_a_reconstruction_from_beyond_memory_is_the_same_to_the_bit(capacity: int) -> None:
    """Gauntlet row 21: more frames than the capacity; none is lost, none is written past the end."""
    made = scene.scan(120)
    held = scene.run(made, scene.options(made, iterations_after_close=2))
    read = scene.run(made, scene.options(made, iterations_after_close=2, capacity=capacity))
    assert read.store.beyond == 120 - capacity and held.store.beyond == 0
    assert np.array_equal(held.canvas.object, read.canvas.object)
    assert np.array_equal(held.shop.probe, read.shop.probe) and held.errors == read.errors
