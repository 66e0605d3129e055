"""Scores of a block of particles against every class, shift and rotation, and the best poses.

For each order one product gives the inner products with all shifted classes. Scores of all rotations then follow from
products with tables on a quarter of the circle, since cos and sin of m (pi - alpha) are those of m alpha up to a sign:
a quarter of the work of a full rotation product. Columns (shift, class) are taken in tiles whose buffers stay in cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from beamside.classify import kernels
from beamside.classify.reference import Bank

_TILE_BYTES = 12_000_000
_TILE_COLUMNS = 1024
LARGEST_BLOCK = 128
"""Particles at a time: enough that the products outweigh their calls, few enough that buffers stay in cache."""


@dataclass(frozen=True)
class Rotations:
    """An even grid of rotations: tables of cos and sin of m alpha, orders even ones first.

    even, odd: (Q, M_even or M_odd) cosines and sines for alpha in [0, pi/2]; cosines, sines: (M, H) for [0, pi].
    """

    even: tuple[Tensor, Tensor]
    odd: tuple[Tensor, Tensor]
    cosines: Tensor
    sines: Tensor
    count: int
    """Rotations of the full circle, 2 (H - 1)."""

    def to(self, device: torch.device) -> Rotations:
        """The tables on a device."""
        even, odd = ((c.to(device), s.to(device)) for c, s in (self.even, self.odd))
        return Rotations(even, odd, self.cosines.to(device), self.sines.to(device), self.count)


def rotations(orders: int) -> Rotations:
    """About 2 orders + 8 rotations: the finest order is sampled above its Nyquist rate."""
    count = 4 * -(-(orders + 4) // 2)
    angle = torch.arange(count // 2 + 1, dtype=torch.float64)[:, None] * (2 * math.pi / count)
    even, odd = torch.arange(0, orders, 2), torch.arange(1, orders, 2)
    quarter = angle[: count // 4 + 1]
    full = (angle * torch.cat([even, odd])).T
    return Rotations(
        (torch.cos(quarter * even).float(), torch.sin(quarter * even).float()),
        (torch.cos(quarter * odd).float(), torch.sin(quarter * odd).float()),
        torch.cos(full).float().contiguous(),
        torch.sin(full).float().contiguous(),
        count,
    )


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

    def cpu(self) -> Poses:
        """The same on the host."""
        return Poses(self.score.cpu(), self.label.cpu(), self.alpha.cpu(), self.shift.cpu())


class Workspace:
    """Buffers of one thread; allocation would cost as much as the products."""

    def __init__(self, bank: Bank, turns: Rotations, size: int = LARGEST_BLOCK) -> None:
        orders, quarters = len(bank.real), len(turns.even[0])
        columns = bank.shifts * bank.classes
        self.size = size
        per_column = 4 * self.size * (2 * orders + 4 * quarters + 1)
        self.tile = max(64, min(columns, _TILE_COLUMNS, _TILE_BYTES // per_column))
        self.block = torch.empty(orders, self.size, bank.real.shape[1])
        self.product = torch.empty(2, orders * self.size * self.tile)
        self.sums = torch.empty(4, quarters * self.size * self.tile)
        self.best = torch.empty(self.size * self.tile)
        self.top = torch.empty(self.size, columns)


def search(
    vectors: Tensor,
    ctf2: Tensor,
    bank: Bank,
    turns: Rotations,
    space: Workspace,
    *,
    best: int,
    bonus: Tensor | None = None,
    first: Tensor | None = None,
) -> Poses:
    """Vectors (b, 2D) and relative ring C^2 (b, R) against the bank; the `best` classes of each particle.

    bonus: (b, K) added to the scores before they are ranked: log priors, leave-one-out corrections.
    first: (b,) the class that each particle's search begins with, which wins where scores are equal.
    """
    count, columns = len(vectors), bank.shifts * bank.classes
    block = _laid_out(vectors, bank, space)
    top = space.top[:count]
    for at in range(0, columns, space.tile):
        part = slice(at, min(columns, at + space.tile))
        top[:, part] = _tile(block, bank, part, turns, space)
    offset = 0.5 * ctf2 @ bank.ring_power.T
    if bonus is not None:
        offset -= bonus
    kept = min(best, bank.classes)
    score, alpha = torch.empty(count, kept), torch.empty(count, kept)
    label, shift = torch.empty(count, kept, dtype=torch.int64), torch.empty(count, kept, dtype=torch.int64)
    stacked = top.view(count, bank.shifts, bank.classes).numpy()
    if first is None:
        first = torch.zeros(count, dtype=torch.int64)
    kernels.choose(stacked, offset.numpy(), first.numpy(), score.numpy(), label.numpy(), shift.numpy())
    kernels.best_rotation(
        block.numpy(), bank.rows.numpy(), label.numpy(), shift.numpy(), bank.classes,
        turns.cosines.numpy(), turns.sines.numpy(), alpha.numpy(),
    )  # fmt: skip
    return Poses(score, label, alpha, shift)


def _laid_out(vectors: Tensor, bank: Bank, space: Workspace) -> Tensor:
    """(M, b, 2P): the block's vectors by order."""
    count = len(vectors)
    orders, _, width = space.block.shape
    block = space.block.view(-1)[: orders * count * width].view(orders, count, width)
    kernels.gather(vectors.numpy(), bank.columns.numpy(), block.numpy())
    return block


def _tile(block: Tensor, bank: Bank, part: slice, turns: Rotations, space: Workspace) -> Tensor:
    """(b, columns of the tile): the best score over all rotations."""
    orders, count, width = len(block), block.shape[1], part.stop - part.start
    size = count * width
    evens, quarters = turns.even[0].shape[1], len(turns.even[0])
    x, y = (space.product[i, : orders * size].view(orders, count, width) for i in (0, 1))
    for first, last, entries in bank.groups:
        rows = block[first:last, :, :entries]
        torch.bmm(rows, bank.real[first:last, :entries, part], out=x[first:last])
        torch.bmm(rows, bank.imaginary[first:last, :entries, part], out=y[first:last])
    x, y = x.view(orders, size), y.view(orders, size)
    sums = [space.sums[i, : quarters * size].view(quarters, size) for i in range(4)]
    torch.mm(turns.even[0], x[:evens], out=sums[0])
    torch.mm(turns.odd[0], x[evens:], out=sums[1])
    torch.mm(turns.even[1], y[:evens], out=sums[2])
    torch.mm(turns.odd[1], y[evens:], out=sums[3])
    best = space.best[:size]
    ee, eo, oe, oo = (s.numpy() for s in sums)
    kernels.best_of_quarters(ee, eo, oe, oo, best.numpy())
    return best.view(count, width)
