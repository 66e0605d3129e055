"""Columns that are transformed where their residual is taken, against whole transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.ptycho import columns, kernels
from beamside.ptycho.workshop import Likelihood
from tests.ptycho.test_kernels import GAUSSIAN, POISSON, close, wave


def _slow(size: int) -> Any:
    return pytest.param(size, np.uint16, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("size", "dtype"), [(64, np.uint16), (64, np.float32), (128, np.uint16), (256, np.uint16), _slow(1024), _slow(4096)]
)
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
    found = columns.residual_between_rows(size)(
        half.view(np.float32), counts, rows, valid, *shared, columns.twiddles(size), columns.order(size),
        columns.strip(size, 2), line, np.empty((size, size), np.float32),
    )  # fmt: skip
    close(np.fft.ifft(half, axis=-1, norm="forward"), wanted)
    assert found == pytest.approx(misfit, rel=1e-5)


@pytest.mark.parametrize("size", [64, 128, 256, *(pytest.param(n, marks=pytest.mark.slow) for n in (1024, 4096))])
def test_columns_are_transformed(size: int) -> None:
    """Of every number of stages, with and without pairs: each row holds the frequency that `order` says, and back."""
    image = wave(np.random.default_rng(size), size, columns.WIDTH)
    strips = columns.strip(size, 1)
    strips[0] = np.concatenate([image.real, image.imag], 1).ravel()
    forward, backward = columns.transforms(size)

    def held() -> NDArray[np.complex64]:
        rows = strips[0].reshape(size, 2, columns.WIDTH)
        return np.asarray(rows[:, 0] + 1j * rows[:, 1])

    forward(strips, columns.twiddles(size))
    close(held(), np.fft.fft(image, axis=0)[columns.order(size)])
    backward(strips, columns.twiddles(size))
    close(held(), size * image)


def test_sizes_that_go_the_long_way() -> None:
    assert [size for size in range(8, 300) if columns.possible(size)] == [64, 128, 256]
    assert not columns.possible(1 << 14)


def test_a_strip_begins_with_a_cache_line() -> None:
    strip: NDArray[np.float32] = columns.strip(256, 3)
    assert strip.shape == (3, 256 * 2 * columns.WIDTH)
    assert strip.ctypes.data % 64 == 0
