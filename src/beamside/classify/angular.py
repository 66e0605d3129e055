"""Angular orders of a class average that its even and odd particles do not share are damped.

A view along an axis of symmetry, or any view of a nearly round particle, has its power in few angular orders. The
Wiener filter by ring knows the mean over all orders and lets their noise pass alike. Here every order of every ring
gets the Wiener factor that its own share of the common power gives, shrunk towards the ring's where the halves cannot
tell. Where the orders of a ring are alike it changes next to nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from beamside.classify.polar import Rings, bessel, bessel_table, largest_argument, supported
from beamside.optics.fourier import resample

_ORDERS = 24
"""Finer structure round the circle is left as it is."""
_MARGIN = 4
"""Rings below the finest of the box, so that the images may be cropped."""
_SEEN = 2.0
"""Times the least signal-to-noise ratio that is ever assumed, up to which a ring shows anything at all."""
_WIDER = 1.25
"""Times the radius of the mask: its soft edge lies within."""
_TINY = 1e-30


def damped(images: Tensor, halves: Tensor, ssnr: Tensor, share: Tensor, radius_px: float, least: float) -> Tensor:
    """Class averages (K, n, n) with the orders of their rings damped; the radial part stays.

    images: averages of all particles, filtered by ring. halves: (2, K, n, n) of even and of odd particles, masked, not
    filtered. ssnr: (K, n//2 + 1) the ratio of signal to noise by which the images are filtered, at least `least`.
    share: (K,) of the particles, sum 1. radius_px: of the mask.
    """
    box_px = images.shape[-1]
    shown = ((ssnr * share[:, None]).sum(0) > _SEEN * least).nonzero()
    last = min(box_px // 2 - _MARGIN, int(shown.max()) if len(shown) else 0)
    if last < 1:
        return images
    whole = Rings.for_object(box_px, 1, last, radius_px)
    rings = Rings(box_px, 1, last, min(_ORDERS, whole.orders))
    disc = _Disc(rings, radius_px)
    even, odd, found = disc.coefficients(torch.stack([*halves, images]))
    factors = gains(even, odd, share.float(), ssnr[:, 1 : last + 1].float(), supported(rings, radius_px))
    return images + disc.images((factors - 1) * found).to(images.dtype)


def gains(even: Tensor, odd: Tensor, share: Tensor, ssnr: Tensor, support: Tensor) -> Tensor:
    """(K, M, R): the Wiener factor of each order over that of its ring; 1 for order 0 and outside of the support.

    even, odd: (K, M, R) complex, coefficients of both halves. The power that they share is that of the order over all
    classes, half of it scaled to what the class has in the ring. It is the mean of 2 K products, and is drawn towards
    the ring's mean as by so many more as make their error as large as the noise.
    """
    inside = support.float()
    inside[0] = 0
    count = inside.sum(0).clamp(min=1)
    common = (even * odd.conj()).real
    noise = ((even - odd).abs().square() / 4 * inside).sum(1) / count
    own = smooth((common * inside).sum(1) / count).clamp(min=0)
    power = smooth((common * share[:, None, None]).sum(0))
    ring = ((power * inside).sum(0) / count).clamp(min=_TINY)
    of_a_half = 2 * (noise * share[:, None]).sum(0)
    weight = (1 + (of_a_half / ring).clamp(max=1e3)) ** 2
    products = 2 * len(share)
    power = ((products * power + weight * ring) / (products + weight)).clamp(min=0)
    ratio = 0.5 * (own[:, None] * (power / ring) + power) / smooth(noise)[:, None].clamp(min=_TINY)
    factors = ratio / (1 + ratio) / (ssnr / (1 + ssnr))[:, None]
    return torch.where(inside > 0, factors, 1.0)


class _Disc:
    """Images as coefficients on rings and back, one order at a time: all matrices at once would fill the memory.

    As `polar.transform_matrix`, on the pixels of a disc that the mask leaves, and without its constant factors (-i)^m.
    """

    def __init__(self, rings: Rings, radius_px: float) -> None:
        self.rings, self._table = rings, bessel_table(rings.orders, largest_argument(rings))
        side = rings.cropped_px
        axis = torch.arange(side) - side // 2
        squared = (axis[:, None] ** 2 + axis**2).flatten()
        inside = squared <= (_WIDER * radius_px * side / rings.box_px + 2) ** 2
        self._pixels = inside.nonzero()[:, 0]
        distinct, self._of_pixel = torch.unique(squared[self._pixels], return_inverse=True)
        self._argument = 2 * math.pi / side * rings.radii.double()[:, None] * distinct.double().sqrt()
        self._phi = torch.atan2(axis[self._pixels // side].float(), axis[self._pixels % side].float())

    def coefficients(self, images: Tensor) -> Tensor:
        """(..., M, R) complex64 of images (..., n, n)."""
        small = resample(images.flatten(0, -3), self.rings.cropped_px)
        pixels = small.flatten(1)[:, self._pixels].float()
        rows = [torch.complex(*(pixels @ part.T for part in self._matrix(m))) for m in range(self.rings.orders)]
        return torch.stack(rows, 1).view(*images.shape[:-2], self.rings.orders, -1)

    def images(self, coefficients: Tensor) -> Tensor:
        """(K, n, n) of (K, M, R): the inverse, on these rings and orders: an integral over the rings' areas."""
        side = self.rings.cropped_px
        area = 2 * math.pi * self.rings.radii / side**2
        total = torch.zeros(len(coefficients), len(self._pixels))
        for m, twice in enumerate(self.rings.multiplicity.tolist()):
            cosine, sine = self._matrix(m)
            here = twice * coefficients[:, m] * area
            total += here.real @ cosine + here.imag @ sine
        flat = torch.zeros(len(coefficients), side * side)
        flat[:, self._pixels] = total
        return resample(flat.view(-1, side, side), self.rings.box_px)

    def _matrix(self, order: int) -> tuple[Tensor, Tensor]:
        """(R, P) each: J_m times the real and the imaginary part of exp(-i m phi)."""
        radial = bessel(*self._table, order, self._argument).float()[:, self._of_pixel]
        return radial * torch.cos(order * self._phi), radial * -torch.sin(order * self._phi)


def smooth(curves: Tensor) -> Tensor:
    """Each ring (..., R) with a quarter of each neighbour."""
    padded = torch.cat([curves[..., :1], curves, curves[..., -1:]], -1)
    return 0.25 * padded[..., :-2] + 0.5 * padded[..., 1:-1] + 0.25 * padded[..., 2:]
