"""A frame's visit: from object and probe to the detector, through its residual and back, in a core's own cache.

Both directions of the transform run down columns, in strips whose vectors lie across them (`columns`). Between the two
the image is turned, in tiles of registers (`tiles`): rows of the exit wave become columns, strips of these are
transformed, turned back in the order of their frequencies, transformed along the other direction, weighed, and all of
it again in reverse. What the object is told is added up before the next frame comes.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from beamside.ptycho import columns, kernels, tiles
from beamside.ptycho.columns import WIDTH, backward, forward
from beamside.ptycho.kernels import accumulate, displacement, exit_waves, probe_weights
from beamside.ptycho.tiles import cross, lie, stand

_FAST: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy", "cache": True}
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)
_U, _TWO = np.uint64, np.uint64(2)
Real = NDArray[np.float32]


class Placed(NamedTuple):
    """Object (2, H, W) and bank (bins, modes, 2, N, N) in planes; corners (n, 2) and bins (n,) of the frames, int32."""

    obj: Real
    bank: Real
    corners: NDArray[np.int32]
    bins: NDArray[np.int32]


class Noise(NamedTuple):
    """What a residual takes from detector and likelihood: see `kernels.residual_waves`."""

    valid: Real
    saturation: np.float32
    scale: np.float32
    poisson: bool
    floor: np.float32


class Counts(NamedTuple):
    """(any, N, N) as uint16 or as float32, of which the other one is empty.

    One loop for both: compiled for each kind, it would end with other last bits for counts that are read from disk.
    """

    whole: NDArray[np.uint16]
    real: Real


class Plan(NamedTuple):
    """Of a size of frames: `columns.twiddles`; the frequency of each row of a transformed strip, and the row of each
    frequency; `columns.sized`."""

    turns: Real
    frequency: NDArray[np.int64]
    row: NDArray[np.int64]
    sized: tuple[int, ...]


class Bench(NamedTuple):
    """Workspace of a lane. wave: (1, modes, N, 2 N); across: (modes, strips, N x 2 columns) of the exit wave, turned;
    along: (modes, N x 2 columns) a strip of it the other way round; counts: (N, N); line: (N,)."""

    wave: Real
    across: Real
    along: Real
    counts: Real
    line: Real


class Sums(NamedTuple):
    """num (2, H, W), den (H, W), pnum (bins, modes, 2, N, N), pden (N, N) of `kernels.accumulate`."""

    num: Real
    den: Real
    pnum: Real
    pden: Real


def plan(size: int) -> Plan:
    """What frames of a size need, made once."""
    frequency = columns.order(size)
    return Plan(columns.twiddles(size), frequency, np.argsort(frequency), columns.sized(size))


def bench(wave: Real, modes: int, size: int) -> Bench:
    """Workspace around a wave that is at hand."""
    strips = size // WIDTH
    across = columns.strip(size, modes * strips).reshape(modes, strips, 2 * size * WIDTH)
    return Bench(wave, across, columns.strip(size, modes), columns.zeros(size, size), columns.zeros(size))


@njit(inline="always", **_FAST)
def _weigh(along, y, n, w, q, size, noise):
    """Row y of all modes' strips (modes, N x 2 columns) times its residual, for counts n where w is 1; the misfit."""
    # A length that the compiler knows makes it unroll these loops before it could make vectors of them.
    row = _U(along.shape[1] // size)
    part, at = row // _TWO, _U(y) * row
    scale = noise.scale
    for x in range(part):
        q[x] = noise.floor
    for m in range(len(along)):
        strip = along[m]
        for x in range(part):
            re, im = strip[at + x], strip[at + part + x]
            q[x] += (re * re + im * im) * scale
    misfit = _ZERO
    if noise.poisson:
        for x in range(part):
            keep = w[x] if n[x] < noise.saturation else _ZERO
            r = n[x] / q[x]
            f = np.sqrt(r) - _ONE
            misfit += keep * q[x] * f * f
            q[x] = keep * scale * _HALF * (r - _ONE)
    else:
        for x in range(part):
            keep = w[x] if n[x] < noise.saturation else _ZERO
            f = np.sqrt(n[x] / q[x]) - _ONE
            misfit += keep * q[x] * f * f
            q[x] = keep * scale * f
    for m in range(len(along)):
        strip = along[m]
        for x in range(part):
            strip[at + x] *= q[x]
            strip[at + part + x] *= q[x]
    return misfit


@njit(**_FAST)
def _fetch(counts, row, out):
    """Counts come from far away, and are fetched row after row before they are wanted in another order."""
    for y in range(len(out)):
        d = out[y]
        if len(counts.whole):
            c = counts.whole[row, y]
            for x in range(len(d)):
                d[x] = np.float32(c[x])
        else:
            d[:] = counts.real[row, y]


@njit(**_FAST)
def _visited(waves, noise, plan, bench):
    """One frame's waves (modes, N, 2 N) replaced by their residual at the sample, for `bench.counts`; the misfit."""
    size, sized = 1 << len(plan.sized), plan.sized
    modes = len(waves)
    for m in range(modes):
        stand(waves[m].ravel(), bench.across[m], sized)
        forward(bench.across[m], plan.turns, sized)
    misfit = 0.0
    for first in range(0, size, WIDTH):
        for m in range(modes):
            cross(bench.across[m], first, bench.along[m], plan.row, sized, False)
        forward(bench.along, plan.turns, sized)
        for y in range(size):
            k = plan.frequency[y]
            n, w = bench.counts[k, first : first + WIDTH], noise.valid[k, first : first + WIDTH]
            misfit += _weigh(bench.along, y, n, w, bench.line, size, noise)
        backward(bench.along, plan.turns, sized)
        for m in range(modes):
            cross(bench.across[m], first, bench.along[m], plan.row, sized, True)
    for m in range(modes):
        backward(bench.across[m], plan.turns, sized)
        lie(bench.across[m], waves[m].ravel(), sized)
    return misfit


def _compiled(sources: int) -> tuple[Any, Any]:
    """The two loops over frames. sources: a number that changes with what they call in other files.

    What is compiled is kept on disk until its own file changes, or what it holds from outside: this number.
    """

    @njit(**_FAST)
    def residual(waves, counts, rows, noise, plan, bench):
        total = 0.0 * sources
        for b in range(len(rows)):
            _fetch(counts, rows[b], bench.counts)
            total += _visited(waves[b], noise, plan, bench)
        return total

    @njit(**_FAST)
    def gradient(placed, frames, counts, rows, noise, plan, bench, sums, with_probe, displaced, normal):
        total = 0.0 * sources
        obj, bank, corners, bins = placed
        for b in range(len(frames)):
            one = frames[b : b + 1]
            exit_waves(obj, bank, corners, bins, one, bench.wave)
            _fetch(counts, rows[b], bench.counts)
            total += _visited(bench.wave[0], noise, plan, bench)
            accumulate(obj, bank, corners, bins, one, bench.wave, sums.num, sums.den, sums.pnum, with_probe)
            if displaced:
                displacement(obj, bank, corners, bins, one, bench.wave, normal)
        if with_probe:
            probe_weights(obj, corners, frames, sums.pden)
        return total

    return residual, gradient


LOOPS = _compiled(zlib.crc32(b"".join(Path(str(m.__file__)).read_bytes() for m in (columns, kernels, tiles))))
"""Of `residual` and of `gradient`."""


def residual(
    waves: Real, counts: NDArray[Any], rows: NDArray[np.int64], noise: Noise, plan: Plan, bench: Bench
) -> float:
    """Exit waves (frames, modes, N, 2 N) replaced by what `kernels.residual_waves` leaves, back at the sample.

    counts: (any, N, N), of which `rows` belong to the frames. The 1/N^2 of the transform back is in `noise.scale`.
    """
    return float(LOOPS[0](waves, _of_a_kind(counts), rows, noise, plan, bench))


def gradient(
    placed: Placed, frames: NDArray[np.int64], counts: NDArray[Any], rows: NDArray[np.int64], noise: Noise, plan: Plan,
    bench: Bench, sums: Sums, *, probe: bool, normal: NDArray[np.float64] | None,
) -> float:  # fmt: skip
    """The misfit of frames, whose shares are added to the sums; probe: to those of the probe too.

    normal: (n, 5) takes the normal equations of each frame's displacement (`kernels.displacement`).
    """
    out = np.zeros((0, 5)) if normal is None else normal
    held = _of_a_kind(counts)
    return float(LOOPS[1](placed, frames, held, rows, noise, plan, bench, sums, probe, normal is not None, out))


def _of_a_kind(counts: NDArray[Any]) -> Counts:
    if counts.dtype == np.uint16:
        return Counts(counts, np.zeros((0, *counts.shape[1:]), np.float32))
    return Counts(np.zeros((0, *counts.shape[1:]), np.uint16), counts)
