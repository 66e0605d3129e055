"""Class averages in whitened angular coefficients, and the bank of their shifted copies that particles are matched to.

A class average is A (M, R): sqrt(multiplicity x ring weight) times its coefficients, so that its norm is that of the
likelihood. A particle is the average shifted by s, then turned by alpha. Shifts act on the reference, so a block of
particles meets all classes and shifts in one matrix product an order.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from beamside.classify.encode import Encoder
from beamside.classify.polar import ShiftGrid
from beamside.compute.lanes import blocks, over_lanes

_CLASSES = 16
"""Classes that are shifted at once: their copies stay in cache."""
_OPERANDS = ("real", "imaginary", "rows", "columns", "ring_power")


@dataclass(frozen=True)
class Frame:
    """The coordinates of one stage: encoder, shifts, and the metric between them."""

    encoder: Encoder
    shifts: ShiftGrid

    @property
    def orders(self) -> int:
        """Angular frequencies that the subspace keeps."""
        return len(self.encoder.subspace.vectors)

    @cached_property
    def metric(self) -> Tensor:
        """(M, R): what an unscaled coefficient is multiplied by to be whitened."""
        rings = self.encoder.rings
        return torch.sqrt(rings.multiplicity[: self.orders, None] * self.encoder.ring_weight)


@dataclass(frozen=True)
class Bank:
    """Operands of the search, orders even ones first.

    real, imaginary: (M, 2P, S K), what a laid-out particle is multiplied by to give Re and Im of conj(y) a; real and
    imaginary parts of a component follow each other.
    rows: (S K, 2, M, 2P), the same two by column: a chosen column is read at once.
    columns: (M, 2P) int64, where each entry of a laid-out particle stands in its stored vector, -1 for padding.
    groups: first and last+1 order, and how many of the 2P entries these orders have at most.
    ring_power: (K, R).
    """

    real: Tensor
    imaginary: Tensor
    rows: Tensor
    columns: Tensor
    groups: tuple[tuple[int, int, int], ...]
    ring_power: Tensor
    classes: int
    shifts: int

    def only(self, classes: Tensor) -> Bank:
        """The bank of some classes."""
        shifts = torch.arange(self.shifts, device=classes.device)
        columns = (shifts[:, None] * self.classes + classes).flatten()
        real, imaginary = self.real[:, :, columns], self.imaginary[:, :, columns]
        return replace(
            self,
            real=real,
            imaginary=imaginary,
            rows=self.rows[columns],
            ring_power=self.ring_power[classes],
            classes=len(classes),
        )

    def to(self, device: torch.device) -> Bank:
        """The operands on a device."""
        moved = {name: getattr(self, name).to(device) for name in _OPERANDS}
        return replace(self, **moved)


def shifted(averages: Tensor, frame: Frame, threads: int = 1) -> Tensor:
    """(K, M, R) -> (M, R, S, K) complex64: every average at every shift."""
    count = len(averages)
    copies = torch.empty(*averages.shape[1:], len(frame.shifts.phases), count, dtype=torch.complex64)

    def lane(pieces: Sequence[slice]) -> None:
        for piece in pieces:
            values = frame.shifts.circle.values(averages[piece] / frame.metric)
            moved = frame.shifts.circle.orders(values[:, None] * frame.shifts.phases)
            copies[..., piece] = (moved * frame.metric).permute(2, 3, 1, 0)

    over_lanes(lane, blocks(count, _CLASSES), threads)
    return copies


def unshifted(sums: Tensor, frame: Frame, threads: int = 1) -> Tensor:
    """(K, S, D) -> (K, M, R): the adjoint of `shifted` within the subspace, summed over shifts."""
    vectors, offsets = frame.encoder.subspace.vectors, frame.encoder.subspace.offsets
    averages = torch.empty(len(sums), *frame.metric.shape, dtype=torch.complex64)
    back = frame.shifts.phases.conj()

    def lane(pieces: Sequence[slice]) -> None:
        for piece in pieces:
            part = sums[piece]
            rows = [part[..., offsets[m] : offsets[m + 1]] @ v.T for m, v in enumerate(vectors)]
            values = frame.shifts.circle.values(torch.stack(rows, 2) / frame.metric)
            averages[piece] = frame.shifts.circle.orders((values * back).sum(1)) * frame.metric

    over_lanes(lane, blocks(len(sums), _CLASSES), threads)
    return averages


def bank(averages: Tensor, frame: Frame, threads: int = 1) -> Bank:
    """The operands for `search`; averages (K, M, R)."""
    subspace = frame.encoder.subspace
    copies = shifted(averages, frame, threads).flatten(2)
    orders = [*range(0, frame.orders, 2), *range(1, frame.orders, 2)]
    most = max(subspace.sizes)
    real = torch.zeros(frame.orders, 2 * most, copies.shape[2])
    imaginary = torch.zeros_like(real)
    columns = torch.full((frame.orders, 2 * most), -1, dtype=torch.int64)

    def lane(pieces: Sequence[slice]) -> None:
        for row in (r for piece in pieces for r in range(piece.start, piece.stop)):
            m = orders[row]
            size, at = subspace.sizes[m], 2 * subspace.offsets[m]
            part = subspace.vectors[m].mH @ copies[m]
            # conj(y) a = (yr ar + yi ai) + i (yr ai - yi ar), y stored as [yr | yi]
            first, second = slice(0, 2 * size, 2), slice(1, 2 * size, 2)
            real[row, first], real[row, second] = part.real, part.imag
            imaginary[row, first], imaginary[row, second] = part.imag, -part.real
            columns[row, first] = torch.arange(at, at + size)
            columns[row, second] = torch.arange(at + size, at + 2 * size)

    over_lanes(lane, blocks(frame.orders, 1), threads)
    rows = torch.empty(real.shape[2], 2, *real.shape[:2])
    rows[:, 0], rows[:, 1] = real.permute(2, 0, 1), imaginary.permute(2, 0, 1)
    groups = _groups([subspace.sizes[m] for m in orders], -(-frame.orders // 2))
    return Bank(
        real, imaginary, rows, columns, groups, (averages.abs() ** 2).sum(1), len(averages), len(frame.shifts.phases)
    )


def _groups(sizes: Sequence[int], evens: int) -> tuple[tuple[int, int, int], ...]:
    """Even and odd orders in two parts each: high orders have few components, and padding is work."""
    cuts = [0, evens // 2, evens, evens + (len(sizes) - evens) // 2, len(sizes)]
    return tuple((a, b, 2 * max(sizes[a:b])) for a, b in itertools.pairwise(cuts) if b > a)
