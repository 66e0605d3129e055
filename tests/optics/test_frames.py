"""One boundary makes counts with DC at the corner: proved by waves whose transform is known, in all orientations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamside.errors import FormatError, OptionError
from beamside.optics.frames import (
    ORIENTATIONS,
    DetectorGeometry,
    ScanGeometry,
    magnified_pixel_m,
    object_pixel_m,
    pack_mask,
    unpack_mask,
)

# The eight ways a detector is mounted, each as the plain array operation that undoes it.
UNDO = (
    lambda a: a,
    lambda a: a[::-1],
    lambda a: a[:, ::-1],
    lambda a: a[::-1, ::-1],
    lambda a: a.T,
    lambda a: a.T[::-1],
    lambda a: a.T[:, ::-1],
    lambda a: a.T[::-1, ::-1],
)


def odd_frame(n: int) -> np.ndarray:
    """Counts with no symmetry, DC in the centre of an odd frame, where flips keep DC in its place."""
    counts = np.random.default_rng(n).integers(0, 1000, (n, n)).astype(np.uint16)
    counts[n // 2, n // 2] = 9999
    return counts


@pytest.mark.parametrize("number", range(8))
def test_orientation_is_the_plain_array_operation_around_dc(number: int) -> None:
    stored = odd_frame(7)
    made = DetectorGeometry((7, 7), orientation=number).frames(stored[None]).counts[0]
    assert np.array_equal(made, np.fft.ifftshift(UNDO[number](stored)))
    assert made[0, 0] == 9999


@pytest.mark.parametrize("number", range(8))
def test_the_eight_orientations_differ(number: int) -> None:
    tables = [DetectorGeometry((6, 6), orientation=n).source.tobytes() for n in range(len(ORIENTATIONS))]
    assert len(set(tables)) == 8
    assert tables.count(tables[number]) == 1


def test_a_plane_wave_lies_where_fft2_puts_it() -> None:
    n, down, across = 16, 3, -5
    y, x = np.mgrid[:n, :n]
    wave = np.exp(2j * np.pi * (down * y + across * x) / n)
    power = np.abs(np.fft.fftshift(np.fft.fft2(wave))) ** 2
    counts = DetectorGeometry((n, n)).frames(power[None]).counts[0]
    assert np.unravel_index(counts.argmax(), counts.shape) == (down % n, across % n)
    assert np.allclose(counts, np.abs(np.fft.fft2(wave)) ** 2, atol=1e-2)


@pytest.mark.parametrize("number", range(8))
def test_a_turned_detector_gives_the_frame_of_the_turned_wave(number: int) -> None:
    """For even N: the intensity of a wave flipped about the origin, n -> -n, is the flipped intensity."""
    n = 8
    rng = np.random.default_rng(3)
    wave = rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n))
    transpose, rows, columns = ORIENTATIONS[number]
    back = -np.arange(n) % n
    turned = wave.T if transpose else wave
    turned = turned[back] if rows else turned
    turned = turned[:, back] if columns else turned
    stored = np.fft.fftshift(np.abs(np.fft.fft2(wave)) ** 2)
    made = DetectorGeometry((n, n), orientation=number).frames(stored[None]).counts[0]
    assert np.allclose(made, np.abs(np.fft.fft2(turned)) ** 2, rtol=1e-5)


def test_dc_at_the_corner_stays_as_it_is() -> None:
    stored = np.random.default_rng(1).integers(0, 9, (2, 6, 6)).astype(np.uint16)
    assert np.array_equal(DetectorGeometry((6, 6), dc="corner").frames(stored).counts, stored)


@given(
    rows=st.integers(8, 20),
    columns=st.integers(8, 20),
    n=st.integers(2, 8),
    row=st.integers(0, 7),
    column=st.integers(0, 7),
)
def test_crop_around_any_beam_centre(rows: int, columns: int, n: int, row: int, column: int) -> None:
    stored = np.arange(1, rows * columns + 1, dtype=np.uint16).reshape(1, rows, columns)
    geometry = DetectorGeometry((rows, columns), dc=(row, column), crop_px=n)
    made = geometry.frames(stored).counts[0]
    padded = np.pad(stored[0], 20)
    top, left = 20 + row - n // 2, 20 + column - n // 2
    assert np.array_equal(made, np.fft.ifftshift(padded[top : top + n, left : left + n]))
    assert np.array_equal(geometry.detector_mask, made > 0)


def test_without_a_crop_the_square_around_dc_is_used() -> None:
    geometry = DetectorGeometry((100, 120), dc=(40, 70))
    assert geometry.frame_px == 80
    assert geometry.detector_mask.all()


def test_mask_dark_flat_background_and_saturation() -> None:
    stored = np.array([[[10, 20], [30, 500]]], dtype=np.uint16)
    geometry = DetectorGeometry(
        (2, 2),
        dc="corner",
        valid=np.array([[True, False], [True, True]]),
        dark=np.full((2, 2), 2.0),
        background=np.array([[0, 0], [40.0, 0]]),
        flat=np.array([[2.0, 1], [1, 4]]),
        saturation=500,
    )
    made = geometry.frames(stored).counts[0]
    assert made.tolist() == [[4.0, 0.0], [0.0, 500.0]]
    assert geometry.detector_mask.tolist() == [[True, False], [True, True]]


def test_a_dead_flat_is_no_pixel() -> None:
    flat = np.array([[1.0, 0.0], [np.nan, 1.0]])
    geometry = DetectorGeometry((2, 2), dc="corner", flat=flat)
    assert geometry.detector_mask.tolist() == [[True, False], [False, True]]
    assert np.isfinite(geometry.frames(np.ones((1, 2, 2))).counts).all()


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [
        (np.array([0, 65535], np.uint32), np.uint16),
        (np.array([0, 65536], np.uint32), np.float32),
        (np.array([-3, 7], np.int32), np.uint16),
        (np.array([1.0, 7.0], np.float64), np.uint16),
        (np.array([1.5, 7.0], np.float64), np.float32),
        (np.array([np.nan, 7.0], np.float32), np.float32),
    ],
)
def test_whole_small_counts_are_kept_as_uint16(stored: np.ndarray, dtype: type) -> None:
    frames = np.zeros((1, 2, 2), stored.dtype)
    frames[0, 0] = stored
    made = DetectorGeometry((2, 2), dc="corner").frames(frames).counts
    assert made.dtype == dtype
    assert np.array_equal(made[0, 0], np.maximum(stored, 0).astype(dtype), equal_nan=True)


def test_amplitudes_are_squared() -> None:
    made = DetectorGeometry((2, 2), dc="corner", amplitudes=True).frames(np.full((1, 2, 2), 3.0)).counts
    assert (made == 9).all()


@pytest.mark.parametrize("number", range(8))
def test_near_field_images_are_only_turned(number: int) -> None:
    stored = np.arange(36, dtype=np.uint16).reshape(6, 6)
    made = DetectorGeometry((6, 6), orientation=number, near_field=True).frames(stored[None]).counts[0]
    assert np.array_equal(made, UNDO[number](stored))
    cropped = DetectorGeometry((6, 6), crop_px=4, near_field=True).frames(stored[None]).counts[0]
    assert np.array_equal(cropped, stored[1:5, 1:5])


@pytest.mark.parametrize(
    "wrong",
    [
        {"orientation": 8},
        {"dc": "middle"},
        {"dc": (4, 0)},
        {"crop_px": 1},
        {"valid": np.ones((3, 4), bool)},
    ],
)
def test_an_impossible_geometry_is_refused(wrong: dict) -> None:
    with pytest.raises(OptionError):
        DetectorGeometry((4, 4), **wrong)


def test_frames_of_another_shape_are_refused() -> None:
    with pytest.raises(FormatError, match="changed shape"):
        DetectorGeometry((4, 4)).frames(np.zeros((1, 4, 5)))


def test_positions_take_order_sign_and_unit() -> None:
    stored = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert np.allclose(ScanGeometry(1, 0, 1, -1, 1e-6).positions_m(stored), [[2e-6, -1e-6], [5e-6, -4e-6]])
    with pytest.raises(OptionError):
        ScanGeometry(y_sign=0)
    with pytest.raises(OptionError):
        ScanGeometry(unit_m=0.0)


@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_mask_comes_back_from_its_text(n: int, seed: int) -> None:
    valid = np.random.default_rng(seed).uniform(size=(n, n)) < 0.7
    assert np.array_equal(unpack_mask(pack_mask(valid), n), valid)


@pytest.mark.parametrize("text", ["???", "AAAA", "A"])
def test_a_text_that_is_no_mask_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        unpack_mask(text, 16)


def test_object_pixels() -> None:
    assert object_pixel_m(1e-10, 2.0, 100, 1e-4) == pytest.approx(2e-8)
    assert magnified_pixel_m(1e-6, None, 3.0) == 1e-6
    # A source 1 m before the sample and a detector 3 m behind it: a shadow four times as large as the sample.
    assert magnified_pixel_m(1e-6, 1.0, 3.0) == pytest.approx(0.25e-6)
