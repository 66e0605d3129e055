"""Columns that are transformed where their residual is taken, against whole transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.ptycho import columns, kernels
from beamside.ptycho.workshop import Likelihood
from tests.ptycho.test_kernels import GAUSSIAN, POISSON, close, wave

SIZES = pytest.mark.parametrize("size", [16, 32, 128])
"""A power of four, and two that need a stage of pairs; the last in two strips."""


@SIZES
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("noise", [POISSON, GAUSSIAN], ids=["poisson", "gaussian"])
def test_the_same_residual_as_of_whole_transforms(size: int, noise: Likelihood, dtype: Any) -> None:
    rng = np.random.default_rng(size)
    waves = 3 * wave(rng, 2, 2, size, size)
    counts = rng.poisson(20.0, (4, size, size)).astype(dtype)
    valid = (rng.random((size, size)) > 0.2).astype(np.float32)
    rows, shared = np.array([3, 1]), (np.float32(24.0), np.float32(1 / size**2), noise.poisson, np.float32(noise.floor))
    whole = np.fft.fft2(waves).astype(np.complex64)
    line = np.empty((2, size), np.float32)
    misfit = kernels.residual_waves(whole.view(np.float32), counts, rows, valid, *shared, line)
    wanted = np.fft.ifft2(whole, norm="forward")

    half = np.fft.fft(waves, axis=-1).astype(np.complex64)
    found = columns.residual_between_rows(
        half.view(np.float32), counts, rows, valid, *shared, columns.twiddles(size), columns.order(size),
        columns.strip(size, 2), line, np.empty((size, size), np.float32),
    )  # fmt: skip
    close(np.fft.ifft(half, axis=-1, norm="forward"), wanted)
    assert found == pytest.approx(misfit, rel=1e-5)


@SIZES
def test_rows_of_a_transformed_strip_hold_what_order_says(size: int) -> None:
    """A strip of plane waves: one frequency, one row."""
    turns, found = columns.twiddles(size), []
    for frequency in range(size):
        wanted = np.exp(2j * np.pi * frequency * np.arange(size) / size).astype(np.complex64)
        re, im = (np.repeat(part[:, None], 16, 1).astype(np.float32) for part in (wanted.real, wanted.imag))
        columns._transform(re, im, turns)
        found.append(int(np.hypot(re, im)[:, 3].argmax()))
    assert np.array_equal(columns.order(size)[found], np.arange(size))


def test_sizes_that_go_the_long_way() -> None:
    assert [size for size in range(8, 200) if columns.possible(size)] == [16, 32, 64, 128]
    assert not columns.possible(1 << 14)


@pytest.mark.parametrize(
    ("size", "modes", "width"), [(16, 1, 16), (128, 1, 64), (256, 2, 64), (256, 4, 32), (4096, 10, 16)]
)
def test_a_strip_stays_in_the_cache(size: int, modes: int, width: int) -> None:
    strip: NDArray[np.float32] = columns.strip(size, modes)
    assert strip.shape == (modes, 2, size, width)
    assert strip.ctypes.data % 64 == 0
