"""The long waves of the object's phase, which overlaps alone find late.

A frame does not see the phase under its beam, only how it slopes and bends there, and the beam's own focus hides most
of that. What is as long as a scan is therefore flat in the likelihood: steps divided by the diagonal of the normal
equations need some (length / beam width)^2 of them. Here the phase is turned by a field on a coarse grid, found by a
Gauss-Newton step with the normal equations as they are: each frame's share is a quadratic form in the slope and bend of
the field at its beam. The grid is that of a two-level method (Briggs, Henson & McCormick, A Multigrid Tutorial, ch. 3).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2
from scipy.sparse import csr_array, diags_array, eye_array, kron
from scipy.sparse.linalg import spsolve

from beamside.ptycho.workshop import Frames, Workshop

Real = NDArray[np.float64]
NODES_APART = 4.0
"""Of the grid, in standard deviations of the beam's light across."""
_STENCIL = 1.2
"""Standard deviations of the beam's light from its centre, where a field is looked at for its slope and bend."""
_SHARE = 0.5
"""Of the Gauss-Newton step: within a pass the minibatches have found some of it themselves."""
_LEAST_FRAMES, _LEAST_NODES = 50, 4
_SAMPLE = 8
"""Frames whose normal equations stand for all."""
_FAINT = 0.3
"""Amplitude, in square roots of counts, below which a detector pixel says nothing of a phase."""
_RIDGE, _KNOWN = 1e-3, 1e-2
"""Stiffness of the grid itself, which draws nodes that no beam reaches along with their neighbours, and that of a node
which beams reach; both relative to the stiffest node."""
_LONGEST_MOVE_PX = 1.0
"""Of a frame's pattern on the detector, in one step: beyond, the expansion does not hold."""


def unbend(shop: Workshop, frames: Frames, force: Real) -> None:
    """Turn the object's phase by what the force (H, W) of a pass over `frames` says of its long waves.

    Nothing in the near field, where an image sees a phase's bend by itself; nor of a scan that is hardly broader than
    the beam.
    """
    if shop.detector.transfer is not None or len(frames) < _LEAST_FRAMES:
        return
    field = step_rad(shop, frames, force)
    if field is not None:
        shop.turn(field)


def step_rad(shop: Workshop, frames: Frames, force: Real) -> NDArray[np.float32] | None:
    """(H, W) the field of phases in radians; None where the scan is too narrow or the beam is nothing."""
    centre, width = beam(shop.probe)
    first, last = shop.corners[frames].min(0), shop.corners[frames].max(0)
    apart = np.maximum(NODES_APART * width, 2.0)
    if not (width > 0).all() or (last - first < (_LEAST_NODES - 1) * apart).any():
        return None
    # The grid lies on the frames, not on the canvas, which may have room to spare.
    reach = last - first + shop.size
    height, breadth = (int(v) + 1 for v in np.ceil(reach / apart))
    shape = (height, breadth)
    metric = mean_metric(shop, frames, centre)
    normal = normal_matrix(shop.corners[frames] - first + centre, width * _STENCIL, apart, shape, metric)
    rows, cols = (weights(np.arange(n, dtype=np.float64), a, k) for n, a, k in zip(reach, apart, shape, strict=True))
    seen = force[first[0] : first[0] + reach[0], first[1] : first[1] + reach[1]]
    pull = np.asarray(rows.T @ np.asarray(cols.T @ seen.T).T)
    nodes = _solved(normal, pull)
    if not np.isfinite(nodes).all():
        return None
    nodes = _limited(nodes, apart, shop.size)
    sides = zip(shop.canvas.shape, first, apart, shape, strict=True)
    rows, cols = (weights(np.arange(n, dtype=np.float64) - f, a, k) for n, f, a, k in sides)
    return np.asarray(rows @ np.asarray(cols @ nodes.T).T, np.float32)


def _solved(normal: csr_array, pull: Real) -> Real:
    """The share of the Gauss-Newton step that is taken, at the nodes; its mean is 0.

    NaN where an object has run away.
    """
    held = normal.diagonal()
    most = float(held.max())
    if not (np.isfinite(normal.data).all() and np.isfinite(pull).all() and most > 0):
        return np.full(pull.shape, np.nan)
    known = np.where(held < _KNOWN * most, 0.0, pull.ravel())
    stiff = normal + _RIDGE * most * _grid_laplacian(pull.shape)
    nodes = _SHARE * spsolve(stiff.tocsc(), known - known.mean()).reshape(pull.shape)
    return np.asarray(nodes - nodes.mean())


def _limited(nodes: Real, apart: Real, size: int) -> Real:
    """No steeper than moves a pattern by the longest move."""
    steepest = max(float(np.abs(np.diff(nodes, axis=d)).max()) / float(apart[d]) for d in (0, 1))
    return nodes * min(1.0, _LONGEST_MOVE_PX * 2 * np.pi / size / max(steepest, 1e-30))


def beam(probe: NDArray[np.complex64]) -> tuple[Real, Real]:
    """Centre (y, x) and standard deviation (y, x) of the light of modes (m, N, N), in pixels."""
    light = (np.abs(probe.astype(np.complex128)) ** 2).sum(0)
    k, total = np.arange(len(light)), max(float(light.sum()), 1e-30)
    sums = (light.sum(1), light.sum(0))
    centre = np.array([(s * k).sum() / total for s in sums])
    return centre, np.array([np.sqrt((s * (k - c) ** 2).sum() / total) for s, c in zip(sums, centre, strict=True)])


