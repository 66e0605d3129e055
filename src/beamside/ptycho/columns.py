"""The detector's side of a frame in one visit: columns transformed, residual taken, columns transformed back.

A two-dimensional FFT is one of all rows and one of all columns. Rows are left to torch; the columns of a strip of
pixels stay in the cache from their forward transform through the likelihood to the one back, and all their arithmetic
is on whole vectors of neighbouring columns. Frequencies come out of the forward transform (radix 4, decimation in
frequency) in the order of `order`, and the one back takes them so: nothing is sorted, the counts are looked up in that
order instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

_FAST: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy", "cache": True}
_ONE = np.float32(1)
_TWO = np.float32(2)
_HALF = np.float32(0.5)
_ZERO = np.float32(0)
_U = np.uint64
_WIDTH, _STRIP_BYTES = 64, 1 << 18
"""Columns of a strip, and what the strips of all modes together may take, or they are made narrower."""
LEAST_PX, MOST_PX = 16, 4096


def possible(size: int) -> bool:
    """Whether frames of this size can be worked on here: powers of two, neither tiny nor huge."""
    return LEAST_PX <= size <= MOST_PX and size & (size - 1) == 0


def order(size: int) -> NDArray[np.int64]:
    """The frequency that each row of a transformed strip holds."""
    found, left = np.zeros(1, np.int64), size
    while left > 1:
        radix = 4 if left >= 4 else 2
        left //= radix
        # Of the rows so far, each falls into `radix` parts, which hold the next digit of the frequency.
        found = (found[:, None] + (size // left // radix) * np.arange(radix)).ravel()
    return found


def twiddles(size: int) -> NDArray[np.float32]:
    """(n, 2) real and imaginary part of what rows are multiplied by, stage after stage, three for each group of 4."""
    found, left = [], size
    while left >= 4:
        j = np.arange(left // 4)[:, None] * np.arange(1, 4)
        found.append(np.exp(-2j * np.pi * j / left).ravel())
        left //= 4
    every = np.concatenate(found)
    return np.stack([every.real, every.imag], 1).astype(np.float32)


def strip(size: int, modes: int) -> NDArray[np.float32]:
    """Workspace (modes, 2, N, columns): real and imaginary part apart."""
    width = min(_WIDTH, size)
    while width > LEAST_PX and 8 * modes * size * width > _STRIP_BYTES:
        width //= 2
    return np.asarray(torch.empty((modes, 2, size, width)).numpy())


@njit(**_FAST)
def _forward(re, im, turns, at, left):
    """One stage: in each run of `left` rows, groups of four that lie a quarter of it apart."""
    size, width, quarter = re.shape[0], re.shape[1], left // 4
    for base in range(0, size, left):
        for j in range(quarter):
            w1r, w1i = turns[at + 3 * j, 0], turns[at + 3 * j, 1]
            w2r, w2i = turns[at + 3 * j + 1, 0], turns[at + 3 * j + 1, 1]
            w3r, w3i = turns[at + 3 * j + 2, 0], turns[at + 3 * j + 2, 1]
            first, step = _U(base + j), _U(quarter)
            second, third, fourth = first + step, first + step + step, first + step + step + step
            r0, r1, r2, r3 = re[first], re[second], re[third], re[fourth]
            i0, i1, i2, i3 = im[first], im[second], im[third], im[fourth]
            for x in range(width):
                ar, ai, br, bi = r0[x] + r2[x], i0[x] + i2[x], r0[x] - r2[x], i0[x] - i2[x]
                cr, ci, dr, di = r1[x] + r3[x], i1[x] + i3[x], r1[x] - r3[x], i1[x] - i3[x]
                r0[x] = ar + cr
                i0[x] = ai + ci
                er, ei = br + di, bi - dr
                r1[x] = er * w1r - ei * w1i
                i1[x] = er * w1i + ei * w1r
                er, ei = ar - cr, ai - ci
                r2[x] = er * w2r - ei * w2i
                i2[x] = er * w2i + ei * w2r
                er, ei = br - di, bi + dr
                r3[x] = er * w3r - ei * w3i
                i3[x] = er * w3i + ei * w3r


@njit(**_FAST)
def _backward(re, im, turns, at, left):
    """The adjoint of `_forward`."""
    size, width, quarter = re.shape[0], re.shape[1], left // 4
    for base in range(0, size, left):
        for j in range(quarter):
            w1r, w1i = turns[at + 3 * j, 0], turns[at + 3 * j, 1]
            w2r, w2i = turns[at + 3 * j + 1, 0], turns[at + 3 * j + 1, 1]
            w3r, w3i = turns[at + 3 * j + 2, 0], turns[at + 3 * j + 2, 1]
            first, step = _U(base + j), _U(quarter)
            second, third, fourth = first + step, first + step + step, first + step + step + step
            r0, r1, r2, r3 = re[first], re[second], re[third], re[fourth]
            i0, i1, i2, i3 = im[first], im[second], im[third], im[fourth]
            for x in range(width):
                er, ei = r1[x] * w1r + i1[x] * w1i, i1[x] * w1r - r1[x] * w1i
                fr, fi = r2[x] * w2r + i2[x] * w2i, i2[x] * w2r - r2[x] * w2i
                gr, gi = r3[x] * w3r + i3[x] * w3i, i3[x] * w3r - r3[x] * w3i
                ar, ai, br, bi = r0[x] + fr, i0[x] + fi, r0[x] - fr, i0[x] - fi
                cr, ci, dr, di = er + gr, ei + gi, er - gr, ei - gi
                r0[x] = ar + cr
                i0[x] = ai + ci
                r1[x] = br - di
                i1[x] = bi + dr
                r2[x] = ar - cr
                i2[x] = ai - ci
                r3[x] = br + di
                i3[x] = bi - dr


@njit(**_FAST)
def _pairs(re, im):
    """The stage of neighbouring rows, which a size that is no power of four has; its own adjoint."""
    size, width = re.shape
    for y in range(0, size, 2):
        r0, r1, i0, i1 = re[_U(y)], re[_U(y + 1)], im[_U(y)], im[_U(y + 1)]
        for x in range(width):
            er, ei = r0[x] - r1[x], i0[x] - i1[x]
            r0[x] += r1[x]
            i0[x] += i1[x]
            r1[x] = er
            i1[x] = ei


@njit(**_FAST)
def _transform(re, im, turns):
    """All columns of a strip, forward and unsorted; where the twiddles of the last stage end."""
    at, left = 0, re.shape[0]
    while left >= 4:
        _forward(re, im, turns, at, left)
        at += 3 * (left // 4)
        left //= 4
    if left == 2:
        _pairs(re, im)
    return left


@njit(**_FAST)
def _transform_back(re, im, turns, last):
    """From what `_transform` left, without the 1/N; last: what it returned."""
    at, left = len(turns), 4
    if last == 2:
        _pairs(re, im)
        left = 8
    while left <= re.shape[0]:
        at -= 3 * (left // 4)
        _backward(re, im, turns, at, left)
        left *= 4


@njit(**_FAST)
def residual_between_rows(
    waves, counts, rows, valid, saturation, scale, poisson, floor, turns, places, work, line, near
):
    """As `kernels.residual_waves`, with the columns' FFT before it and the one back (without the 1/N) after it.

    waves: rows transformed, viewed as float32, (frames, modes, N, 2 N), changed in place. turns, places, work: of
    `twiddles`, `order` and `strip`. line, near: (2, N) and (N, N) float32, workspace: counts come from far away, and
    are fetched row after row before they are wanted in another order.
    """
    modes, size, width = waves.shape[1], counts.shape[1], work.shape[3]
    total = 0.0
    q = line[0]
    for b in range(len(rows)):
        for y in range(size):
            c, d = counts[rows[b], y], near[y]
            for x in range(size):
                d[x] = np.float32(c[x])
        for first in range(0, size, width):
            last = 1
            for m in range(modes):
                for y in range(size):
                    a, re, im = waves[b, m, y, 2 * first : 2 * (first + width)], work[m, 0, y], work[m, 1, y]
                    for x in range(width):
                        re[x] = a[2 * x]
                        im[x] = a[2 * x + 1]
                last = _transform(work[m, 0], work[m, 1], turns)
            for y in range(size):
                n, w = near[places[y], first : first + width], valid[places[y], first : first + width]
                for x in range(width):
                    q[x] = floor
                for m in range(modes):
                    re, im = work[m, 0, y], work[m, 1, y]
                    for x in range(width):
                        q[x] += (re[x] * re[x] + im[x] * im[x]) * scale
                misfit = _ZERO
                if poisson:
                    for x in range(width):
                        keep = w[x] if n[x] < saturation else _ZERO
                        misfit += keep * (q[x] + n[x] - _TWO * np.sqrt(q[x] * n[x]))
                        q[x] = keep * scale * _HALF * (n[x] / q[x] - _ONE)
                else:
                    for x in range(width):
                        keep = w[x] if n[x] < saturation else _ZERO
                        f = np.sqrt(n[x] / q[x]) - _ONE
                        misfit += keep * q[x] * f * f
                        q[x] = keep * scale * f
                total += misfit
                for m in range(modes):
                    re, im = work[m, 0, y], work[m, 1, y]
                    for x in range(width):
                        re[x] *= q[x]
                        im[x] *= q[x]
            for m in range(modes):
                _transform_back(work[m, 0], work[m, 1], turns, last)
                for y in range(size):
                    a, re, im = waves[b, m, y, 2 * first : 2 * (first + width)], work[m, 0, y], work[m, 1, y]
                    for x in range(width):
                        a[2 * x] = re[x]
                        a[2 * x + 1] = im[x]
    return total
