"""Search directions from a workshop's sums, and the step lengths along them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho import kernels
from beamside.ptycho.workshop import Frames, Kept, Likelihood, Workshop

Field = NDArray[np.complex64]


def laplacian(obj: Field) -> Field:
    """(H, W) five-point Laplacian with mirrored borders."""
    padded = np.pad(obj, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.asarray(around - 4 * obj)


def gradients(shop: Workshop, smooth: float) -> tuple[Field, Field]:
    """Descent gradients of object (H, W) and probe (m, N, N), the smoothness prior included where frames fall."""
    num, den = shop.object_sums()
    if smooth > 0:
        num += np.float32(smooth * den.max()) * laplacian(shop.canvas.object) * (den > 0)
    return num, shop.probe_sums()[0]


def directions(shop: Workshop, damping: float, smooth: float, *, probe: bool) -> tuple[Field, Field]:
    """The gradients divided by the diagonal of the normal equations; zeros for a probe that stays."""
    g_obj, g_probe = gradients(shop, smooth)
    den = shop.den.sum(0)
    peak = float(den.max())
    d_obj = g_obj / ((1 - damping) * den + damping * peak + 8 * smooth * peak + 1e-9)
    if not probe:
        return d_obj.astype(np.complex64), np.zeros_like(shop.probe)
    pden = shop.probe_sums()[1]
    d_probe = g_probe / ((1 - damping) * pden + damping * pden.max() + 1e-9)
    return d_obj.astype(np.complex64), d_probe.astype(np.complex64)


def step_lengths(shop: Workshop, frames: Frames, kept: Kept, d_obj: Field, d_probe: Field) -> NDArray[np.float64]:
    """(5,) normal equations of the two lengths of LSQ-ML, see `kernels.step_lengths`.

    kept: the residuals that `Workshop.gradient` left of the same frames.
    """
    d_bank = shop.shifted(d_probe)

    def work(lane: int, block: Frames) -> NDArray[np.float64]:
        out = np.zeros(5)
        chi = kept[int(block[0])]
        kernels.step_lengths(
            shop.canvas.object, shop.bank, shop.corners, shop.bins, block, chi, d_obj, d_bank, out
        )  # fmt: skip
        return out

    return np.asarray(np.sum(shop.over_blocks(frames, work), axis=0))


def line_search(
    shop: Workshop, frames: Frames, noise: Likelihood, d_obj: Field, d_probe: Field, smooth_weight: float
) -> float:
    """Newton's step length along a direction, from the second-order expansion of likelihood and prior.

    smooth_weight: the prior's absolute weight.
    """
    d_bank = shop.shifted(d_probe)
    detector = shop.detector
    scale = np.float32(1.0 if detector.transfer is not None else 1.0 / shop.size**2)

    def work(lane: int, block: Frames) -> tuple[float, float]:
        waves = shop.to_detector(shop.exit_waves(lane, block), block)
        along = np.empty_like(waves)
        kernels.direction_waves(
            shop.canvas.object, shop.bank, shop.corners, shop.bins, block, d_obj, d_bank, along
        )  # fmt: skip
        counts, rows = shop.frames.block(block)
        first, second = kernels.line_terms(
            _real(waves), _real(shop.to_detector(along, block)), counts, rows, detector.valid,
            np.float32(detector.saturation), scale, noise.poisson, np.float32(noise.floor),
        )  # fmt: skip
        return first, second

    first, second = np.sum(shop.over_blocks(frames, work), axis=0)
    if smooth_weight > 0:
        bent = laplacian(d_obj)
        first -= 2 * smooth_weight * float(np.vdot(laplacian(shop.canvas.object), d_obj).real)
        second -= 2 * smooth_weight * float(np.vdot(bent, d_obj).real)
    return float(np.clip(-first / second, 0.0, 4.0)) if second > 0 else 1.0


def _real(waves: NDArray[np.complex64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(waves).view(np.float32)
