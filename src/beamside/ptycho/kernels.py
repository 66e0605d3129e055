"""The fused loops over the pixels of a few frames, compiled for the CPU.

Every function takes a block of frames that fits in the cache together with its exit waves. FFTs are unnormalised here:
with psi = P O the transform of a frame has |fft2(psi)|^2 = N^2 times the counts, and `scale` = 1/N^2 puts that right.
Shapes: object (H, W), probe bank (bins, modes, N, N), waves (frames, modes, N, N), all complex64; corners (n, 2) int32
first pixel of each frame's window; bins (n,) int32, the sub-pixel shift of each frame. The loops that every iteration
goes through take planes instead, real and imaginary part one after the other: object (2, H, W), bank
(bins, modes, 2, N, N), float32, and waves as float32 (frames, modes, N, 2 N), because complex numbers cost them a
third more, in shuffles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_FAST: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy", "cache": True}
_ONE = np.float32(1)
_HALF = np.float32(0.5)
_TINY = np.float32(1e-9)
_U, _TWO, _LAST = np.uint64, np.uint64(2), np.uint64(1)
"""Indices without a sign: no look whether one counts from the end, which costs rows of 128 pixels a fifth."""


@njit(**_FAST)
def split_object(obj, planes):
    """planes (2, H, W) = real and imaginary part of the object."""
    for y in range(obj.shape[0]):
        o, re, im = obj[y], planes[0, y], planes[1, y]
        for x in range(obj.shape[1]):
            re[x] = o[x].real
            im[x] = o[x].imag


@njit(**_FAST)
def split_mode(wave, planes):
    """planes (2, N, N) of one shifted mode (N, N)."""
    for y in range(wave.shape[0]):
        p, re, im = wave[y], planes[0, y], planes[1, y]
        for x in range(wave.shape[1]):
            re[x] = p[x].real
            im[x] = p[x].imag


@njit(**_FAST)
def join(planes, k, m, out):
    """out (H, W) complex64 = planes (lanes, bins, modes, 2, H, W) of one bin and mode, summed over the lanes."""
    for y in range(out.shape[0]):
        o, re, im = out[y], planes[0, k, m, 0, y], planes[0, k, m, 1, y]
        for x in range(out.shape[1]):
            o[x] = complex(re[x], im[x])
        for lane in range(1, len(planes)):
            re, im = planes[lane, k, m, 0, y], planes[lane, k, m, 1, y]
            for x in range(out.shape[1]):
                o[x] += complex(re[x], im[x])


@njit(inline="always", **_FAST)
def exit_waves(obj, bank, corners, bins, frames, out):
    """out = P O for each frame of the block; planes in, float32 waves out."""
    modes, n, width = bank.shape[1], _U(bank.shape[3]), _U(obj.shape[2])
    o0, o1 = obj[0].ravel(), obj[1].ravel()
    for b in range(len(frames)):
        j = frames[b]
        first = _U(corners[j, 0]) * width + _U(corners[j, 1])
        for m in range(modes):
            p0, p1, t = bank[bins[j], m, 0].ravel(), bank[bins[j], m, 1].ravel(), out[b, m].ravel()
            for y in range(n):
                at, own = first + y * width, y * n
                for x in range(n):
                    re, im = o0[at + x], o1[at + x]
                    t[_TWO * (own + x)] = p0[own + x] * re - p1[own + x] * im
                    t[_TWO * (own + x) + _LAST] = p1[own + x] * re + p0[own + x] * im


@njit(inline="always", **_FAST)
def weights(q, n, w, count, saturation, scale, poisson):
    """Expected counts q of a row replaced by the factors of its waves, for counts n where w is 1; the misfit."""
    misfit = np.float32(0)
    if poisson:
        for x in range(count):
            keep = w[x] if n[x] < saturation else np.float32(0)
            r = n[x] / q[x]
            f = np.sqrt(r) - _ONE
            misfit += keep * q[x] * f * f
            q[x] = keep * scale * _HALF * (r - _ONE)
    else:
        for x in range(count):
            keep = w[x] if n[x] < saturation else np.float32(0)
            f = np.sqrt(n[x] / q[x]) - _ONE
            misfit += keep * q[x] * f * f
            q[x] = keep * scale * f
    return misfit


@njit(**_FAST)
def residual_waves(waves, counts, rows, valid, saturation, scale, poisson, floor, line):
    """Replace each detector wave A by its likelihood residual, f A scale; the sum of (|A| - sqrt n)^2 over all pixels.

    waves: viewed as float32, (frames, modes, N, 2 N). counts: (any, N, N), of which `rows` belong to the block.
    Gaussian noise of the amplitude: f = sqrt(n)/|A| - 1. Poisson noise: f = (n/(|A|^2 + floor) - 1)/2, the gradient of
    the log-likelihood over its curvature where it fits. A pixel that is masked or saturated has f = 0.
    line: (2, N) float32, workspace.
    """
    modes, size = waves.shape[1], counts.shape[1]
    total = 0.0
    q, n = line[0], line[1]
    for b in range(len(rows)):
        for y in range(size):
            c = counts[rows[b], y]
            w = valid[y]
            for x in range(size):
                q[x] = floor
                n[x] = np.float32(c[x])
            for m in range(modes):
                a = waves[b, m, y]
                for x in range(size):
                    q[x] += (a[2 * x] * a[2 * x] + a[2 * x + 1] * a[2 * x + 1]) * scale
            total += weights(q, n, w, size, saturation, scale, poisson)
            for m in range(modes):
                a = waves[b, m, y]
                for x in range(size):
                    a[2 * x] *= q[x]
                    a[2 * x + 1] *= q[x]
    return total


@njit(inline="always", **_FAST)
def accumulate(obj, bank, corners, bins, frames, chi, num, den, pnum, with_probe):
    """Add each frame's share: num += conj(P) chi, den += |P|^2 on the canvas; pnum += conj(O) chi.

    obj, bank, num (2, H, W) and pnum (bins, modes, 2, N, N) are planes, chi is viewed as float32.
    """
    modes, n, width = bank.shape[1], _U(bank.shape[3]), _U(obj.shape[2])
    o0, o1 = obj[0].ravel(), obj[1].ravel()
    s0, s1, d = num[0].ravel(), num[1].ravel(), den.ravel()
    for b in range(len(frames)):
        j = frames[b]
        first, k = _U(corners[j, 0]) * width + _U(corners[j, 1]), bins[j]
        for m in range(modes):
            p0, p1, t = bank[k, m, 0].ravel(), bank[k, m, 1].ravel(), chi[b, m].ravel()
            q0, q1 = pnum[k, m, 0].ravel(), pnum[k, m, 1].ravel()
            for y in range(n):
                at, own = first + y * width, y * n
                if with_probe:
                    for x in range(n):
                        re, im = t[_TWO * (own + x)], t[_TWO * (own + x) + _LAST]
                        d[at + x] += p0[own + x] * p0[own + x] + p1[own + x] * p1[own + x]
                        s0[at + x] += p0[own + x] * re + p1[own + x] * im
                        s1[at + x] += p0[own + x] * im - p1[own + x] * re
                        q0[own + x] += o0[at + x] * re + o1[at + x] * im
                        q1[own + x] += o0[at + x] * im - o1[at + x] * re
                else:
                    for x in range(n):
                        re, im = t[_TWO * (own + x)], t[_TWO * (own + x) + _LAST]
                        d[at + x] += p0[own + x] * p0[own + x] + p1[own + x] * p1[own + x]
                        s0[at + x] += p0[own + x] * re + p1[own + x] * im
                        s1[at + x] += p0[own + x] * im - p1[own + x] * re


@njit(inline="always", **_FAST)
def probe_weights(obj, corners, frames, pden):
    """pden += |O|^2 of each frame; obj in planes. It only scales the probe's steps, and is much the same from frame to
    frame: every fourth one stands for four."""
    n, width = _U(len(pden)), _U(obj.shape[2])
    o0, o1, e = obj[0].ravel(), obj[1].ravel(), pden.ravel()
    for b in range(0, len(frames), 4):
        j = frames[b]
        first, share = _U(corners[j, 0]) * width + _U(corners[j, 1]), np.float32(min(4, len(frames) - b))
        for y in range(n):
            at, own = first + y * width, y * n
            for x in range(n):
                e[own + x] += share * (o0[at + x] * o0[at + x] + o1[at + x] * o1[at + x])


@njit(inline="always", **_FAST)
def displacement(obj, bank, corners, bins, frames, chi, out):
    """Normal equations of each frame's displacement, out[j] = (g_y, g_x, h_yy, h_xx, h_yx).

    d psi / d position = P grad O, with central differences; windows need one pixel of canvas around them. Planes, and
    chi viewed as float32.
    """
    modes, size = bank.shape[1], bank.shape[3]
    for b in range(len(frames)):
        j = frames[b]
        row, col, k = corners[j, 0], corners[j, 1], bins[j]
        gy, gx, hyy, hxx, hyx = 0.0, 0.0, 0.0, 0.0, 0.0
        for m in range(modes):
            for y in range(size):
                above0, above1 = obj[0, row + y - 1, col : col + size], obj[1, row + y - 1, col : col + size]
                below0, below1 = obj[0, row + y + 1, col : col + size], obj[1, row + y + 1, col : col + size]
                here0, here1 = obj[0, row + y, col - 1 : col + size + 1], obj[1, row + y, col - 1 : col + size + 1]
                p0, p1, t = bank[k, m, 0, y], bank[k, m, 1, y], chi[b, m, y]
                s0, s1, s2, s3, s4 = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for x in range(size):
                    dr, di = below0[x] - above0[x], below1[x] - above1[x]
                    er, ei = here0[x + 2] - here0[x], here1[x + 2] - here1[x]
                    yr, yi = p0[x] * dr - p1[x] * di, p0[x] * di + p1[x] * dr
                    xr, xi = p0[x] * er - p1[x] * ei, p0[x] * ei + p1[x] * er
                    s0 += yr * t[2 * x] + yi * t[2 * x + 1]
                    s1 += xr * t[2 * x] + xi * t[2 * x + 1]
                    s2 += yr * yr + yi * yi
                    s3 += xr * xr + xi * xi
                    s4 += yr * xr + yi * xi
                gy += s0
                gx += s1
                hyy += s2
                hxx += s3
                hyx += s4
        out[j, 0] = 0.5 * gy
        out[j, 1] = 0.5 * gx
        out[j, 2] = 0.25 * hyy
        out[j, 3] = 0.25 * hxx
        out[j, 4] = 0.25 * hyx


@njit(**_FAST)
def step_lengths(obj, bank, corners, bins, frames, chi, d_obj, d_bank, out):
    """Normal equations of the two step lengths of LSQ-ML for a block, added to `out` (5,).

    With u = dO P and v = dP O: out += (Re<u, chi>, Re<v, chi>, <u, u>, <v, v>, Re<u, v>), summed over frames.
    """
    modes, size = bank.shape[1], bank.shape[2]
    for b in range(len(frames)):
        j = frames[b]
        row, col, k = corners[j, 0], corners[j, 1], bins[j]
        for m in range(modes):
            for y in range(size):
                o = obj[row + y, col : col + size]
                e = d_obj[row + y, col : col + size]
                p = bank[k, m, y]
                f = d_bank[k, m, y]
                t = chi[b, m, y]
                s0, s1, s2, s3, s4 = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for x in range(size):
                    u = e[x] * p[x]
                    v = f[x] * o[x]
                    s0 += u.real * t[x].real + u.imag * t[x].imag
                    s1 += v.real * t[x].real + v.imag * t[x].imag
                    s2 += u.real * u.real + u.imag * u.imag
                    s3 += v.real * v.real + v.imag * v.imag
                    s4 += u.real * v.real + u.imag * v.imag
                out[0] += s0
                out[1] += s1
                out[2] += s2
                out[3] += s3
                out[4] += s4


@njit(**_FAST)
def merge(num, den, first, last):
    """Add the lanes' rows from first to before last to the first lane's, and clear those; the most there is in den.

    num: planes (lanes, 2, H, W). den: (lanes, H, W).
    """
    lanes, width = len(den), den.shape[2]
    most = np.float32(0)
    for y in range(first, last):
        re, im, d = num[0, 0, y], num[0, 1, y], den[0, y]
        for lane in range(1, lanes):
            re1, im1, d1 = num[lane, 0, y], num[lane, 1, y], den[lane, y]
            for x in range(width):
                re[x] += re1[x]
                im[x] += im1[x]
                d[x] += d1[x]
                re1[x] = 0
                im1[x] = 0
                d1[x] = 0
        for x in range(width):
            most = max(most, d[x])
    return most


@njit(**_FAST)
def update_object(obj, velocity, num, den, step, damping, momentum, peak, smooth, force, gather, first, last, ends):
    """velocity <- momentum velocity + step D^-1 num; obj <- obj + velocity; the sums are cleared for the next batch.

    In rows from first to before last. num: planes (2, H, W). den: (H, W). D = (1 - damping) den + damping peak
    + 8 smooth, the diagonal of the normal equations; `smooth` adds the gradient of a quadratic smoothness prior, smooth
    times the Laplacian of obj, where frames fall. gather: whether force (H, W) += Im(conj(obj) num), what pulls at each
    pixel's phase. ends: (2, W) complex64, the rows above and below as they were.
    """
    width = den.shape[1]
    above = ends[0]
    for y in range(first, last):
        here = obj[y].copy()
        below = ends[1] if y + 1 == last else obj[y + 1]
        v, o = velocity[y], obj[y]
        re, im, d = num[0, y], num[1, y], den[y]
        if gather:
            f = force[y]
            for x in range(width):
                f[x] += o[x].real * im[x] - o[x].imag * re[x]
        if smooth > 0:
            for x in range(width):
                if d[x] > 0:
                    around = above[x] + below[x] + here[max(x - 1, 0)] + here[min(x + 1, width - 1)]
                    bent = smooth * (around - np.float32(4) * here[x])
                    re[x] += bent.real
                    im[x] += bent.imag
        for x in range(width):
            h = step / ((_ONE - damping) * d[x] + damping * peak + np.float32(8) * smooth + _TINY)
            v[x] = momentum * v[x] + h * complex(re[x], im[x])
            o[x] += v[x]
            re[x] = 0
            im[x] = 0
            d[x] = 0
        above = here


@njit(**_FAST)
def turn(obj, velocity, phase):
    """obj and velocity (H, W) times exp(i phase)."""
    for y in range(obj.shape[0]):
        o, v, p = obj[y], velocity[y], phase[y]
        for x in range(obj.shape[1]):
            by = complex(np.cos(p[x]), np.sin(p[x]))
            o[x] *= by
            v[x] *= by


@njit(**_FAST)
def accumulate_probe(obj, corners, bins, frames, psi, pnum, pden):
    """Add each frame's share of the probe alone: pnum += conj(O) psi, pden += |O|^2; planes but for psi, float32."""
    modes, size = psi.shape[1], psi.shape[2]
    for b in range(len(frames)):
        j = frames[b]
        row, col, k = corners[j, 0], corners[j, 1], bins[j]
        for y in range(size):
            o0, o1 = obj[0, row + y, col : col + size], obj[1, row + y, col : col + size]
            e = pden[y]
            for x in range(size):
                e[x] += o0[x] * o0[x] + o1[x] * o1[x]
            for m in range(modes):
                t = psi[b, m, y]
                q0, q1 = pnum[k, m, 0, y], pnum[k, m, 1, y]
                for x in range(size):
                    re, im = t[2 * x], t[2 * x + 1]
                    q0[x] += o0[x] * re + o1[x] * im
                    q1[x] += o0[x] * im - o1[x] * re


