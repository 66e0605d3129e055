"""The object's pixel, and free space against a direct integral and a beam that has a formula."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.optics.frames import pack_mask
from beamside.ptycho.optics import angular_spectrum, optics_of

FIELDS = {"frame_px": 64, "wavelength_m": 1.24e-10, "distance_m": 2.0, "detector_pixel_m": 75e-6}


def test_far_field_pixel() -> None:
    """A grating with as many lines as the window has pixels, twice as fine as Nyquist, diffracts past the edge."""
    optics = optics_of(FIELDS)
    edge_angle = 32 * 75e-6 / 2.0
    assert optics.pixel_m == pytest.approx(1.24e-10 / (2 * edge_angle), rel=1e-12)
    assert optics.detector.transfer is None and not optics.near and optics.magnification == 1.0


def gaussian(size: int, pixel_m: float, waist_m: float, wavelength_m: float, z_m: float) -> NDArray[np.complex128]:
    """A Gaussian beam z after its waist (Siegman, Lasers, ch. 17): width and curvature by formula, exp(+ikz)."""
    x = (np.arange(size) - size // 2) * pixel_m
    r2 = x[:, None] ** 2 + x[None] ** 2
    q0 = -1j * np.pi * waist_m**2 / wavelength_m
    return np.asarray(q0 / (q0 + z_m) * np.exp(1j * np.pi / wavelength_m * r2 / (q0 + z_m)))


@pytest.mark.parametrize("z_m", [0.02, 0.1, -0.1])
def test_a_gaussian_beam_spreads_as_its_formula_says(z_m: float) -> None:
    size, pixel_m, wavelength_m, waist_m = 128, 1e-6, 1.24e-10, 6e-6
    start = gaussian(size, pixel_m, waist_m, wavelength_m, 0.0)
    transfer = angular_spectrum(size, pixel_m, wavelength_m, z_m)
    found = np.fft.fftshift(np.fft.ifft2(np.fft.fft2(np.fft.ifftshift(start)) * transfer))
    wanted = gaussian(size, pixel_m, waist_m, wavelength_m, z_m)
    assert np.abs(found - wanted).max() < 2e-4 * np.abs(wanted).max()


def test_free_space_against_the_fresnel_integral() -> None:
    """A lump of odd shape, one dimension of it, by summing the Fresnel kernel over the aperture point by point."""
    size, pixel_m, wavelength_m, z_m = 256, 1e-6, 2e-10, 1.0
    x = (np.arange(size) - size // 2) * pixel_m
    lump = np.exp(-((x / 12e-6) ** 2)) * np.exp(1j * np.sin(x / 7e-6))
    kernel = np.exp(1j * np.pi * (x[:, None] - x[None]) ** 2 / (wavelength_m * z_m)) / np.sqrt(1j * wavelength_m * z_m)
    wanted = kernel @ lump * pixel_m
    line = angular_spectrum(size, pixel_m, wavelength_m, z_m)[0]
    found = np.fft.fftshift(np.fft.ifft(np.fft.fft(np.fft.ifftshift(lump)) * line))
    middle = slice(64, 192)
    assert np.abs(found - wanted)[middle].max() < 5e-3 * np.abs(wanted).max()


def test_a_diverging_beam_is_a_parallel_one_over_a_shorter_way() -> None:
    """Fresnel scaling: a spherical wave from z1 before the sample, seen z2 behind it, magnified by (z1 + z2)/z1.

    The diverging beam is propagated as it is, with its curved phase, on a grid fine and wide enough for both planes.
    """
    z1_m, z2_m, wavelength_m, size = 0.1, 0.1, 2e-10, 512
    fields = {
        "frame_px": size, "wavelength_m": wavelength_m, "distance_m": z2_m, "detector_pixel_m": 1e-6,
        "propagation": "near", "defocus_m": z1_m,
    }  # fmt: skip
    optics = optics_of(fields)
    assert optics.magnification == pytest.approx(2.0) and optics.pixel_m == pytest.approx(0.5e-6)

    def sample(x: NDArray[np.float64]) -> NDArray[np.complex128]:
        lump = np.exp(-((x[:, None] - 4e-6) ** 2 + x[None] ** 2) / 9e-12)
        return np.asarray(np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (14e-6) ** 2) * np.exp(0.8j * lump))

    fine = (np.arange(1024) - 512) * 0.25e-6
    curved = np.exp(1j * np.pi * (fine[:, None] ** 2 + fine[None] ** 2) / (wavelength_m * z1_m))
    free = angular_spectrum(1024, 0.25e-6, wavelength_m, z2_m)
    seen = np.abs(np.fft.ifft2(np.fft.fft2(np.fft.ifftshift(sample(fine) * curved)) * free)) ** 2
    transfer = optics.detector.transfer
    assert transfer is not None
    scaled = (np.arange(size) - size // 2) * optics.pixel_m
    model = np.abs(np.fft.ifft2(np.fft.fft2(np.fft.ifftshift(sample(scaled))) * transfer)) ** 2
    seen, model = np.fft.fftshift(seen), np.fft.fftshift(model)
    # A pixel of the detector is 1 um, four of the fine grid; its light is spread over M^2 times the area.
    reach = np.arange(-60, 61)
    coarse = seen[np.ix_(512 + 4 * reach, 512 + 4 * reach)] * 4
    wanted = model[np.ix_(size // 2 + reach, size // 2 + reach)]
    assert np.abs(coarse - wanted).max() < 0.01 * wanted.max()


def test_a_parallel_beam_keeps_the_detectors_pixel() -> None:
    optics = optics_of(FIELDS | {"propagation": "near"})
    assert optics.pixel_m == 75e-6 and optics.magnification == 1.0
    assert optics.detector.transfer is not None and optics.detector.transfer.shape == (64, 64)


def test_free_space_keeps_energy_and_drops_what_evanesces() -> None:
    transfer = angular_spectrum(32, 1e-6, 1e-9, 0.3)
    np.testing.assert_allclose(np.abs(transfer), 1, rtol=1e-6)
    fine = np.abs(angular_spectrum(32, 0.4e-9, 1e-9, 1e-8))
    assert fine[0, 0] == pytest.approx(1) and fine[0, 16] == 0 and set(np.unique(np.round(fine, 5))) == {0, 1}


def test_mask_and_saturation_come_from_the_header() -> None:
    valid = np.random.default_rng(0).random((64, 64)) > 0.3
    detector = optics_of(FIELDS | {"detector_mask": pack_mask(valid), "saturation": 900}).detector
    np.testing.assert_array_equal(detector.valid, valid.astype(np.float32))
    assert detector.saturation == 900 and optics_of(FIELDS).detector.saturation == np.inf


@pytest.mark.parametrize("name", ["wavelength_m", "distance_m", "detector_pixel_m"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_optics_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        optics_of(FIELDS | {name: value})
