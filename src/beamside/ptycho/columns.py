"""Transforms down the columns of an image, in strips that stay in the cache.

All arithmetic is on whole vectors of neighbouring columns. Frequencies come out of the forward transform (radix 4,
decimation in frequency) in the order of `order`, and the one back takes them so: nothing is sorted.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_FAST: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy", "cache": True}
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_ZERO = np.float32(0)
_U = np.uint64
WIDTH = 64
"""Columns of a strip, of which each row holds the real parts and, behind them, the imaginary ones. A constant of the
loops, so that all distances between what a stage reads and writes are known, and nothing is looked at before each row.
With 32 the strips of frames of 256 pixels would stay in a first-level cache, and are slower."""
LEAST_PX, MOST_PX = 64, 4096
_PART = _U(WIDTH)
_ROW = _U(2 * WIDTH)


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


def sized(size: int) -> tuple[int, ...]:
    """A tuple as long as the size has factors of two: its length is part of its type, which makes it a constant."""
    return (0,) * (size.bit_length() - 1)


def strip(size: int, modes: int) -> NDArray[np.float32]:
    """Workspace (modes, N x 2 columns): of each row the real parts, then the imaginary ones."""
    return zeros(modes, size * 2 * WIDTH)


def zeros(*shape: int) -> NDArray[np.float32]:
    """Zeros that begin with a cache line, as numpy's do not: a vector over two lines is read twice."""
    count, line = prod(shape), 64
    held = np.zeros(count + line // 4, np.float32)
    first = -held.ctypes.data % line // 4
    return held[first : first + count].reshape(shape)


@njit(inline="always", **_FAST)
def forward_stage(work, turns, at, size, left):
    """One stage: in each run of `left` rows, groups of four that lie a quarter of it apart."""
    quarter = left // 4
    step = _U(quarter) * _ROW
    for base in range(0, size, left):
        for j in range(quarter):
            w1r, w1i = turns[at + 3 * j, 0], turns[at + 3 * j, 1]
            w2r, w2i = turns[at + 3 * j + 1, 0], turns[at + 3 * j + 1, 1]
            w3r, w3i = turns[at + 3 * j + 2, 0], turns[at + 3 * j + 2, 1]
            k0 = _U(base + j) * _ROW
            k1, k2, k3 = k0 + step, k0 + step + step, k0 + step + step + step
            for x in range(_PART):
                r0, r1, r2, r3 = work[k0 + x], work[k1 + x], work[k2 + x], work[k3 + x]
                i0, i1, i2, i3 = work[k0 + _PART + x], work[k1 + _PART + x], work[k2 + _PART + x], work[k3 + _PART + x]
                ar, ai, br, bi = r0 + r2, i0 + i2, r0 - r2, i0 - i2
                cr, ci, dr, di = r1 + r3, i1 + i3, r1 - r3, i1 - i3
                work[k0 + x] = ar + cr
                work[k0 + _PART + x] = ai + ci
                er, ei = br + di, bi - dr
                work[k1 + x] = er * w1r - ei * w1i
                work[k1 + _PART + x] = er * w1i + ei * w1r
                er, ei = ar - cr, ai - ci
                work[k2 + x] = er * w2r - ei * w2i
                work[k2 + _PART + x] = er * w2i + ei * w2r
                er, ei = br - di, bi + dr
                work[k3 + x] = er * w3r - ei * w3i
                work[k3 + _PART + x] = er * w3i + ei * w3r


@njit(inline="always", **_FAST)
def backward_stage(work, turns, at, size, left):
    """The adjoint of `forward_stage`."""
    quarter = left // 4
    step = _U(quarter) * _ROW
    for base in range(0, size, left):
        for j in range(quarter):
            w1r, w1i = turns[at + 3 * j, 0], turns[at + 3 * j, 1]
            w2r, w2i = turns[at + 3 * j + 1, 0], turns[at + 3 * j + 1, 1]
            w3r, w3i = turns[at + 3 * j + 2, 0], turns[at + 3 * j + 2, 1]
            k0 = _U(base + j) * _ROW
            k1, k2, k3 = k0 + step, k0 + step + step, k0 + step + step + step
            for x in range(_PART):
                r0, r1, r2, r3 = work[k0 + x], work[k1 + x], work[k2 + x], work[k3 + x]
                i0, i1, i2, i3 = work[k0 + _PART + x], work[k1 + _PART + x], work[k2 + _PART + x], work[k3 + _PART + x]
                er, ei = r1 * w1r + i1 * w1i, i1 * w1r - r1 * w1i
                fr, fi = r2 * w2r + i2 * w2i, i2 * w2r - r2 * w2i
                gr, gi = r3 * w3r + i3 * w3i, i3 * w3r - r3 * w3i
                ar, ai, br, bi = r0 + fr, i0 + fi, r0 - fr, i0 - fi
                cr, ci, dr, di = er + gr, ei + gi, er - gr, ei - gi
                work[k0 + x] = ar + cr
                work[k0 + _PART + x] = ai + ci
                work[k1 + x] = br - di
                work[k1 + _PART + x] = bi + dr
                work[k2 + x] = ar - cr
                work[k2 + _PART + x] = ai - ci
                work[k3 + x] = br + di
                work[k3 + _PART + x] = bi - dr


@njit(inline="always", **_FAST)
def pairs_stage(work, size):
    """The stage of neighbouring rows, which a size that is no power of four has; its own adjoint."""
    for y in range(0, size, 2):
        first = _U(y) * _ROW
        for x in range(_ROW):
            a, b = work[first + x], work[first + _ROW + x]
            work[first + x] = a + b
            work[first + _ROW + x] = a - b


def stages(size: int) -> tuple[int, ...]:
    """Of up to six stages of four: where the twiddles of each begin and how many rows a run has, or 0 and 0."""
    lefts = [size >> 2 * k for k in range(6) if size >> 2 * k >= 4]
    starts = [sum(3 * (left // 4) for left in lefts[:k]) for k in range(len(lefts))]
    found = [value for pair in zip(starts, lefts, strict=True) for value in pair]
    return tuple((found + 12 * [0])[:12])


@njit(**_FAST)
def forward(strips, turns, sized):
    """The columns' FFT of strips (any, N x 2 columns), in place; `twiddles` and `sized` of N.

    Written out for every size up to the largest: where the number of rows is known when it is compiled, what does not
    belong to it is left out.
    """
    size = 1 << len(sized)
    for k in range(len(strips)):
        strip, at = strips[k], 0
        forward_stage(strip, turns, at, size, size)
        at += 3 * (size // 4)
        forward_stage(strip, turns, at, size, size // 4)
        at += 3 * (size // 16)
        forward_stage(strip, turns, at, size, size // 16)
        if size >= 256:
            at += 3 * (size // 64)
            forward_stage(strip, turns, at, size, size // 64)
        if size >= 1024:
            at += 3 * (size // 256)
            forward_stage(strip, turns, at, size, size // 256)
        if size >= 4096:
            at += 3 * (size // 1024)
            forward_stage(strip, turns, at, size, size // 1024)
        if len(sized) % 2:
            pairs_stage(strip, size)


@njit(**_FAST)
def backward(strips, turns, sized):
    """And back, without the 1/N."""
    size = 1 << len(sized)
    second, third = 3 * (size // 4), 3 * (size // 4 + size // 16)
    fourth = third + 3 * (size // 64)
    fifth, sixth = fourth + 3 * (size // 256), fourth + 3 * (size // 256 + size // 1024)
    for k in range(len(strips)):
        strip = strips[k]
        if len(sized) % 2:
            pairs_stage(strip, size)
        if size >= 4096:
            backward_stage(strip, turns, sixth, size, size // 1024)
        if size >= 1024:
            backward_stage(strip, turns, fifth, size, size // 256)
        if size >= 256:
            backward_stage(strip, turns, fourth, size, size // 64)
        backward_stage(strip, turns, third, size, size // 16)
        backward_stage(strip, turns, second, size, size // 4)
        backward_stage(strip, turns, 0, size, size)


@njit(**_FAST)
def cut(sums, k, m, strips):
    """strips (n, N x 2 columns) of planes (lanes, bins, modes, 2, N, N) of one bin and mode, summed over the lanes."""
    size, row = sums.shape[4], _U(strips.shape[1] // sums.shape[4])
    part = row // _U(2)
    for s in range(len(strips)):
        first, strip = _U(s) * part, strips[s]
        for y in range(size):
            at, re, im = _U(y) * row, sums[0, k, m, 0, y], sums[0, k, m, 1, y]
            for x in range(part):
                strip[at + x] = re[first + x]
                strip[at + part + x] = im[first + x]
            for lane in range(1, len(sums)):
                re, im = sums[lane, k, m, 0, y], sums[lane, k, m, 1, y]
                for x in range(part):
                    strip[at + x] += re[first + x]
                    strip[at + part + x] += im[first + x]


@njit(**_FAST)
def turned(strips, phase, out, add):
    """Rows times a phase each, (N, 2) real and imaginary part; out: that, or with it added."""
    row = _U(strips.shape[1] // len(phase))
    part = row // _U(2)
    for s in range(len(strips)):
        strip, other = strips[s], out[s]
        for y in range(len(phase)):
            at, c, d = _U(y) * row, phase[y, 0], phase[y, 1]
            if add:
                for x in range(part):
                    re, im = strip[at + x], strip[at + part + x]
                    other[at + x] += re * c - im * d
                    other[at + part + x] += re * d + im * c
            else:
                for x in range(part):
                    re, im = strip[at + x], strip[at + part + x]
                    other[at + x] = re * c - im * d
                    other[at + part + x] = re * d + im * c


@njit(**_FAST)
def paste(strips, planes):
    """planes (2, N, N) of strips."""
    size, row = planes.shape[1], _U(strips.shape[1] // planes.shape[1])
    part = row // _U(2)
    for s in range(len(strips)):
        start, strip = _U(s) * part, strips[s]
        for y in range(size):
            at, re, im = _U(y) * row, planes[0, y], planes[1, y]
            for x in range(part):
                re[start + x] = strip[at + x]
                im[start + x] = strip[at + part + x]


@njit(**_FAST)
def add(strips, out):
    """Add strips to out (N, N) complex64."""
    row = _U(strips.shape[1] // len(out))
    part = row // _U(2)
    for s in range(len(strips)):
        start, strip = _U(s) * part, strips[s]
        for y in range(len(out)):
            at, o = _U(y) * row, out[y]
            for x in range(part):
                o[start + x] += complex(strip[at + x], strip[at + part + x])
