"""The polar coefficients against closed forms, an independent Bessel function, and direct sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import jv

from beamside.classify import polar
from beamside.classify.polar import Rings


@pytest.mark.parametrize("order", [0, 1, 7, 30])
def test_bessel_agrees_with_scipy(order: int) -> None:
    table = polar.bessel_table(31, 60.0)
    z = torch.linspace(0, 60, 997, dtype=torch.float64)
    assert np.abs(polar.bessel(*table, order, z).numpy() - jv(order, z.numpy())).max() < 1e-7


def direct(image: torch.Tensor, rings: Rings, orders: int, angles: int = 256) -> torch.Tensor:
    """Angular coefficients by summing the Fourier transform itself on many angles."""
    c = image.shape[-1]
    axis = torch.arange(c, dtype=torch.float64) - c // 2
    theta = torch.arange(angles, dtype=torch.float64) * 2 * math.pi / angles
    k = rings.radii.double()[:, None]
    ky, kx = k * torch.sin(theta), k * torch.cos(theta)
    phase_y = torch.exp(-2j * math.pi / c * ky[..., None] * axis)
    phase_x = torch.exp(-2j * math.pi / c * kx[..., None] * axis)
    values = torch.einsum("rty,yx,rtx->rt", phase_y, image.to(torch.complex128), phase_x)
    return (torch.fft.fft(values) / angles)[:, :orders].T


def test_matrix_is_the_direct_sum() -> None:
    rings = Rings.for_object(32, 1, 10, 12.0)
    image = torch.randn(rings.cropped_px, rings.cropped_px, dtype=torch.float64)
    table = polar.bessel_table(rings.orders, polar.largest_argument(rings))
    flat = image.flatten().to(torch.complex64)
    found = torch.stack([polar.transform_matrix(rings, m, table) @ flat for m in range(rings.orders)])
    expected = direct(image, rings, rings.orders)
    assert (found - expected).abs().max() < 2e-4 * expected.abs().max()


def test_rotation_is_a_phase() -> None:
    """A Gaussian at (x, y) and the same one turned by alpha: each order gains exp(-i m alpha)."""
    rings = Rings(32, 1, 8, 12)
    c, alpha = rings.cropped_px, 0.7

    def blob(x: float, y: float) -> torch.Tensor:
        axis = torch.arange(c, dtype=torch.float64) - c // 2
        return torch.exp(-((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / 4)

    x, y = 3.0, -1.5
    turned = blob(math.cos(alpha) * x - math.sin(alpha) * y, math.sin(alpha) * x + math.cos(alpha) * y)
    table = polar.bessel_table(rings.orders, polar.largest_argument(rings))
    for m in (0, 1, 5, 11):
        matrix = polar.transform_matrix(rings, m, table).to(torch.complex128)
        before, after = (matrix @ b.flatten().to(torch.complex128) for b in (blob(x, y), turned))
        assert (after - before * np.exp(-1j * m * alpha)).abs().max() < 1e-3 * before.abs().max() + 1e-3


def test_values_on_half_a_circle_are_the_sum_over_orders() -> None:
    """Against the sum over all orders, negative ones by the symmetry of real images; and back."""
    coefficients = torch.randn(3, 20, 12, dtype=torch.complex64)
    coefficients[:, 0].imag.zero_()
    circle = polar.Circle.of(20, 64)
    values = circle.values(coefficients)
    theta = torch.arange(32, dtype=torch.float64) * 2 * math.pi / 64
    m = torch.arange(-19, 20)
    sign = (1.0 - 2.0 * (torch.arange(1, 20) % 2))[None, :, None]
    both = torch.cat([(coefficients[:, 1:].conj() * sign).flip(1), coefficients], 1).to(torch.complex128)
    expected = torch.einsum("bmr,mt->brt", both, torch.exp(1j * m[:, None] * theta))
    assert torch.allclose(values.to(torch.complex128), expected, atol=1e-4)
    assert torch.allclose(circle.orders(values), coefficients, atol=1e-5)


def test_shift_moves_the_content() -> None:
    """The phases of a shift take the coefficients of a blob at 0 to those of a blob at s."""
    rings = Rings.for_object(32, 1, 8, 14.0)
    grid = polar.shift_grid(rings, 2.0, 4.0, rings.orders)
    c = rings.cropped_px
    axis = (torch.arange(c, dtype=torch.float64) - c // 2) * 32 / c
    s = grid.shifts_px[3].double()

    def coefficients(x: float, y: float) -> torch.Tensor:
        image = torch.exp(-((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2) / 8)
        return direct(image, rings, rings.orders).to(torch.complex64)

    moved = grid.circle.orders(grid.circle.values(coefficients(0, 0)) * grid.phases[3])
    expected = coefficients(float(s[0]), float(s[1]))
    assert (moved - expected).abs().max() < 1e-3 * expected.abs().max()
    assert not grid.shifts_px[grid.centre].any()
