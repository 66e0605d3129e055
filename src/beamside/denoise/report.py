"""How good a denoised micrograph is: against its truth, against an independent half, and beside what costs nothing.

An affine fit comes first, since a denoiser's gain and offset are not held against it; and a quadratic background is
taken out of both images, since a ramp is easy to keep and nobody's interest. Every figure of a model stands beside
that of the best Gaussian blur and of doing nothing: odd and even halves that correlate by 0.88 prove little when a blur
reaches 0.79.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beamside.denoise.blur import gaussian_blur

Image = NDArray[Any]
BANDS_A = ((200.0, 40.0), (40.0, 20.0), (20.0, 10.0))
SIGMAS_PX = tuple(0.5 * 2 ** (step / 4) for step in range(21))
"""Blurs that are tried, 0.5 to 16 pixels."""
PATCHES = 8
_EVERY = 7
_PEAK_PERCENT = (0.1, 99.9)


@dataclass(frozen=True)
class Fidelity:
    """Of an image against a reference, after the affine fit gain x image + offset.

    mse: in squared units of the reference. psnr_db: its peak is from percentile 0.1 to 99.9 of the reference. snr_db:
    variance of the reference over mse. frc: by band in Angstrom; None where a band holds no ring.
    """

    mse: float
    snr_db: float
    psnr_db: float
    correlation: float
    gain: float
    frc: Mapping[str, float | None]


def without_background(image: Image) -> NDArray[np.float64]:
    """`image` (H, W) less its least-squares quadratic surface."""
    height, width = image.shape
    y, x = np.arange(height) / height - 0.5, np.arange(width) / width - 0.5
    flat = np.asarray(image, dtype=np.float64).reshape(-1)
    sample = np.arange(0, flat.size, _EVERY)
    v, u = y[sample // width], x[sample % width]
    terms = np.stack([np.ones_like(v), v, u, v * v, u * u, v * u], axis=-1)
    c = np.linalg.lstsq(terms, flat[sample], rcond=None)[0]
    rows = c[0] + c[1] * y + c[3] * y * y
    surface = rows[:, None] + (c[2] * x + c[4] * x * x)[None, :] + c[5] * y[:, None] * x[None, :]
    return np.asarray(flat.reshape(height, width) - surface)


def affine_fit(image: Image, reference: Image) -> tuple[NDArray[np.float64], float]:
    """gain x image + offset nearest to `reference` by least squares, and the gain; 0 for an image of one value."""
    centred = image - image.mean()
    square = float(np.square(centred).sum())
    gain = float((centred * (reference - reference.mean())).sum()) / square if square > 0 else 0.0
    return gain * centred + reference.mean(), gain


def ring_correlation(first: Image, second: Image) -> NDArray[np.float64]:
    """FRC of two images (H, W) under a Hann window, in min(H, W) // 2 rings of equal width up to Nyquist."""
    spectra = [np.fft.rfft2((i - i.mean()) * _window(i.shape)) for i in (first, second)]
    rings = min(first.shape) // 2
    ky, kx = np.fft.fftfreq(first.shape[0])[:, None], np.fft.rfftfreq(first.shape[1])[None, :]
    ring = np.minimum((np.hypot(ky, kx) * 2 * rings).astype(int), rings).ravel()

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(ring, values.ravel(), rings + 1)[:rings].astype(np.float64)

    cross = sums((spectra[0] * spectra[1].conj()).real)
    power = sums(np.abs(spectra[0]) ** 2) * sums(np.abs(spectra[1]) ** 2)
    return np.asarray(cross / np.sqrt(np.maximum(power, 1e-60)))


def _window(shape: Sequence[int]) -> NDArray[np.float64]:
    return np.hanning(shape[0])[:, None] * np.hanning(shape[1])[None, :]


def band_means(curve: NDArray[np.float64], pixel_size_A: float) -> dict[str, float | None]:
    """The mean of the rings in each of BANDS_A, called "200-40" and so on; None without rings or without pixel size."""
    if not pixel_size_A > 0:
        return {_name(band): None for band in BANDS_A}
    frequency = (np.arange(curve.size) + 0.5) / curve.size / 2 / pixel_size_A
    found: dict[str, float | None] = {}
    for coarse_A, fine_A in BANDS_A:
        inside = (frequency >= 1 / coarse_A) & (frequency < 1 / fine_A)
        found[_name((coarse_A, fine_A))] = float(curve[inside].mean()) if inside.any() else None
    return found


def _name(band: tuple[float, float]) -> str:
    return f"{band[0]:g}-{band[1]:g}"


def fidelity(image: Image, reference: Image, pixel_size_A: float) -> Fidelity:
    """Of `image` against `reference` (H, W)."""
    own, true = without_background(image), without_background(reference)
    fitted, gain = affine_fit(own, true)
    mse = float(np.square(fitted - true).mean())
    low, high = np.percentile(true, _PEAK_PERCENT)
    spread = float(own.std() * true.std())
    correlation = float(((own - own.mean()) * (true - true.mean())).mean()) / spread if spread > 0 else 0.0
    curve = ring_correlation(own, true)
    return Fidelity(
        mse=mse,
        snr_db=_decibel(float(true.var()), mse),
        psnr_db=_decibel(float(high - low) ** 2, mse),
        correlation=correlation,
        gain=gain,
        frc=band_means(curve, pixel_size_A),
    )


def _decibel(power: float, noise: float) -> float:
    return 10 * math.log10(max(power, 1e-300) / max(noise, 1e-300))


def blurred(image: Image, sigma_px: float) -> NDArray[np.float32]:
    """The control."""
    return np.asarray(gaussian_blur(torch.from_numpy(np.array(image, dtype=np.float32)), sigma_px).numpy())


