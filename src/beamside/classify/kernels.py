"""The loops of the search that no matrix product holds, compiled for the CPU.

Orders of a block lie even ones first, so that four products with quarter-circle tables give the scores of all
rotations: with Ee, Eo the even and odd orders' sums of Re cos and Oe, Oo those of Im sin, the score at +-alpha is
Ee + Eo +- (Oe + Oo) and at +-(pi - alpha) it is Ee - Eo +- (Oo - Oe).
Shapes: b particles, M orders, P components an order at most, S shifts, K classes, T candidates, Q quarter angles,
D components of a stored vector.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

_FAST: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy", "cache": True}
_LOWEST = np.float32(-3e38)


@njit(**_FAST)
def gather(vectors, columns, out):
    """out (M, b, 2P) = the stored vectors (b, 2D), order by order; `columns` (M, 2P) is -1 where there is nothing."""
    orders, width = columns.shape
    for m in range(orders):
        for i in range(len(vectors)):
            source, target = vectors[i], out[m, i]
            for j in range(width):
                c = columns[m, j]
                target[j] = source[c] if c >= 0 else np.float32(0)


@njit(**_FAST)
def best_of_quarters(ee, eo, oe, oo, out):
    """out (n,) = the best score over all rotations; the others are (Q, n)."""
    count = ee.shape[1]
    for c in range(count):
        out[c] = _LOWEST
    for q in range(len(ee)):
        a, b, x, y = ee[q], eo[q], oe[q], oo[q]
        for c in range(count):
            near = a[c] + b[c] + abs(x[c] + y[c])
            far = a[c] - b[c] + abs(y[c] - x[c])
            out[c] = max(out[c], max(near, far))


@njit(**_FAST)
def choose(top, offset, first, score, label, shift):
    """The T best classes of each particle: score, label, shift (b, T), from top (b, S, K) less offset (b, K).

    Of equal scores the class wins that comes first from first[i] (b,) on, going round.
    """
    shifts, classes = top.shape[1], top.shape[2]
    best = score.shape[1]
    value = np.empty(classes, np.float32)
    for i in range(len(top)):
        for k in range(classes):
            value[k] = _LOWEST
        for s in range(shifts):
            row = top[i, s]
            for k in range(classes):
                value[k] = max(value[k], row[k])
        for k in range(classes):
            value[k] -= offset[i, k]
        for t in range(best):
            where = first[i]
            for k in range(first[i] + 1, classes):
                if value[k] > value[where]:
                    where = k
            for k in range(first[i]):
                if value[k] > value[where]:
                    where = k
            score[i, t], label[i, t] = value[where], where
            value[where] = _LOWEST
            at = 0
            for s in range(1, shifts):
                if top[i, s, where] > top[i, at, where]:
                    at = s
            shift[i, t] = at


@njit(**_FAST)
def best_rotation(block, rows, label, shift, classes, cosines, sines, alpha):
    """alpha (b, T): best rotation of the chosen columns, between grid points by a parabola.

    block (M, b, 2P), rows (S K, 2, M, 2P) the operands by column, tables (M, H) on [0, pi], orders as in the block.
    """
    orders, width, half = len(block), block.shape[2], cosines.shape[1]
    count = 2 * (half - 1)
    even, odd = np.empty(half, np.float32), np.empty(half, np.float32)
    circle = np.empty(count, np.float32)
    for i in range(block.shape[1]):
        for t in range(label.shape[1]):
            column = shift[i, t] * classes + label[i, t]
            real, imaginary = rows[column, 0], rows[column, 1]
            even[:], odd[:] = 0, 0
            for m in range(orders):
                x = y = np.float32(0)
                for j in range(width):
                    x += block[m, i, j] * real[m, j]
                    y += block[m, i, j] * imaginary[m, j]
                c, s = cosines[m], sines[m]
                for h in range(half):
                    even[h] += x * c[h]
                    odd[h] += y * s[h]
            for h in range(half):
                circle[h] = even[h] + odd[h]
            for h in range(1, half - 1):
                circle[count - h] = even[h] - odd[h]
            at = 0
            for h in range(1, count):
                if circle[h] > circle[at]:
                    at = h
            before, peak, after = circle[at - 1], circle[at], circle[(at + 1) % count]
            curvature = min(before - 2 * peak + after, np.float32(-1e-9))
            offset = min(max(np.float32(0.5) * (before - after) / curvature, np.float32(-0.5)), np.float32(0.5))
            alpha[i, t] = (at + offset) * (2 * math.pi / count)


@njit(**_FAST)
def add_turned(vectors, real, imaginary, orders, label, shift, alpha, weight, shifts, buckets):
    """Add particles (b, 2D), turned back by alpha, to buckets (K S, 2D) as [real | imaginary]; weight 0 is skipped.

    real, imaginary: columns of the parts in a stored vector (D,); orders (D,): their angular frequencies, ascending.
    """
    count = len(orders)
    most = int(orders[count - 1]) + 1
    cosine, sine = np.empty(most, np.float32), np.empty(most, np.float32)
    for i in range(len(vectors)):
        source = vectors[i]
        for t in range(label.shape[1]):
            w = weight[i, t]
            if w == 0:
                continue
            for m in range(most):
                cosine[m], sine[m] = w * math.cos(m * alpha[i, t]), w * math.sin(m * alpha[i, t])
            target = buckets[label[i, t] * shifts + shift[i, t]]
            for d in range(count):
                m = orders[d]
                x, y = source[real[d]], source[imaginary[d]]
                target[d] += x * cosine[m] - y * sine[m]
                target[count + d] += x * sine[m] + y * cosine[m]
