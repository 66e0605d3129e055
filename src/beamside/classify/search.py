"""Scores of a block of particles against every class, shift and rotation, and the best poses.

For each order one product gives the inner products with all shifted classes; then, with E = sum_m Re cos(m alpha) and
O = sum_m Im sin(m alpha) on half of the rotations, the score at +-alpha is E +- O and the better of the two is E + |O|:
half of the work of a full rotation product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from beamside.classify.reference import Bank


@dataclass(frozen=True)
class Rotations:
    """Half of an even grid of rotations: cosines and sines of m alpha for alpha in [0, pi], (H, M) each."""

    cosines: Tensor
    sines: Tensor
    count: int
    """Rotations of the full circle, 2 (H - 1)."""


def rotations(orders: int) -> Rotations:
    """About 2 orders + 8 rotations: the finest order is sampled above its Nyquist rate."""
    count = 2 * (orders + 4)
    angle = torch.arange(count // 2 + 1, dtype=torch.float64)[:, None] * (2 * math.pi / count)
    phase = angle * torch.arange(orders)
    return Rotations(torch.cos(phase).float(), torch.sin(phase).float(), count)


@dataclass(frozen=True)
class Poses:
    """The best T classes of each particle, best first; every field is (n, T)."""

    score: Tensor
    """Log-likelihood ratio against an empty reference, plus what `bonus` added."""
    label: Tensor
    alpha: Tensor
    """Rotation that takes the class average to the particle, radians."""
    shift: Tensor
    """Index into the shift grid."""


class Workspace:
    """Buffers of one thread for blocks of up to `size` particles; allocation would cost as much as the products."""

    def __init__(self, bank: Bank, turns: Rotations, size: int) -> None:
        self.size = size
        columns, orders = bank.shifts * bank.classes, len(bank.operands)
        self.product = torch.empty(size, 2 * columns)
        self.real = torch.empty(orders, size, columns)
        self.imaginary = torch.empty(orders, size, columns)
        self.even = torch.empty(len(turns.cosines), size * columns)
        self.odd = torch.empty(len(turns.cosines), size * columns)


def block_size(bank: Bank, turns: Rotations) -> int:
    """Particles a block: its buffers take about 6 MB, which stays in the last-level cache."""
    per_particle = 4 * bank.shifts * bank.classes * 2 * (len(bank.operands) + len(turns.cosines) + 1)
    return max(4, min(64, 6_000_000 // per_particle))


def search(
    vectors: Tensor, ctf2: Tensor, bank: Bank, turns: Rotations, space: Workspace, *, best: int, bonus: Tensor | None
) -> Poses:
    """Vectors (b, 2D) and relative ring C^2 (b, R) against the bank; the `best` classes of each particle.

    bonus: (b, K) added to the scores before they are ranked: log priors, leave-one-out corrections.
    """
    count, columns = len(vectors), bank.shifts * bank.classes
    real, imaginary = space.real[:, :count], space.imaginary[:, :count]
    if count < space.size:
        real, imaginary = real.contiguous(), imaginary.contiguous()
    at = 0
    for m, operand in enumerate(bank.operands):
        product = torch.mm(vectors[:, at : at + len(operand)], operand, out=space.product[:count])
        real[m], imaginary[m] = product[:, :columns], product[:, columns:]
        at += len(operand)
    even = torch.mm(
        turns.cosines,
        real.view(len(real), -1),
        out=space.even[:, : count * columns].view(-1, count * columns) if count == space.size else None,
    )
    odd = torch.mm(turns.sines, imaginary.view(len(real), -1), out=space.odd if count == space.size else None)
    top = even.add_(odd.abs_()).amax(0).view(count, bank.shifts, bank.classes)
    value = top.amax(1) - 0.5 * ctf2 @ bank.ring_power.T
    if bonus is not None:
        value = value + bonus
    score, label = value.topk(min(best, bank.classes), 1)
    shift = top.gather(2, label[:, None, :].expand(-1, bank.shifts, -1)).argmax(1)
    column = shift * bank.classes + label + torch.arange(count)[:, None] * columns
    return Poses(score, label, _best_rotation(real, imaginary, column, turns), shift)


def _best_rotation(real: Tensor, imaginary: Tensor, column: Tensor, turns: Rotations) -> Tensor:
    """(b, T) angle of the best rotation of the chosen columns, between grid points by a parabola."""
    orders = len(real)
    even = turns.cosines @ real.reshape(orders, -1)[:, column.flatten()]
    odd = turns.sines @ imaginary.reshape(orders, -1)[:, column.flatten()]
    circle = torch.cat([even + odd, (even - odd)[1:-1].flip(0)])
    peak, index = circle.max(0)
    before, after = (circle.gather(0, ((index + d) % turns.count)[None])[0] for d in (-1, 1))
    curvature = (before - 2 * peak + after).clamp(max=-1e-9)
    offset = (0.5 * (before - after) / curvature).clamp(-0.5, 0.5)
    return ((index + offset) * (2 * math.pi / turns.count)).view(column.shape)
