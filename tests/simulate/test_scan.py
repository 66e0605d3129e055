"""The simulated scan against sums written out by hand, Parseval, statistics of counts, and closed forms of optics."""

from __future__ import annotations

import json
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from beamside.errors import InputError, OptionError
from beamside.simulate.scan import Scan, ScanRecipe, angular_spectrum, heap, orthogonal_modes, pattern_px
from beamside.simulate.scan_files import truth_path, write_scan

SMALL = dict(frames=12, frame_px=32, step_px=4.0)


def probe_at(mode: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The band-limited probe between its pixels, by its Fourier sum, one term at a time."""
    size = mode.shape[0]
    terms = np.array([[np.sum(mode * np.exp(-2j * np.pi * (k * np.arange(size)[:, None] + m * np.arange(size)) / size))
                       for m in range(size)] for k in range(size)])  # fmt: skip
    k = np.array([k if k < size / 2 else k - size for k in range(size)])
    down, across = np.exp(2j * np.pi * np.outer(y, k) / size), np.exp(2j * np.pi * np.outer(x, k) / size)
    return down @ terms @ across.T / size**2


def test_mean_counts_are_the_defining_sum() -> None:
    """One far-field frame with two modes by a direct transform: no FFT, no shift theorem."""
    scan = Scan(ScanRecipe(frames=3, frame_px=16, step_px=3.0, modes=2, seed=4))
    size, row = 16, 1
    whole = np.floor(scan.positions_px[row]).astype(int)
    rest = scan.positions_px[row] - whole
    window = scan.object[whole[0] : whole[0] + size, whole[1] : whole[1] + size].astype(complex)
    place = np.arange(size)
    kernel = np.exp(-2j * np.pi * np.outer(place, place) / size)
    expected = np.zeros((size, size))
    for mode in scan.probe.astype(complex):
        wave = probe_at(mode, place - rest[0], place - rest[1]) * window
        expected += np.abs(kernel @ wave @ kernel.T / size) ** 2
    assert np.allclose(scan.mean_counts(np.array([row]))[0], expected, rtol=1e-3, atol=1e-6 * expected.max())


def test_photons_are_kept_but_for_absorption() -> None:
    for propagation in ("far", "near"):
        scan = Scan(ScanRecipe(**SMALL, propagation=propagation, photons=5e4))
        assert np.sum(np.abs(scan.probe.astype(complex)) ** 2) == pytest.approx(5e4, rel=1e-5)
        scan.object = np.ones_like(scan.object)
        assert np.allclose(scan.mean_counts(np.arange(12)).sum((1, 2)), 5e4, rtol=1e-4)


def test_a_shifted_beam_shows_the_same_frame_and_a_tilted_one_a_shifted_frame() -> None:
    scan = Scan(ScanRecipe(**SMALL))
    height, width = scan.object.shape
    scan.object = np.ones((height, width), np.complex64)
    flat = scan.mean_counts(np.arange(12))
    assert np.allclose(flat, flat[0], atol=1e-3 * flat.max())
    # A wedge that advances the phase by 2 pi 3/32 a row moves the pattern by +3 rows.
    scan.object = np.exp(2j * np.pi * 3 / 32 * np.arange(height))[:, None].astype(np.complex64) * np.ones((1, width))
    assert np.allclose(scan.mean_counts(np.arange(12)), np.roll(flat, 3, axis=1), atol=1e-3 * flat.max())


def test_counts_are_poisson_and_belong_to_seed_and_frame() -> None:
    recipe = ScanRecipe(frames=60, frame_px=32, step_px=0.001, jitter_px=0.0, photons=2e4, seed=3)
    scan = Scan(recipe)
    counts = np.fft.ifftshift(scan.frames(np.arange(60)), axes=(1, 2)).astype(float)
    mean = scan.mean_counts(np.array([0]))[0]
    bright = mean > 5
    assert bright.sum() > 50
    assert np.abs((counts.mean(0) - mean)[bright] / np.sqrt(mean[bright] / 60)).mean() < 1.0
    assert np.mean(counts.var(0)[bright] / mean[bright]) == pytest.approx(1, abs=0.1)
    assert np.array_equal(Scan(recipe).frames(np.array([7, 3])), scan.frames(np.arange(60))[[7, 3]])
    other = Scan(ScanRecipe(frames=60, frame_px=32, step_px=0.001, jitter_px=0.0, photons=2e4, seed=4))
    assert not np.array_equal(other.frames(np.array([0])), scan.frames(np.array([0])))


def test_fresnel_propagation_of_a_gaussian_beam_is_the_closed_form() -> None:
    """A Gaussian of waist w spreads as w sqrt(1 + (z/zR)^2), with zR = pi w^2 / wavelength."""
    size, pixel_m, wavelength_m, waist_m = 128, 1e-6, 1e-9, 8e-6
    z_m = 2 * np.pi * waist_m**2 / wavelength_m
    axis = (np.arange(size) - size // 2) * pixel_m
    square = axis[:, None] ** 2 + axis[None, :] ** 2
    wave = np.fft.ifft2(np.fft.fft2(np.exp(-square / waist_m**2)) * angular_spectrum(size, pixel_m, wavelength_m, z_m))
    expected = np.exp(-2 * square / (waist_m**2 * 5)) / 5
    assert np.allclose(np.abs(wave) ** 2, expected, atol=1e-4)
    # Going forward, a diverging wave's phase grows outwards: its front is late at the rim.
    assert np.angle(wave[64, 74] / wave[64, 64]) > 0


def test_a_diverging_beam_is_a_parallel_one_at_the_effective_distance() -> None:
    common = dict(frames=1, frame_px=64, propagation="near", detector_pixel_m=2e-6)
    diverging = Scan(ScanRecipe(**common, source_m=0.5, distance_m=1.5))
    assert diverging.recipe.pixel_m == pytest.approx(0.5e-6)
    parallel = Scan(ScanRecipe(**(common | dict(detector_pixel_m=0.5e-6)), distance_m=0.375))
    assert np.allclose(diverging.mean_counts(np.array([0])), parallel.mean_counts(np.array([0])))


def test_modes_are_orthogonal_and_patterns_are_what_they_say() -> None:
    scan = Scan(ScanRecipe(**SMALL, modes=4))
    flat = scan.probe.reshape(4, -1).astype(complex)
    gram = np.abs(flat.conj() @ flat.T)
    assert np.allclose(gram / gram[0, 0], np.diag([1, 0.3, 0.09, 0.027]), atol=1e-4)
    assert orthogonal_modes(np.eye(8, dtype=complex), 3).shape == (3, 8, 8)
    raster = pattern_px("raster", 9, 2.0)
    assert raster.tolist() == [[y, x] for y in (0, 2, 4) for x in (0, 2, 4)]
    for pattern in ("fermat", "spiral"):
        places = pattern_px(pattern, 400, 3.0)
        nearest = np.sort(np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)), axis=1)[:, 1]
        assert 2.0 < nearest[10:].mean() < 3.6, pattern
        assert np.pi * np.hypot(*places.T).max() ** 2 == pytest.approx(400 * 9, rel=0.15), pattern


def test_the_object_is_passive_and_has_contrast() -> None:
    made = heap(150, 170, np.random.default_rng(1))
    assert made.shape == (150, 170) and np.abs(made).max() <= 1 + 1e-6
    assert np.angle(made).std() > 0.1 and np.angle(made).max() <= 1e-6


def test_the_file_holds_the_scan_and_not_its_truth(tmp_path: Path) -> None:
    out = tmp_path / "scan.cxi"
    scan = Scan(ScanRecipe(**SMALL, lost=0.3, position_error_px=1.0, seed=2))
    write_scan(out, scan)
    assert 0 < scan.lost.sum() < 12
    with h5py.File(out) as file:
        names: list[str] = []
        file.visit(names.append)
        assert not any("truth" in name or "probe" in name or "object" in name for name in names)
        data = file["entry_1/data_1/data"]
        assert data.id.get_num_chunks() == 12 - scan.lost.sum()
        kept = np.flatnonzero(~scan.lost)
        assert np.array_equal(data[kept.tolist()], scan.frames(kept))
        translation = file["entry_1/sample_1/geometry_1/translation"][:]
        assert np.allclose(translation[:, 1::-1] / scan.recipe.pixel_m, scan.recorded_px)
    with np.load(truth_path(out)) as truth:
        assert np.array_equal(truth["object"], scan.object) and np.array_equal(truth["probe"], scan.probe)
        assert np.std(truth["recorded_px"] - truth["positions_px"]) == pytest.approx(1, abs=0.4)
        assert json.loads(str(truth["recipe"]))["frames"] == 12
    first = out.read_bytes(), truth_path(out).read_bytes()
    out.unlink()
    truth_path(out).unlink()
    time.sleep(1.1)  # HDF5 counts the time of day in seconds, where it notes it
    write_scan(out, Scan(scan.recipe))
    assert (out.read_bytes(), truth_path(out).read_bytes()) == first
    with pytest.raises(InputError, match="exists already"):
        write_scan(out, scan)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0}, {"frame_px": 15}, {"pattern": "heart"}, {"photons": 0}, {"jitter_px": -1}, {"modes": 0},
        {"lost": 1.0}, {"source_m": 1.0}, {"propagation": "near", "source_m": -1.0}, {"seed": -1},
        {"propagation": "near", "defocus_m": 1e-3},
    ],
)  # fmt: skip
def test_impossible_recipes_are_refused(wrong: dict) -> None:
    with pytest.raises(OptionError, match="simulate scan"):
        ScanRecipe(**wrong)


def test_the_options_change_the_scan() -> None:
    plain = Scan(ScanRecipe(**SMALL))
    for changed in (
        {"pattern": "spiral"}, {"step_px": 5.0}, {"jitter_px": 0.0}, {"photons": 10.0}, {"modes": 2},
        {"energy_keV": 5.0}, {"distance_m": 1.0}, {"detector_pixel_m": 1e-4}, {"defocus_m": 2e-3},
        {"propagation": "near"}, {"seed": 9},
    ):  # fmt: skip
        other = Scan(ScanRecipe(**(SMALL | changed)))
        assert not np.array_equal(other.frames(np.arange(2)), plain.frames(np.arange(2))), changed
