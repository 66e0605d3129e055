"""Images as exact angular Fourier coefficients on rings of their Fourier transform, and shifts there.

The coefficient of angular frequency m on the ring of radius r (Fourier pixels) of an image y(x), origin at the centre:

    y_m(r) = mean over theta of exp(-i m theta) Y(r, theta) = sum_x y(x) (-i)^m J_m(2 pi r |x| / n) exp(-i m phi_x)

(Jacobi-Anger; M. Zhao and A. Singer, J. Opt. Soc. Am. A 30 (2013) 871-877, use the same basis). It is a matrix product
without any interpolation. Turning the image by alpha multiplies y_m by exp(-i m alpha). Only m >= 0 is kept: the image
is real, so y_-m(r) = (-1)^m conj(y_m(r)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rings:
    """Rings of integer radius `first..last` (Fourier pixels of the full box) and angular frequencies 0..orders-1."""

    box_px: int
    first: int
    last: int
    orders: int

    @property
    def radii(self) -> Tensor:
        """(R,) float32."""
        return torch.arange(self.first, self.last + 1, dtype=torch.float32)

    @property
    def multiplicity(self) -> Tensor:
        """(M,): how many of the orders +m and -m a row stands for."""
        twice = torch.full((self.orders,), 2.0)
        twice[0] = 1.0
        return twice

    @property
    def cropped_px(self) -> int:
        """Box that holds these rings with a margin: the image is Fourier-cropped to it before the product."""
        return min(self.box_px - self.box_px % 2, 2 * (self.last + 3))

    @classmethod
    def for_object(cls, box_px: int, first: int, last: int, radius_px: float) -> Rings:
        """Rings for an object within `radius_px`: orders beyond 2 pi r radius / n carry nothing of it."""
        orders = min(math.ceil(2 * math.pi * last * radius_px / box_px) + 2, 4 * last)
        return cls(box_px, first, last, orders)


def supported(rings: Rings, radius_px: float) -> Tensor:
    """(M, R) bool: where an object within `radius_px` can have a coefficient, |m| <= 2 pi r radius / n + 2."""
    bound = 2 * math.pi * rings.radii * radius_px / rings.box_px + 2
    return torch.arange(rings.orders)[:, None] < bound[None, :]


def bessel_table(orders: int, largest: float) -> tuple[Tensor, float]:
    """J_m(z) for m < orders on an even grid of z from 0 past `largest`, (orders + 1, Z), and the grid's step.

    J_m(z) is the m-th Fourier coefficient of exp(i z sin t) (Bessel's integral), so one FFT a point gives them all.
    """
    step = 1 / 32
    z = torch.arange(0, largest + 3 * step, step, dtype=torch.float64)
    samples = 2 ** math.ceil(math.log2(2 * (orders + largest) + 64))
    t = torch.arange(samples, dtype=torch.float64) * (2 * math.pi / samples)
    table = torch.empty(orders + 1, len(z), dtype=torch.float64)
    for at in range(0, len(z), 256):
        wave = torch.exp(1j * z[at : at + 256, None] * torch.sin(t))
        table[:, at : at + 256] = (torch.fft.fft(wave, norm="forward").real[:, : orders + 1]).T
    return table, step


def bessel(table: Tensor, step: float, order: int, z: Tensor) -> Tensor:
    """J_order(z) by cubic Hermite interpolation in the table, error below 1e-8; J_m' = J_(m-1)/2 - J_(m+1)/2."""
    below = -table[1] if order == 0 else table[order - 1]
    slope = 0.5 * (below - table[order + 1]) * step
    place = z / step
    left = place.long()
    t = place - left
    y0, y1, d0, d1 = table[order][left], table[order][left + 1], slope[left], slope[left + 1]
    return y0 * (1 + 2 * t) * (1 - t) ** 2 + d0 * t * (1 - t) ** 2 + y1 * t**2 * (3 - 2 * t) + d1 * t**2 * (t - 1)


def transform_matrix(rings: Rings, order: int, table: tuple[Tensor, float]) -> Tensor:
    """(R, c*c) complex64: one order's coefficients of a cropped image of c px whose origin is pixel (c//2, c//2)."""
    c = rings.cropped_px
    axis = torch.arange(c, dtype=torch.float64) - c // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    squared = (x**2 + y**2).long().flatten()
    distinct, where = torch.unique(squared, return_inverse=True)
    z = 2 * math.pi / c * rings.radii.double()[:, None] * distinct.double().sqrt()[None, :]
    radial = bessel(table[0], table[1], order, z)[:, where]
    angle = torch.exp(-1j * order * torch.atan2(y, x).flatten())
    return ((-1j) ** order * radial * angle).to(torch.complex64)


def largest_argument(rings: Rings) -> float:
    """The largest Bessel argument that `transform_matrix` needs."""
    return 2 * math.pi * rings.last * math.sqrt(0.5) * (1 + 2 / rings.cropped_px)


@dataclass(frozen=True)
class Circle:
    """Half a circle of angles on which coefficients of orders 0..orders-1 become values, and back.

    An image is real, so a value at theta + pi is the conjugate of that at theta: even orders make the real part and odd
    orders the imaginary one, and half of the angles are enough. Both ways are products with real matrices.
    """

    evens: int
    synthesis: tuple[Tensor, Tensor]
    """(2 M_even, T/2) and (2 M_odd, T/2): [Re | Im] of the coefficients to real and imaginary parts of values."""
    analysis: tuple[Tensor, Tensor]
    """(T/2, 2 M_even) and (T/2, 2 M_odd): back."""

    @classmethod
    def of(cls, orders: int, angles: int) -> Circle:
        """For `angles` on the whole circle, an even number."""
        theta = torch.arange(angles // 2, dtype=torch.float64) * (2 * math.pi / angles)
        even, odd = (torch.arange(first, orders, 2) for first in (0, 1))
        twice = torch.where(even > 0, 2.0, 1.0).double()[:, None]
        phase, other = even[:, None] * theta, odd[:, None] * theta
        cosine, sine, scale = torch.cos(phase), torch.sin(phase), 2 / angles
        synthesis = (
            torch.cat([twice * cosine, -twice * sine]).float(),
            torch.cat([2 * torch.sin(other), 2 * torch.cos(other)]).float(),
        )
        # Odd orders: (2 i / T) sum of Im f (cos - i sin) = (2 / T) sum of Im f (sin + i cos).
        analysis = (
            (scale * torch.cat([cosine, -sine])).T.float().contiguous(),
            (scale * torch.cat([torch.sin(other), torch.cos(other)])).T.float().contiguous(),
        )
        return cls(len(even), synthesis, analysis)

    def values(self, coefficients: Tensor) -> Tensor:
        """(..., M, R) complex -> (..., R, T/2)."""
        rows = coefficients.transpose(-1, -2)
        parts = [
            torch.cat([rows[..., first::2].real, rows[..., first::2].imag], -1) @ self.synthesis[first]
            for first in (0, 1)
        ]
        return torch.complex(parts[0], parts[1])

    def orders(self, values: Tensor) -> Tensor:
        """(..., R, T/2) -> (..., M, R): the inverse of `values` for orders that fit."""
        count = sum(a.shape[1] // 2 for a in self.analysis)
        found = torch.empty(*values.shape[:-2], count, values.shape[-2], dtype=values.dtype)
        for first, part in ((0, values.real), (1, values.imag)):
            flat = (part @ self.analysis[first]).transpose(-1, -2)
            half = flat.shape[-2] // 2
            found[..., first::2, :] = torch.complex(flat[..., :half, :], flat[..., half:, :])
        return found


@dataclass(frozen=True)
class ShiftGrid:
    """Shifts of a reference before it is turned, (S, 2) as (x, y) in pixels of the full box, and their ring phases.

    phases: (S, R, T/2) complex64, exp(-2 pi i k.s / n) on half of T angles of each ring; moves the content by +s.
    """

    shifts_px: Tensor
    phases: Tensor
    circle: Circle

    @property
    def centre(self) -> int:
        """Index of the shift (0, 0)."""
        return int((self.shifts_px**2).sum(1).argmin())


def shift_grid(rings: Rings, step_px: float, radius_px: float, orders: int) -> ShiftGrid:
    """All shifts of a square grid within a radius, for averages of so many orders."""
    count = math.floor(radius_px / step_px + 1e-6)
    axis = torch.arange(-count, count + 1, dtype=torch.float32) * step_px
    shifts = torch.cartesian_prod(axis, axis)
    shifts = shifts[(shifts**2).sum(1) <= (radius_px + 1e-3) ** 2]
    reach = 2 * math.pi * rings.last * float(shifts.abs().max()) / rings.box_px
    angles = 2 * (rings.orders + 8 + math.ceil(reach))
    theta = torch.arange(angles // 2) * (2 * math.pi / angles)
    toward = torch.cos(theta) * shifts[:, 0, None] + torch.sin(theta) * shifts[:, 1, None]
    phase = -2 * math.pi / rings.box_px * rings.radii[None, :, None] * toward[:, None, :]
    return ShiftGrid(shifts, torch.polar(torch.ones_like(phase), phase), Circle.of(orders, angles))
