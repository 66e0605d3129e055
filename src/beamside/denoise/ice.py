"""Fine detail that is everywhere alike is taken from a denoised micrograph, and left where it stands out.

What a network learns from two halves is all that they share, and between 20 and 10 A most of that is ice: several times
the power of the molecules, spread evenly, where they are bright in places. So the part finer than 24 A gets the gain of
spectral subtraction (Boll, IEEE Trans. ASSP 27 (1979) 113) in every place: 1 - ice / power, from the power round there
and that of the quietest fifth of the micrograph. It moves no phase, knows no unit and no model, and sees the whole
micrograph, so it comes after the tiles have been put together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

FINER_THAN_A = 24.0
"""Period of which half the amplitude counts as fine."""
_FINER_THAN_PX = 18.0
"""Where the size of a pixel is not known: as at 1.3 A."""
_SIGMA_OF_PERIOD = math.sqrt(math.log(2) / 2) / math.pi
QUIET = 0.2
"""The share of the micrograph that shows how strong the ice is."""
LEAST_GAIN = 0.1
_LEAST_PX, _LEAST_BLOCKS = 3.0, 4
"""A coarser pixel leaves no fine part worth the name; a smaller image no quiet places."""
_BAND_ROWS = 256
_TRUNCATE = 3.0


def remove_ice(image: NDArray[np.float32], pixel_size_A: float) -> None:
    """Reduce the even fine detail of a denoised `image` (H, W), in place; its mean stays.

    pixel_size_A: 0 if not known.
    """
    finer_than_px = FINER_THAN_A / pixel_size_A if pixel_size_A > 0 else _FINER_THAN_PX
    block = round(finer_than_px)
    if finer_than_px < _LEAST_PX or min(image.shape) < _LEAST_BLOCKS * block:
        return
    sigma_px = _SIGMA_OF_PERIOD * finer_than_px
    band_rows = max(1, _BAND_ROWS // block) * block
    power = [mean_squares(fine, block) for _, fine in fine_bands(image, sigma_px, band_rows)]
    loss = 1 - local_gain(np.concatenate(power))
    rows, columns = (_between(size, count, block) for size, count in zip(image.shape, loss.shape, strict=True))
    across = _along(loss.T, *columns).T
    for band, fine in fine_bands(image, sigma_px, band_rows):
        fine *= _along(across, rows[0][band], rows[1][band])
        image[band] -= fine


def fine_bands(
    image: NDArray[np.float32], sigma_px: float, band_rows: int
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """What a blur takes from `image`, band after band of rows, so that there is no second image.

    A band may be changed once it has been given: the rows that the next one sees of it are kept.
    """
    halo = int(_TRUNCATE * sigma_px + 0.5)
    above = image[:0]
    for at in range(0, image.shape[0], band_rows):
        end = min(at + band_rows, image.shape[0])
        seen = np.concatenate([above, image[at : end + halo]])
        blurred = gaussian_filter(seen, sigma_px, mode="reflect", truncate=_TRUNCATE)
        inner = slice(len(above), len(above) + end - at)
        above = seen[max(0, inner.stop - halo) : inner.stop].copy()
        yield slice(at, end), seen[inner] - blurred[inner]


def mean_squares(fine: NDArray[np.float32], block: int) -> NDArray[np.float64]:
    """Of whole blocks of `block` pixels a side."""
    height, width = (size // block * block for size in fine.shape)
    squares = np.square(fine[:height, :width]).reshape(height // block, block, width // block, block)
    return np.asarray(squares.mean((1, 3), dtype=np.float64))


def local_gain(squares: NDArray[np.float64]) -> NDArray[np.float32]:
    """The gain of each block, from its and its neighbours' mean squares."""
    power = gaussian_filter(squares, 1.0, mode="nearest")
    quiet = float(np.quantile(power, QUIET))
    gain = 1 - quiet / np.maximum(power, np.finfo(np.float64).tiny)
    if quiet <= 0:
        gain = np.ones_like(power)
    return np.asarray(np.clip(gain, LEAST_GAIN, 1).astype(np.float32))


def _between(size: int, count: int, block: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each of `size` pixels: the block before it, and how far it is on the way to the next one's centre."""
    at = np.clip((np.arange(size) - (block - 1) / 2) / block, 0, count - 1)
    first = np.minimum(at.astype(np.int64), count - 2)
    return first, (at - first).astype(np.float32)


def _along(values: NDArray[np.float32], first: NDArray[np.int64], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of `values`, interpolated."""
    low = values[first]
    return np.asarray(low + share[:, None] * (values[first + 1] - low))
