from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beamside.errors import OptionError
from beamside.optics.fourier import (
    fourier_resize,
    frequency_grid,
    half_plane_weights,
    resample,
    shift_images,
    shift_phases,
    to_fourier,
    to_real,
)

BOXES = st.integers(4, 24)


def noise(box_px: int, seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(count, box_px, box_px)))


@settings(max_examples=30)
@given(box_px=BOXES)
def test_a_point_at_the_centre_has_no_phase(box_px: int) -> None:
    image = torch.zeros(box_px, box_px, dtype=torch.float64)
    image[box_px // 2, box_px // 2] = 1
    torch.testing.assert_close(to_fourier(image), torch.ones(box_px, box_px // 2 + 1, dtype=torch.complex128))
    torch.testing.assert_close(to_real(to_fourier(noise(box_px)), box_px), noise(box_px))


@settings(max_examples=20)
@given(box_px=BOXES, ky=st.integers(-2, 2), kx=st.integers(0, 2))
def test_the_transform_is_the_sum_that_defines_it(box_px: int, ky: int, kx: int) -> None:
    image = noise(box_px)[0].numpy()
    axis = np.arange(box_px) - box_px // 2
    wave = np.exp(-2j * np.pi * (ky * axis[:, None] + kx * axis[None, :]) / box_px)
    assert to_fourier(torch.as_tensor(image))[ky, kx].item() == pytest.approx((image * wave).sum(), abs=1e-9)
    rows, columns = frequency_grid(box_px, 2.0, dtype=torch.float64)
    if abs(ky) < box_px / 2:
        assert rows[ky, 0].item() == pytest.approx(ky / (2.0 * box_px))
    assert columns[0, kx].item() == pytest.approx(kx / (2.0 * box_px))


@settings(max_examples=30)
@given(box_px=BOXES)
def test_weights_make_half_a_plane_whole(box_px: int) -> None:
    image = noise(box_px)
    half = (to_fourier(image).abs() ** 2 * half_plane_weights(box_px, dtype=torch.float64)).sum((-2, -1))
    torch.testing.assert_close(half / box_px**2, (image**2).sum((-2, -1)))


@given(box_px=BOXES, new_px=BOXES)
def test_resizing_keeps_the_mean(box_px: int, new_px: int) -> None:
    images = noise(box_px)
    found = resample(images, new_px)
    assert found.shape == (2, new_px, new_px)
    torch.testing.assert_close(found.mean((-2, -1)), images.mean((-2, -1)), atol=1e-14, rtol=1e-12)


@settings(max_examples=30)
@given(box_px=BOXES, ratio=st.integers(2, 3))
def test_padding_keeps_every_old_pixel(box_px: int, ratio: int) -> None:
    images = noise(box_px)
    first = (box_px * ratio) // 2 - ratio * (box_px // 2)
    found = resample(images, box_px * ratio)[:, first::ratio, first::ratio]
    torch.testing.assert_close(found[:, :box_px, :box_px], images)


@given(box_px=BOXES, new_px=BOXES)
def test_a_band_limited_image_survives_both_ways(box_px: int, new_px: int) -> None:
    small, large = sorted((box_px, new_px))
    band_limited = resample(resample(noise(large), small), large)
    torch.testing.assert_close(resample(resample(band_limited, small), large), band_limited)


@settings(max_examples=30)
@given(small=BOXES, large=BOXES)
def test_a_wave_is_the_same_wave_on_other_pixels(small: int, large: int) -> None:
    """An oracle in real space: cos of a frequency below both Nyquists, written on both grids."""
    small, large = sorted((small, large))
    k = (small - 1) // 2

    def wave(box_px: int) -> torch.Tensor:
        axis = (torch.arange(box_px, dtype=torch.float64) - box_px // 2) / box_px
        return torch.cos(2 * torch.pi * (k * axis[:, None] - axis[None, :]) + 0.3)

    torch.testing.assert_close(resample(wave(large), small), wave(small))
    torch.testing.assert_close(resample(wave(small), large), wave(large))


def test_no_change_and_no_box() -> None:
    half = to_fourier(noise(8))
    assert fourier_resize(half, 8, 8) is half and resample(noise(8), 8).shape[-1] == 8
    with pytest.raises(OptionError):
        fourier_resize(half, 8, 1)


@given(box_px=BOXES, dy=st.integers(-5, 5), dx=st.integers(-5, 5))
def test_whole_shifts_roll(box_px: int, dy: int, dx: int) -> None:
    images = noise(box_px, count=1)
    moved = shift_images(images, torch.tensor([float(dy)]), torch.tensor([float(dx)]))
    torch.testing.assert_close(moved, torch.roll(images, (dy, dx), (-2, -1)))


def test_half_a_pixel_moves_a_blob_by_half_a_pixel() -> None:
    axis = torch.arange(32, dtype=torch.float64) - 16

    def blob(y: float, x: float) -> torch.Tensor:
        return torch.exp(-((axis[:, None] - y) ** 2 + (axis[None, :] - x) ** 2) / 8)

    moved = shift_images(blob(0, 0)[None], torch.tensor([0.5]), torch.tensor([-1.25]))
    torch.testing.assert_close(moved[0], blob(0.5, -1.25), atol=1e-6, rtol=0)


def test_the_shift_that_an_origin_names_centres_the_particle() -> None:
    """RELION: rlnOriginXAngst is the shift to apply; a particle with origin (+5, -10) A lies at (-5, +10) A."""
    axis = (torch.arange(32, dtype=torch.float64) - 16) * 5.0
    particle = torch.exp(-((axis[None, :] + 5) ** 2 + (axis[:, None] - 10) ** 2) / 200)
    centred = torch.exp(-(axis[None, :] ** 2 + axis[:, None] ** 2) / 200)
    ky, kx = frequency_grid(32, 5.0, dtype=torch.float64)
    phases = shift_phases(ky, kx, torch.tensor([-10.0]), torch.tensor([5.0]))
    torch.testing.assert_close(to_real(to_fourier(particle) * phases, 32)[0], centred, atol=1e-6, rtol=0)


def test_types_follow_the_input() -> None:
    for dtype in (torch.float32, torch.float64):
        assert resample(noise(8).to(dtype), 12).dtype == dtype
        assert shift_images(noise(8).to(dtype), torch.zeros(2), torch.zeros(2)).dtype == dtype
