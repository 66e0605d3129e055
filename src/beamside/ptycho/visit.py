"""A frame's visit: from object and probe to the detector, through its residual and back, in a core's own cache.

Both directions of the transform run down columns, in strips whose vectors lie across them (`columns`). Between the two
the image is turned, in tiles of registers (`tiles`): rows of the exit wave become columns, strips of these are
transformed, turned back in the order of their frequencies, transformed along the other direction, weighed, and all of
it again in reverse. What the object is told is added up before the next frame comes.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from beamside.ptycho import columns, kernels, tiles
from beamside.ptycho.columns import WIDTH, backward_stage, forward_stage, pairs_stage
from beamside.ptycho.kernels import accumulate, displacement, exit_waves, probe_weights, weights
from beamside.ptycho.tiles import cross, stand

_FAST: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy", "cache": True}
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
    """Workspace of a lane. wave: (1, modes, N, 2 N); across: (modes, strips, N x 2 columns) of it, turned; along:
    (modes, N x 2 columns) a strip of that, turned back; counts: (N, N); line: (N,)."""

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
    loop(size)  # not by several threads at a time
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
    misfit = weights(q, n, w, part, noise.saturation, scale, noise.poisson)
    for m in range(len(along)):
        strip = along[m]
        for x in range(part):
            strip[at + x] *= q[x]
            strip[at + part + x] *= q[x]
    return misfit


@njit(inline="always", **_FAST)
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


@njit(inline="always", **_FAST)
def _crossed(across, s, along, plan, back):
    """A strip the one way round from all of the other, or back."""
    for m in range(len(across)):
        cross(across[m], s * WIDTH, along[m], plan.row, plan.sized, back)


@njit(inline="always", **_FAST)
def _weighed(along, s, noise, plan, bench):
    """A transformed strip times its residual; the misfit."""
    size, first, misfit = len(bench.counts), s * WIDTH, 0.0
    for y in range(size):
        k = plan.frequency[y]
        n, w = bench.counts[k, first : first + WIDTH], noise.valid[k, first : first + WIDTH]
        misfit += _weigh(along, y, n, w, bench.line, size, noise)
    return misfit


@lru_cache
def loop(size: int) -> Any:
    """The loop over frames of a size.

    What is compiled is kept on disk until its own file changes, or what it holds from outside: a number that changes
    with the files that it calls. All that it calls is written into it. A compiled function that calls another brings a
    copy along, which is optimised once more, and is not the one that is used while both are new: a resumed run would
    end with other last bits. Both directions go through the same lines, because compiling takes long enough.
    """
    sources = zlib.crc32(b"".join(Path(str(m.__file__)).read_bytes() for m in (columns, kernels, tiles)))
    a0, l0, a1, l1, a2, l2, a3, l3, a4, l4, a5, l5 = columns.stages(size)
    pairs, strips = size.bit_length() % 2 == 0, size // WIDTH

    @njit(**_FAST)
    def visit(waves, placed, frames, counts, rows, noise, plan, bench, sums, with_probe, displaced, normal):
        total = 0.0 * sources
        obj, bank, corners, bins = placed
        turns, across, along, given = plan.turns, bench.across, bench.along, len(waves) > 0
        modes = len(across)
        for b in range(len(frames)):
            one, wave = frames[b : b + 1], waves[b : b + 1] if given else bench.wave
            if not given:
                exit_waves(obj, bank, corners, bins, one, wave)
            _fetch(counts, rows[b], bench.counts)
            for m in range(modes):
                stand(wave[0, m].ravel(), across[m], plan.sized, False)
            for step in range(3 * strips):
                # Strips across one way; those along there, weighed, and back; those across back.
                part, s = step // strips, step % strips
                if part == 1:
                    _crossed(across, s, along, plan, False)
                if part < 2:
                    for m in range(modes):
                        strip = along[m] if part else across[m, s]
                        forward_stage(strip, turns, a0, size, l0)
                        forward_stage(strip, turns, a1, size, l1)
                        forward_stage(strip, turns, a2, size, l2)
                        if l3:
                            forward_stage(strip, turns, a3, size, l3)
                        if l4:
                            forward_stage(strip, turns, a4, size, l4)
                        if l5:
                            forward_stage(strip, turns, a5, size, l5)
                        if pairs:
                            pairs_stage(strip, size)
                if part == 1:
                    total += _weighed(along, s, noise, plan, bench)
                if part:
                    for m in range(modes):
                        strip = along[m] if part == 1 else across[m, s]
                        if pairs:
                            pairs_stage(strip, size)
                        if l5:
                            backward_stage(strip, turns, a5, size, l5)
                        if l4:
                            backward_stage(strip, turns, a4, size, l4)
                        if l3:
                            backward_stage(strip, turns, a3, size, l3)
                        backward_stage(strip, turns, a2, size, l2)
                        backward_stage(strip, turns, a1, size, l1)
                        backward_stage(strip, turns, a0, size, l0)
                if part == 1:
                    _crossed(across, s, along, plan, True)
            for m in range(modes):
                stand(wave[0, m].ravel(), across[m], plan.sized, True)
            if not given:
                accumulate(obj, bank, corners, bins, one, wave, sums.num, sums.den, sums.pnum, with_probe)
            if displaced:
                displacement(obj, bank, corners, bins, one, wave, normal)
        if with_probe:
            probe_weights(obj, corners, frames, sums.pden)
        return total

    return visit


def residual(
    waves: Real, counts: NDArray[Any], rows: NDArray[np.int64], noise: Noise, plan: Plan, bench: Bench
) -> float:
    """Exit waves (frames, modes, N, 2 N) replaced by what `kernels.residual_waves` leaves, back at the sample.

    counts: (any, N, N), of which `rows` belong to the frames. The 1/N^2 of the transform back is in `noise.scale`.
    """
    shapes = (2, 0, 0), (0, waves.shape[1], 2, 0, 0), (0, 0), (0, waves.shape[1], 2, 0, 0)
    obj, bank, flat, pnum = (np.zeros(shape, np.float32) for shape in shapes)
    placed = Placed(obj, bank, np.zeros((0, 2), np.int32), np.zeros(0, np.int32))
    sums = Sums(obj, flat, pnum, flat)
    told = placed, rows, _of_a_kind(counts), rows, noise, plan, bench, sums, False, False, np.zeros((0, 5))
    return float(loop(waves.shape[2])(waves, *told))


def gradient(
    placed: Placed, frames: NDArray[np.int64], counts: NDArray[Any], rows: NDArray[np.int64], noise: Noise, plan: Plan,
    bench: Bench, sums: Sums, *, probe: bool, normal: NDArray[np.float64] | None,
) -> float:  # fmt: skip
    """The misfit of frames, whose shares are added to the sums; probe: to those of the probe too.

    normal: (n, 5) takes the normal equations of each frame's displacement (`kernels.displacement`).
    """
    out = np.zeros((0, 5)) if normal is None else normal
    told = placed, frames, _of_a_kind(counts), rows, noise, plan, bench, sums, probe, normal is not None, out
    return float(loop(len(bench.counts))(bench.wave[:0], *told))


def _of_a_kind(counts: NDArray[Any]) -> Counts:
    if counts.dtype == np.uint16:
        return Counts(counts, np.zeros((0, *counts.shape[1:]), np.float32))
    return Counts(np.zeros((0, *counts.shape[1:]), np.uint16), counts)