def weights(at: Real, apart: float, nodes: int) -> csr_array:
    """(n, nodes) linear interpolation at places along an axis, from nodes at 0, apart, 2 apart, ..."""
    first = np.clip(np.floor(at / apart).astype(np.int64), 0, nodes - 2)
    rest = np.clip(at / apart - first, 0.0, 1.0)
    index, value = np.stack([first, first + 1], 1), np.stack([1 - rest, rest], 1)
    return csr_array((value.ravel(), index.ravel(), np.arange(0, 2 * len(at) + 1, 2)), shape=(len(at), nodes))


@lru_cache(maxsize=4)
def _grid_laplacian(shape: tuple[int, ...]) -> csr_array:
    """Of differences between neighbours, and a trace of the identity, since a constant phase is free."""

    def chain(n: int) -> csr_array:
        step = diags_array([np.full(n - 1, -1.0), np.full(n - 1, 1.0)], offsets=[0, 1], shape=(n - 1, n))
        return csr_array(step.T @ step)

    rows, cols = shape
    return csr_array(
        kron(chain(rows), eye_array(cols)) + kron(eye_array(rows), chain(cols)) + 1e-6 * eye_array(rows * cols)
    )


def normal_matrix(centres: Real, reach: Real, apart: Real, shape: tuple[int, int], metric: Real) -> csr_array:
    """(nodes, nodes) the frames' normal equations of a field on the grid, beams' centres (n, 2).

    metric: (5, 5) of a frame, in slope y, slope x, bend yy, xx and yx. Those are central differences over `reach`
    pixels (y, x), about the beam's own extent: a form in the field at nine places, which lie in two cells at most each
    way, so that each frame speaks of three nodes by three.
    """
    (y0, y), (x0, x) = (_nearby(centres[:, d], float(reach[d]), float(apart[d]), shape[d]) for d in (0, 1))
    seen = (y[:, :, None, :, None] * x[:, None, :, None, :]).reshape(-1, 9, 9)
    slopes = _differences(float(reach[0]), float(reach[1]))
    shares = seen.transpose(0, 2, 1) @ ((slopes.T @ metric @ slopes) @ seen)
    # Frames that speak of the same nodes are many: added up before they are put in their place.
    cells, which = np.unique(y0 * shape[1] + x0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    sums = np.add.reduceat(shares[order], np.searchsorted(which[order], np.arange(len(cells))), axis=0)
    nodes = cells[:, None] + (np.arange(3)[:, None] * shape[1] + np.arange(3)).ravel()
    rows, cols = np.broadcast_arrays(nodes[:, :, None], nodes[:, None, :])
    count = shape[0] * shape[1]
    return csr_array((sums.ravel(), (rows.ravel(), cols.ravel())), shape=(count, count))


def _nearby(at: Real, reach: float, apart: float, nodes: int) -> tuple[NDArray[np.int64], Real]:
    """The first of three nodes, and the shares (n, 3, 3) that they have of a field at, before and behind each place."""
    places = (at[:, None] + reach * np.arange(-1, 2)) / apart
    before = np.clip(np.floor(places).astype(np.int64), 0, nodes - 2)
    first = np.minimum(before[:, 0], nodes - 3)
    part, index = np.clip(places - before, 0.0, 1.0), (before - first[:, None])[:, :, None]
    here = np.arange(3) == index
    return first, np.where(here, 1 - part[:, :, None], np.where(np.arange(3) == index + 1, part[:, :, None], 0.0))


def _differences(y: float, x: float) -> Real:
    """(5, 9) slope y, slope x, bend yy, xx and yx from a field at three rows, y apart, of three places, x apart."""
    value, slope, bend = np.array([0.0, 1, 0]), np.array([-0.5, 0, 0.5]), np.array([1.0, -2, 1])
    pairs = [
        (slope / y, value), (value, slope / x), (bend / y**2, value), (value, bend / x**2), (slope / y, slope / x),
    ]  # fmt: skip
    return np.stack([np.outer(a, b).ravel() for a, b in pairs])


def mean_metric(shop: Workshop, frames: Frames, centre: Real) -> Real:
    """(5, 5) mean over some frames of sum d|A| d|A|', per unit of the phases y, x, y^2/2, x^2/2 and yx about `centre`.

    Half the curvature of sum (|A| - sqrt n)^2; of Poisson noise in the scaling of `kernels.residual_waves` as well.
    """
    y, x = (np.arange(shop.size)[:, None] - centre[0]), (np.arange(shop.size)[None] - centre[1])
    fields = np.stack(np.broadcast_arrays(np.ones(()), y, x, y**2 / 2, x**2 / 2, y * x))
    phases = np.ascontiguousarray(fields[:, None], np.float32)
    chosen = frames[np.linspace(0, len(frames) - 1, min(_SAMPLE, len(frames))).astype(int)]
    found = np.zeros((5, 5))
    for frame in chosen.tolist():
        waves = fft2(phases * shop.exit_wave(frame), norm="ortho")
        wave, along = waves[0], waves[1:]
        share = shop.detector.valid / np.maximum(np.sqrt((wave.real**2 + wave.imag**2).sum(0)), _FAINT)
        # |A| changes by Re(conj(A) i F[phase psi]) / |A|.
        change = ((wave.imag * along.real - wave.real * along.imag).sum(1) * share).reshape(5, -1)
        found += change @ change.T
    return found / len(chosen)
