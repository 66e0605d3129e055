"""Central slices of a volume along an even grid of directions, as a linear map from its spherical harmonics.

A real density has the transform F(k u) = sum over l, m' of i^[l odd] U_lm'(k) Y_lm'(u), with real U and real
orthonormal spherical harmonics Y (F. Dahlen and J. Tromp, Theoretical Global Seismology, 1998, appendix B.6). The ring
of radius k of its projection along a direction is F on a great circle (projection-slice theorem), so its angular
coefficients are linear in U(k), and even orders hear even l only, odd orders odd l.

The directions lie on rings of latitude. Turning a slice's plane about the pole by phi turns the harmonics (l, m') and
(l, -m') into each other by m' phi, so that a ring of latitude needs one table, and the sum over l is done before that
over m' (separation of variables: J. Driscoll and D. Healy, Adv. Appl. Math. 15 (1994) 202-250).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from beamside.classify.polar import Circle
from beamside.classify.sphere import Array, real_harmonics


@dataclass(frozen=True)
class Latitudes:
    """Directions on rings of latitude: tilt of each ring from the pole, and the azimuths on it; radians."""

    tilts: Array
    azimuths: tuple[Array, ...]

    @classmethod
    def even(cls, count: int, generator: np.random.Generator) -> Latitudes:
        """About `count` directions, as far from each other along a ring as the rings are; rings turned at random."""
        rings = max(2, round(math.sqrt(math.pi * count) / 2))
        tilts = (np.arange(rings) + 0.5) * math.pi / rings
        share = np.sin(tilts) / np.sin(tilts).sum()
        azimuths = []
        for part in share:
            number = max(3, round(count * part))
            azimuths.append((np.arange(number) + generator.random()) * 2 * math.pi / number)
        return cls(tilts, tuple(azimuths))

    def __len__(self) -> int:
        return sum(len(a) for a in self.azimuths)

    @cached_property
    def frames(self) -> Array:
        """(V, 3, 3) right-handed: the image's x axis points down the meridian, its y axis along the ring."""
        tilt = np.repeat(self.tilts, [len(a) for a in self.azimuths])
        azimuth = np.concatenate(self.azimuths)
        c, s, ct, st = np.cos(azimuth), np.sin(azimuth), np.cos(tilt), np.sin(tilt)
        x = np.stack([ct * c, ct * s, -st], 1)
        y = np.stack([-s, c, np.zeros_like(s)], 1)
        return np.stack([x, y, np.stack([st * c, st * s, ct], 1)], 1)


@dataclass(frozen=True)
class _Half:
    """The map of one parity. T rings of latitude, M orders, L+1 values of |m'|, N degrees of this parity.

    table: (L+1, T 2M, 2N) float32, [cosine | sine] harmonics on the ring's first plane, [Re | Im] of the orders.
    at: (L+1, N) where the cosine harmonic of a degree stands among those of this parity, and `other` the sine one;
    the number of harmonics where there is none. place: (P,) where each harmonic stands in the two, flattened.
    """

    table: Tensor
    at: Tensor
    other: Tensor
    place: Tensor


