from __future__ import annotations

import numpy as np
import pytest
import torch

from beamside.optics.fourier import to_fourier
from beamside.optics.frc import resolution_A, ring_correlation, ring_index, ring_sums


def by_hand(first: np.ndarray, second: np.ndarray) -> list[float]:
    """Ring by ring over the whole plane, in numpy."""
    n = first.shape[0]
    a, b = np.fft.fft2(first), np.fft.fft2(second)
    k = np.fft.fftfreq(n) * n
    radius = np.round(np.hypot(k[:, None], k[None, :])).astype(int)
    found = []
    for ring in range(n // 2 + 1):
        inside = radius == ring
        cross = (a[inside] * b[inside].conj()).sum().real
        found.append(cross / np.sqrt((abs(a[inside]) ** 2).sum() * (abs(b[inside]) ** 2).sum()))
    return found


@pytest.mark.parametrize("box_px", [16, 17, 24])
def test_the_same_as_by_hand(box_px: int) -> None:
    rng = np.random.default_rng(1)
    first = rng.normal(size=(3, box_px, box_px))
    second = first + rng.normal(size=first.shape)
    found = ring_correlation(torch.as_tensor(first), torch.as_tensor(second))
    assert found.shape == (3, box_px // 2 + 1)
    for row, a, b in zip(found, first, second, strict=True):
        assert row.tolist() == pytest.approx(by_hand(a, b), abs=1e-12)


def test_itself_its_negative_and_nothing() -> None:
    image = torch.as_tensor(np.random.default_rng(0).normal(size=(16, 16)))
    torch.testing.assert_close(ring_correlation(image, image), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(ring_correlation(image, -image), -torch.ones(9, dtype=torch.float64))
    assert ring_correlation(image, torch.zeros(16, 16, dtype=torch.float64)).abs().max() == 0
    constant = torch.ones(16, 16, dtype=torch.float64)
    assert ring_correlation(constant, constant).tolist() == [1.0] + [0.0] * 8


def test_ring_sums_hold_all_the_power_within_nyquist() -> None:
    image = torch.as_tensor(np.random.default_rng(0).normal(size=(12, 12)))
    power = to_fourier(image).abs() ** 2
    index = ring_index(12)
    assert int(index.max()) == 7 and ring_sums(torch.ones_like(power), 12)[0] == 1
    whole = np.abs(np.fft.fft2(image.numpy())) ** 2
    k = np.fft.fftfreq(12) * 12
    inside = np.round(np.hypot(k[:, None], k[None, :])) <= 6
    assert ring_sums(power, 12).sum().item() == pytest.approx(whole[inside].sum())


def test_the_resolution_is_interpolated() -> None:
    curve = np.array([1.0, 0.9, 0.5, 0.1, 0.0])
    assert resolution_A(curve, 8, 2.0, 0.3) == pytest.approx(8 * 2.0 / 2.5)
    assert resolution_A(np.ones(5), 8, 2.0) == 4.0
    assert resolution_A(np.array([1.0, 0.0, 0.0, 0.0, 0.0]), 8, 2.0) == float("inf")
    assert resolution_A(np.array([1.0, 0.9, 0.0, 0.9, 0.9]), 8, 2.0, 0.5) < float("inf")
