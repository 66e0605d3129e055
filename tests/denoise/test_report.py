"""Figures of denoised micrographs: closed forms, and an independent scorer."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from beamside.denoise import report


def scene(seed: int = 0, shape: tuple[int, int] = (192, 224)) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(truth, noisy): smooth blobs on a ramp, and white noise."""
    rng = np.random.default_rng(seed)
    truth = 40 * gaussian_filter(rng.normal(size=shape), 5) + np.linspace(0, 8, shape[1])
    return truth, truth + rng.normal(0, 6, shape)


@pytest.fixture(scope="module")
def independent(shared: Path) -> ModuleType:
    """The benchmark's own metrics."""
    spec = importlib.util.spec_from_file_location("denoise_metrics", shared / "bench" / "denoise" / "metrics.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_those_of_the_independent_scorer(independent: ModuleType, seed: int) -> None:
    truth, noisy = scene(seed)
    image, px = 0.3 * gaussian_filter(noisy, 2) - 5, 1.3
    expected, got = independent.score(image, truth, px), report.fidelity(image, truth, px)
    assert got.snr_db == pytest.approx(expected["snr_db"], abs=1e-9)
    assert got.psnr_db == pytest.approx(expected["psnr_db"], abs=1e-9)
    assert got.gain == pytest.approx(expected["gain"], rel=1e-9)
    for band in ("200-40", "40-20", "20-10"):
        assert got.frc[band] == pytest.approx(expected[f"frc_{band.replace('-', '_')}"], abs=1e-12)
    flat = np.corrcoef(independent.flatten(image).ravel(), independent.flatten(truth).ravel())[0, 1]
    assert got.correlation == pytest.approx(flat, abs=1e-12)


@given(st.floats(0.1, 50) | st.floats(-50, -0.1), st.floats(-1e3, 1e3))
@settings(max_examples=20, deadline=None)
def test_gain_and_offset_are_free(gain: float, offset: float) -> None:
    truth, noisy = scene()
    one, other = (report.fidelity(i, truth, 1.3) for i in (noisy, gain * noisy + offset))
    assert other.snr_db == pytest.approx(one.snr_db, abs=1e-5)
    assert other.gain == pytest.approx(one.gain / gain, rel=1e-5)
    assert other.correlation == pytest.approx(np.sign(gain) * one.correlation, abs=1e-6)


def test_snr_of_a_known_mixture() -> None:
    """Signal s and noise n of equal power: the affine fit halves both, and leaves half of the signal's variance."""
    rng = np.random.default_rng(2)
    truth, noise = rng.normal(size=(512, 512)), rng.normal(size=(512, 512))
    got = report.fidelity(truth + noise, truth, 1.0)
    assert got.snr_db == pytest.approx(10 * np.log10(2), abs=0.03)
    assert got.gain == pytest.approx(0.5, abs=0.01) and got.correlation == pytest.approx(0.5**0.5, abs=0.01)
    # FRC of s + n against s in each ring: sqrt(S / (S + N)).
    assert report.ring_correlation(truth + noise, truth).mean() == pytest.approx(0.5**0.5, abs=0.02)


def test_a_background_is_taken_out() -> None:
    truth, _ = scene()
    y, x = np.mgrid[:192, :224] / 200
    ramp = 5 + 30 * y - 12 * x + 40 * y * x - 20 * x * x
    np.testing.assert_allclose(report.without_background(ramp), 0, atol=1e-9)
    difference = report.without_background(truth + ramp) - report.without_background(truth)
    np.testing.assert_allclose(difference, 0, atol=1e-9)


def test_bands() -> None:
    curve = np.linspace(1, 0, 100)
    means = report.band_means(curve, 1.3)
    assert means["200-40"] > means["40-20"] > means["20-10"]  # type: ignore[operator]
    assert report.band_means(curve, 0.0) == {"200-40": None, "40-20": None, "20-10": None}
    assert report.band_means(curve, 6.0)["20-10"] is not None and report.band_means(curve, 12.0)["20-10"] is None


def test_frc_of_equal_and_of_independent_images() -> None:
    truth, _ = scene()
    np.testing.assert_allclose(report.ring_correlation(truth, 3 * truth + 1), 1, atol=1e-9)
    rng = np.random.default_rng(0)
    noise = report.ring_correlation(rng.normal(size=(200, 200)), rng.normal(size=(200, 200)))
    assert abs(noise[20:].mean()) < 0.04


def test_the_best_blur_is_found() -> None:
    truth, noisy = scene()
    image, sigma = report.best_blur(noisy, truth)
    errors = {
        s: np.square(
            report.affine_fit(report.without_background(report.blurred(noisy, s)), report.without_background(truth))[0]
            - report.without_background(truth)
        ).mean()
        for s in report.SIGMAS_PX
    }
    assert sigma == min(errors, key=lambda s: errors[s])
    np.testing.assert_allclose(image, gaussian_filter(noisy, sigma, mode="mirror"), atol=0.05)


def test_halves_and_controls() -> None:
    """The truth itself as a model: its loss is the noise of a half alone, its halves agree wholly."""
    truth, _ = scene()
    rng = np.random.default_rng(5)
    halves = (truth + rng.normal(0, 6, truth.shape), truth + rng.normal(0, 6, truth.shape))
    found = report.between_halves((truth, truth), halves, 6.0, 2.0)
    assert found["model"]["partner_loss"] == pytest.approx(1.0, abs=0.02)
    assert found["model"]["correlation"] == pytest.approx(1.0)
    assert found["model"]["partner_loss"] < found["blur"]["partner_loss"] < found["nothing"]["partner_loss"]
    assert 0 < found["nothing"]["correlation"] < found["blur"]["correlation"] < 1


def test_brightness() -> None:
    _, noisy = scene()
    found = report.brightness(noisy - 0.32 * noisy.std(), noisy)
    assert found["offset_sd"] == pytest.approx(-0.32)
    assert found["output"][2] == pytest.approx(found["input"][2] - 0.32 * noisy.std())


def test_seams_show() -> None:
    truth, _ = scene()
    stepped = truth.copy()
    stepped[64:128] += 0.5 * truth.std()
    clean, seamed = report.seam(truth, truth, [64, 128]), report.seam(truth, stepped, [64, 128])
    assert clean["largest_difference_sd"] == 0 and clean["step_ratio"] == 1
    assert report.seam(truth, truth, [])["step_ratio"] == 1
    assert seamed["largest_difference_sd"] == pytest.approx(0.5) and seamed["step_ratio"] > 2


def test_patches_and_summary() -> None:
    truth, noisy = scene()
    spoiled = noisy.copy()
    spoiled[:24, :28] = np.random.default_rng(0).normal(size=(24, 28))
    assert report.patches(spoiled, truth)["lowest"] < 0.3 < report.patches(noisy, truth)["lowest"] + 0.3
    entries = [{"truth": report.against_truth(truth, image, truth, 2.0)} for image in (noisy, noisy[::-1])]
    run = report.over_run(entries)
    assert run["truth.nothing.snr_db"]["worst"] <= run["truth.nothing.snr_db"]["mean"]
    assert run["truth.model.frc 40-20 A"]["mean"] == pytest.approx(1)