def best_blur(image: Image, reference: Image) -> tuple[NDArray[np.float32], float]:
    """The Gaussian blur of `image` that is nearest to `reference` after an affine fit, and its sigma in pixels."""
    true = without_background(reference)
    found: list[tuple[float, float]] = []
    for sigma in SIGMAS_PX:
        fitted, _ = affine_fit(without_background(blurred(image, sigma)), true)
        found.append((float(np.square(fitted - true).mean()), sigma))
        if len(found) > 2 and found[-1][0] > found[-2][0] > found[-3][0]:
            break
    sigma = min(found)[1]
    return blurred(image, sigma), sigma


def partner_loss(image: Image, partner: Image, spread: float) -> float:
    """Mean squared difference to an independent half after an affine fit, in squared spreads of a half."""
    fitted, _ = affine_fit(np.asarray(image, dtype=np.float64), np.asarray(partner, dtype=np.float64))
    return float(np.square(fitted - partner).mean()) / spread**2


def against_truth(model: Image, image: Image, truth: Image, pixel_size_A: float) -> dict[str, Any]:
    """Model, best blur and doing nothing against the truth, as plain values."""
    blur, sigma = best_blur(image, truth)
    named = {"model": model, "blur": blur, "nothing": image}
    return {name: asdict(fidelity(each, truth, pixel_size_A)) for name, each in named.items()} | {
        "blur_sigma_px": sigma
    }


def between_halves(
    models: tuple[Image, Image], halves: tuple[Image, Image], spread: float, pixel_size_A: float
) -> dict[str, Any]:
    """Model, best blur and doing nothing by the two halves, each denoised alone: loss against the other half, FRC and
    correlation between the two results."""
    blurs, sigma = _blurred_halves(halves)
    found: dict[str, Any] = {"blur_sigma_px": sigma}
    for name, pair in (("model", models), ("blur", blurs), ("nothing", halves)):
        losses = [partner_loss(pair[0], halves[1], spread), partner_loss(pair[1], halves[0], spread)]
        flat = [without_background(image) for image in pair]
        found[name] = {
            "partner_loss": sum(losses) / 2,
            "correlation": float(np.corrcoef(flat[0].ravel(), flat[1].ravel())[0, 1]),
            "frc": band_means(ring_correlation(flat[0], flat[1]), pixel_size_A),
        }
    return found


def _blurred_halves(halves: tuple[Image, Image]) -> tuple[tuple[Image, Image], float]:
    first, sigma = best_blur(halves[0], halves[1])
    return (first, blurred(halves[1], sigma)), sigma


def brightness(model: Image, image: Image) -> dict[str, Any]:
    """Percentiles of input and output, and the shift of the mean, in standard deviations of the input."""
    percents = (1, 25, 50, 75, 99)
    finite = image[np.isfinite(image)]
    return {
        "percents": list(percents),
        "input": [float(v) for v in np.percentile(finite, percents)],
        "output": [float(v) for v in np.percentile(model, percents)],
        "offset_sd": float((model.mean() - finite.mean()) / finite.std()),
    }


def patches(model: Image, reference: Image) -> dict[str, float]:
    """Correlation of the output with an independent reference, patch by patch (8 x 8): lowest, median, highest."""
    found = []
    for rows in np.array_split(np.arange(model.shape[0]), PATCHES):
        for columns in np.array_split(np.arange(model.shape[1]), PATCHES):
            at = np.ix_(rows, columns)
            a, b = model[at].astype(np.float64).ravel(), reference[at].astype(np.float64).ravel()
            found.append(float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0)
    return {"lowest": min(found), "median": float(np.median(found)), "highest": max(found)}


def seam(whole: Image, tiled: Image, first_rows: Sequence[int]) -> dict[str, float]:
    """What tiles that begin at `first_rows` leave; without any seam 0 and 1.

    largest_difference_sd: to the whole, in its standard deviations. step_ratio: mean step from row to row across the
    borders of tiles over that in the same places of the whole.
    """
    at_border = np.isin(np.arange(1, tiled.shape[0]), first_rows)
    steps = [
        float(np.abs(np.diff(image.astype(np.float64), axis=0)).mean(1)[at_border].sum()) for image in (tiled, whole)
    ]
    return {
        "largest_difference_sd": float(np.abs(whole - tiled).max() / whole.std()),
        "step_ratio": steps[0] / steps[1] if steps[1] > 0 else 1.0,
    }


def lost_to_blur(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of micrographs on which the model is no better than the best blur: against the truth, against halves."""
    found: dict[str, list[str]] = {}
    for group, figure in (("truth", "mse"), ("halves", "partner_loss")):
        own = [entry for entry in entries if group in entry]
        lost = [entry["name"] for entry in own if entry[group]["model"][figure] >= entry[group]["blur"][figure]]
        if own:
            found[group] = lost
    return found


def over_run(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and worst of the figures of all micrographs."""
    found: dict[str, Any] = {}
    for group in ("truth", "halves"):
        own = [entry[group] for entry in entries if group in entry]
        for who in ("model", "blur", "nothing") if own else ():
            for figure, lowest_is_worst in (("snr_db", True), ("psnr_db", True), ("partner_loss", False)):
                values = [part[who][figure] for part in own if figure in part[who]]
                if values:
                    worst = min(values) if lowest_is_worst else max(values)
                    found[f"{group}.{who}.{figure}"] = {"mean": sum(values) / len(values), "worst": worst}
            for band in own[0][who]["frc"]:
                values = [part[who]["frc"][band] for part in own if part[who]["frc"][band] is not None]
                if values:
                    summary = {"mean": sum(values) / len(values), "worst": min(values)}
                    found[f"{group}.{who}.frc {band} A"] = summary
    return found