@njit(**_FAST)
def direction_waves(obj, bank, corners, bins, frames, d_obj, d_bank, out):
    """out = P dO + dP O for each frame of the block: the derivative of its exit waves along a direction."""
    modes, size = bank.shape[1], bank.shape[2]
    for b in range(len(frames)):
        j = frames[b]
        row, col, k = corners[j, 0], corners[j, 1], bins[j]
        for m in range(modes):
            for y in range(size):
                o = obj[row + y, col : col + size]
                e = d_obj[row + y, col : col + size]
                p = bank[k, m, y]
                f = d_bank[k, m, y]
                t = out[b, m, y]
                for x in range(size):
                    t[x] = p[x] * e[x] + f[x] * o[x]


@njit(**_FAST)
def line_terms(waves, along, counts, rows, valid, saturation, scale, poisson, floor):
    """First and second derivative of the negative log-likelihood along a direction, at its start.

    waves, along: (frames, modes, N, 2 N) float32 views at the detector. Intensity I + a1 t + a2 t^2, a1 = 2 Re(A* D),
    a2 = |D|^2. Poisson: sum (I - n log I). Gaussian: 2 sum (sqrt I - sqrt n)^2, whose curvature is the same at the fit.
    """
    modes, size = waves.shape[1], counts.shape[1]
    first, second = 0.0, 0.0
    for b in range(len(rows)):
        for y in range(size):
            s1, s2 = np.float32(0), np.float32(0)
            for x in range(size):
                q, a1, a2 = floor, np.float32(0), np.float32(0)
                for m in range(modes):
                    ar, ai = waves[b, m, y, 2 * x], waves[b, m, y, 2 * x + 1]
                    dr, di = along[b, m, y, 2 * x], along[b, m, y, 2 * x + 1]
                    q += (ar * ar + ai * ai) * scale
                    a1 += np.float32(2) * (ar * dr + ai * di) * scale
                    a2 += (dr * dr + di * di) * scale
                n = np.float32(counts[rows[b], y, x])
                keep = valid[y, x] if n < saturation else np.float32(0)
                if poisson:
                    r = n / q
                    s1 += keep * (_ONE - r) * a1
                    s2 += keep * ((_ONE - r) * np.float32(2) * a2 + r * a1 * a1 / q)
                else:
                    r = np.sqrt(n / q)
                    s1 += keep * np.float32(2) * (_ONE - r) * a1
                    s2 += keep * (np.float32(4) * (_ONE - r) * a2 + r * a1 * a1 / q)
            first += s1
            second += s2
    return first, second