@dataclass(frozen=True)
class Slices:
    """The map from a volume's harmonics to the whitened angular coefficients of its slices along V directions.

    halves: of even and of odd orders. turns: for each ring of latitude (J, 2(L+1)), cos and sin of m' azimuth.
    degrees: l of each harmonic, even ones first, `split` of them, ascending within a parity.
    """

    halves: tuple[_Half, _Half]
    turns: tuple[Tensor, ...]
    degrees: Tensor
    split: int

    @classmethod
    def along(cls, views: Latitudes, orders: int, degree: int) -> Slices:
        """Slices of `orders` angular frequencies, from harmonics up to `degree`."""
        angles = 2 * ((orders + degree) // 2 + 3)
        circle = Circle.of(orders, angles)
        theta = np.arange(angles // 2) * (2 * math.pi / angles)
        x = np.stack([np.cos(views.tilts), np.zeros_like(views.tilts), -np.sin(views.tilts)], 1)
        points = np.cos(theta)[:, None] * x[:, None] + np.sin(theta)[:, None] * np.array([0.0, 1.0, 0.0])
        values = real_harmonics(degree, points.reshape(-1, 3)).reshape(len(x), angles // 2, -1)
        m = torch.arange(degree + 1)
        turns = []
        for azimuth in views.azimuths:
            phase = torch.as_tensor(azimuth)[:, None] * m
            turns.append(torch.stack([torch.cos(phase), torch.sin(phase)], 2).flatten(1).float())
        halves = (_half(values, circle, degree, 0), _half(values, circle, degree, 1))
        of_column = np.repeat(np.arange(degree + 1), 2 * np.arange(degree + 1) + 1)
        degrees = np.concatenate([of_column[of_column % 2 == parity] for parity in (0, 1)])
        return cls(halves, tuple(turns), torch.as_tensor(degrees), len(halves[0].place))

    def __len__(self) -> int:
        return sum(len(t) for t in self.turns)

    def project(self, harmonics: Tensor) -> Tensor:
        """(P, R) float32 -> (V, M, R) complex64."""
        parts = [
            self._spread(half, part)
            for half, part in zip(self.halves, (harmonics[: self.split], harmonics[self.split :]), strict=True)
        ]
        found = torch.empty(len(self), sum(p.shape[1] // 2 for p in parts), harmonics.shape[1], dtype=torch.complex64)
        for first, part in enumerate(parts):
            half = part.shape[1] // 2
            found[:, first::2] = torch.complex(part[:, :half], part[:, half:])
        return found

    def _spread(self, half: _Half, harmonics: Tensor) -> Tensor:
        """(P, R) of one parity -> (V, 2M, R)."""
        count, rings = len(self.turns), harmonics.shape[1]
        padded = torch.cat([harmonics, torch.zeros(1, rings)])
        cosine, sine = padded[half.at], padded[half.other]
        both = torch.cat([torch.cat([cosine, sine], 2), torch.cat([sine, -cosine], 2)], 1)
        # (L+1, T 2M, 2R) -> (T, 2(L+1), 2M R): what is multiplied by the cosines and sines of a ring's azimuths.
        summed = torch.bmm(half.table, both).view(len(both), count, -1, 2, rings)
        waves = summed.permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
        out = torch.empty(len(self), waves.shape[2])
        at = 0
        for turn, wave in zip(self.turns, waves, strict=True):
            torch.mm(turn, wave, out=out[at : at + len(turn)])
            at += len(turn)
        return out.view(len(self), -1, rings)

    def adjoint(self, slices: Tensor) -> Tensor:
        """(V, M, R) complex64 -> (P, R)."""
        parts = []
        for first, half in enumerate(self.halves):
            mine = slices[:, first::2]
            parts.append(self._gathered(half, torch.cat([mine.real, mine.imag], 1)))
        return torch.cat(parts)

    def _gathered(self, half: _Half, rows: Tensor) -> Tensor:
        """(V, 2M, R) of one parity -> (P, R): the adjoint of `_spread`."""
        rings, count = rows.shape[2], len(self.turns)
        flat = rows.reshape(len(rows), -1)
        waves = torch.empty(count, self.turns[0].shape[1], flat.shape[1])
        at = 0
        for turn, wave in zip(self.turns, waves, strict=True):
            torch.mm(turn.T, flat[at : at + len(turn)], out=wave)
            at += len(turn)
        summed = waves.view(count, -1, 2, rows.shape[1], rings).permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)
        found = torch.bmm(half.table.mT, summed)
        n = found.shape[1] // 2
        plus = found[:, :n, :rings] - found[:, n:, rings:]
        minus = found[:, n:, :rings] + found[:, :n, rings:]
        return torch.cat([plus.flatten(0, 1), minus.flatten(0, 1)])[half.place]

    def variance(self, harmonics: Tensor) -> Tensor:
        """(P, R) independent variances of the harmonics -> (M, R): of a real component of a slice, mean over views."""
        parts = (harmonics[: self.split], harmonics[self.split :])
        share = torch.tensor([float(len(t)) for t in self.turns]) / len(self)
        even, odd = (_spread_variance(half, part, share) for half, part in zip(self.halves, parts, strict=True))
        found = torch.empty(len(even) + len(odd), harmonics.shape[1])
        found[0::2], found[1::2] = even, odd
        return found

    def power(self, weight: Tensor) -> Tensor:
        """(P, R): diagonal of the normal matrix for weights (V, R) on all orders of a ring."""
        sums, at = [], 0
        for turn in self.turns:
            waves = turn.view(len(turn), -1, 2)
            sums.append(torch.einsum("jmi,jmk,jr->mikr", waves, waves, weight[at : at + len(turn)]))
            at += len(turn)
        return torch.cat([_squared(half, torch.stack(sums)) for half in self.halves])


def _spread_variance(half: _Half, variance: Tensor, share: Tensor) -> Tensor:
    """(P, R) of one parity -> (M, R); share (T,): of the views on each ring of latitude.

    Over the azimuths of a ring cos^2 and sin^2 have the mean 1/2 and their product none.
    """
    n = half.at.shape[1]
    squares = half.table.view(len(half.table), len(share), -1, 2 * n) ** 2
    whole = torch.einsum("mtin,t->min", squares[..., :n] + squares[..., n:], share)
    whole[1:] *= 0.5
    padded = torch.cat([variance, torch.zeros(1, variance.shape[1])])
    found = torch.einsum("min,mnr->ir", whole, padded[half.at] + padded[half.other])
    return 0.5 * (found[: len(found) // 2] + found[len(found) // 2 :])


def _squared(half: _Half, sums: Tensor) -> Tensor:
    """(P, R) of one parity; sums (T, L+1, 2, 2, R): sums over azimuths of products of cos and sin, weighted."""
    n = half.at.shape[1]
    table = half.table.view(len(half.table), len(sums), -1, 2 * n)
    cosine, sine = table[..., :n], table[..., n:]
    pairs = [(a * b).sum(2).transpose(0, 1) for a, b in ((cosine, cosine), (sine, sine), (cosine, sine))]
    whole, other, mixed = (torch.einsum("tmn,tmikr->mnikr", p, sums) for p in pairs)
    up = whole[..., 0, 0, :] - 2 * mixed[..., 0, 1, :] + other[..., 1, 1, :]
    down = other[..., 0, 0, :] + 2 * mixed[..., 0, 1, :] + whole[..., 1, 1, :]
    return torch.cat([up.flatten(0, 1), down.flatten(0, 1)])[half.place]


def _half(values: Array, circle: Circle, degree: int, parity: int) -> _Half:
    """The map of one parity from harmonics (T, angles/2, (L+1)^2) on the first plane of each ring of latitude."""
    degrees = np.arange(parity, degree + 1, 2)
    m = np.arange(degree + 1)[:, None]
    present, signed = degrees >= m, (degrees >= m) & (m > 0)
    column = degrees**2 + degrees
    starts = np.concatenate([[0], np.cumsum(2 * degrees + 1)])
    count = int(starts[-1])
    at = np.where(present, starts[:-1] + degrees + m, count)
    other = np.where(signed, starts[:-1] + degrees - m, count)
    analysis = circle.analysis[parity].T.double().numpy()
    scale = np.full(len(analysis) // 2, math.sqrt(2))
    scale[0] = math.sqrt(2) if parity else 1.0
    analysis = analysis * np.tile(scale, 2)[:, None]
    parts = [
        np.einsum("ra,tamn->mtrn", analysis, values[:, :, np.where(there, column + sign * m, 0)] * there, optimize=True)
        for sign, there in ((1, present), (-1, signed))
    ]
    table = np.concatenate(parts, 3).reshape(degree + 1, -1, 2 * len(degrees))
    place = np.empty(count, dtype=np.int64)
    place[at[present]] = np.flatnonzero(present)
    place[other[signed]] = at.size + np.flatnonzero(signed)
    whole = [torch.as_tensor(x) for x in (at, other, place)]
    return _Half(torch.as_tensor(table, dtype=torch.float32), *whole)
