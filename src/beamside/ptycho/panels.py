"""A reconstruction as coloured images: amplitude and phase in grey, a probe in hue and brightness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Snapshot

_MOST_PIXELS = 560
UNSEEN = (204, 214, 242)
_LIT_SHARE, _EDGE_SHARE = 0.01, 0.1
"""Hardly seen, drawn pale, no part of the grey scale: under 0.1 of the median of what has over 0.01 of the maximum."""
_MARGIN_SHARE = 0.03
"""Of the longer side, drawn around all that was seen; the canvas beyond is empty."""


@dataclass(frozen=True)
class Panel:
    """image: (h, w, 3) uint8. low, high: what black and white stand for."""

    image: NDArray[np.uint8]
    low: float
    high: float


def panels(snapshot: Snapshot) -> tuple[Panel, Panel, int]:
    """Amplitude and phase (radians), and of how many of the object's pixels each of theirs is the mean."""
    given, coverage = np.asarray(snapshot.arrays["object"]), np.asarray(snapshot.arrays["coverage"])
    window = seen_window(coverage)
    given, coverage = given[window], coverage[window]
    seen = coverage > 0
    lit = coverage > _LIT_SHARE * coverage.max(initial=0)
    bright = coverage > _EDGE_SHARE * np.median(coverage[lit]) if seen.any() else seen
    levelled = without_ramp(given, bright)
    step = max(1, math.ceil(max(given.shape) / _MOST_PIXELS))
    amplitude, phase = (_grey(values, seen, bright, step) for values in (np.abs(levelled), np.angle(levelled)))
    return amplitude, phase, step


def seen_window(coverage: NDArray[Any]) -> tuple[slice, slice]:
    """Rows and columns around all that was seen, with a margin; all of the canvas where nothing was."""
    seen = coverage > 0
    if not seen.any():
        return slice(None), slice(None)
    margin = math.ceil(_MARGIN_SHARE * max(coverage.shape))
    ends = [np.flatnonzero(seen.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(max(0, int(end[0]) - margin), int(end[-1]) + 1 + margin) for end in ends)
    return rows, columns


def without_ramp(given: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.complex64]:
    """The object without its mean phase and its mean phase gradient over `where`, neither of which the data fix."""
    image = given.astype(np.complex64)
    if not where.any():
        return image
    for axis in (0, 1):
        ahead, behind = np.moveaxis(image, axis, 0)[1:], np.moveaxis(image, axis, 0)[:-1]
        both = np.moveaxis(where, axis, 0)
        slope = np.angle((ahead * behind.conj())[both[1:] & both[:-1]].sum(dtype=np.complex128))
        turn = np.exp(-1j * slope * np.arange(image.shape[axis])).astype(np.complex64)
        image = image * (turn[:, None] if axis == 0 else turn[None, :])
    return np.asarray(image * np.complex64(np.exp(-1j * np.angle(image[where].sum(dtype=np.complex128)))))


def _grey(values: NDArray[Any], seen: NDArray[np.bool_], bright: NDArray[np.bool_], step: int) -> Panel:
    """Grey between the 0.5th and 99.5th percentile of the well-lit part; unseen pixels blue, dim ones half washed."""
    low, high = (float(v) for v in np.percentile(values[bright], [0.5, 99.5])) if bright.any() else (0.0, 1.0)
    grey = np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255)
    dim = seen & ~bright
    grey[dim] = 127.5 + 0.35 * grey[dim]
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    picture[~seen] = UNSEEN
    rows, columns = (size // step * step for size in picture.shape[:2])
    blocks = picture[:rows, :columns].reshape(rows // step, step, columns // step, step, 3)
    return Panel(np.round(blocks.mean(axis=(1, 3))).astype(np.uint8), low, high)


def probe_panel(mode: NDArray[Any]) -> Panel:
    """One mode (N, N): brightness its amplitude, hue its phase, red where that is the mean phase."""
    amplitude = np.abs(mode)
    high = float(amplitude.max(initial=0.0))
    # The sum is the mean phase, weighted: of a beam through focus that is near nothing, and any turn is as good.
    phase = np.angle(mode * np.exp(-1j * np.angle(mode.sum())))
    return Panel(_coloured(phase, amplitude / max(high, 1e-30)), 0.0, high)


def phase_strip(width: int) -> NDArray[np.uint8]:
    """(1, width, 3) the hues from -pi to pi."""
    return _coloured(np.linspace(-np.pi, np.pi, width)[None], np.ones((1, width)))


def _coloured(phase: NDArray[Any], brightness: NDArray[Any]) -> NDArray[np.uint8]:
    """Three cosines a third of a turn apart: every hue is as bright on average."""
    thirds = phase[:, :, None] - np.array([0.0, 2.0, 4.0]) * np.pi / 3
    return np.asarray(np.round(brightness[:, :, None] * (127.5 + 127.5 * np.cos(thirds))).astype(np.uint8))


def powers(modes: NDArray[Any]) -> NDArray[np.float64]:
    """(m,) shares of the modes in the probe's power."""
    power = (np.abs(modes.astype(np.complex128)) ** 2).sum((1, 2))
    return np.asarray(power / max(float(power.sum()), 1e-30))
