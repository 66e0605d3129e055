"""Transforms along columns, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.ptycho import columns
from tests.ptycho.test_kernels import close, wave


@pytest.mark.parametrize("size", [64, 128, 256, *(pytest.param(n, marks=pytest.mark.slow) for n in (1024, 4096))])
def test_columns_are_transformed(size: int) -> None:
    """Of every number of stages, with and without pairs: each row holds the frequency that `order` says, and back."""
    image = wave(np.random.default_rng(size), size, columns.WIDTH)
    strips = columns.strip(size, 1)
    strips[0] = np.concatenate([image.real, image.imag], 1).ravel()
    told = columns.twiddles(size), columns.sized(size)

    def held() -> NDArray[np.complex64]:
        rows = strips[0].reshape(size, 2, columns.WIDTH)
        return np.asarray(rows[:, 0] + 1j * rows[:, 1])

    columns.forward(strips, *told)
    close(held(), np.fft.fft(image, axis=0)[columns.order(size)])
    columns.backward(strips, *told)
    close(held(), size * image)


def test_sizes_that_go_the_long_way() -> None:
    assert [size for size in range(8, 300) if columns.possible(size)] == [64, 128, 256]
    assert not columns.possible(1 << 14)


def test_a_strip_begins_with_a_cache_line() -> None:
    strip: NDArray[np.float32] = columns.strip(256, 3)
    assert strip.shape == (3, 256 * 2 * columns.WIDTH)
    assert strip.ctypes.data % 64 == 0
