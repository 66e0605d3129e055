"""Class averages in whitened angular coefficients, and the bank of their shifted copies that particles are matched to.

A class average is A (M, R): sqrt(multiplicity x ring weight) times its coefficients, so that its norm is that of the
likelihood. A particle is the average shifted by s, then turned by alpha. Shifts act on the reference, so a block of
particles meets all classes and shifts in one matrix product an order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beamside.classify.encode import Encoder
from beamside.classify.polar import ShiftGrid, to_angles, to_orders
from beamside.compute.lanes import blocks, over_lanes


@dataclass(frozen=True)
class Frame:
    """The coordinates of one stage: encoder, shifts, and the metric between them."""

    encoder: Encoder
    shifts: ShiftGrid

    @property
    def orders(self) -> int:
        """Angular frequencies that the subspace keeps."""
        return len(self.encoder.subspace.vectors)

    @property
    def metric(self) -> Tensor:
        """(M, R): what an unscaled coefficient is multiplied by to be whitened."""
        rings = self.encoder.rings
        return torch.sqrt(rings.multiplicity[: self.orders, None] * self.encoder.ring_weight)


@dataclass(frozen=True)
class Bank:
    """Operands of the search: for each order the (2p, 2 S K) matrix, ring powers (K, R), sizes."""

    operands: tuple[Tensor, ...]
    ring_power: Tensor
    classes: int
    shifts: int


def shifted(averages: Tensor, frame: Frame, threads: int = 1) -> Tensor:
    """(K, M, R) -> (K, S, D) complex64: every average at every shift, in the subspace."""
    vectors = frame.encoder.subspace.vectors
    metric, angles = frame.metric, frame.shifts.phases.shape[-1]
    copies = torch.empty(
        len(averages), len(frame.shifts.phases), frame.encoder.subspace.dimension, dtype=torch.complex64
    )

    def lane(pieces: Sequence[slice]) -> None:
        for k in pieces:
            value = to_angles(averages[k] / metric, angles)[0]
            moved = to_orders(value * frame.shifts.phases, frame.orders) * metric
            torch.cat([moved[:, m] @ v.conj() for m, v in enumerate(vectors)], 1, out=copies[k.start])

    over_lanes(lane, blocks(len(averages), 1), threads)
    return copies


def unshifted(sums: Tensor, frame: Frame, threads: int = 1) -> Tensor:
    """(K, S, D) -> (K, M, R): the adjoint of `shifted`, summed over shifts."""
    vectors, offsets = frame.encoder.subspace.vectors, frame.encoder.subspace.offsets
    metric, phases = frame.metric, frame.shifts.phases
    averages = torch.empty(len(sums), *metric.shape, dtype=torch.complex64)

    def lane(pieces: Sequence[slice]) -> None:
        for k in pieces:
            part = sums[k.start]
            rows = [part[:, offsets[m] : offsets[m + 1]] @ v.T for m, v in enumerate(vectors)]
            values = to_angles(torch.stack(rows, 1) / metric, phases.shape[-1])
            averages[k.start] = to_orders((values * phases.conj()).sum(0), frame.orders) * metric

    over_lanes(lane, blocks(len(sums), 1), threads)
    return averages


def bank(averages: Tensor, frame: Frame, threads: int = 1) -> Bank:
    """The operands for `search`; averages (K, M, R)."""
    offsets = frame.encoder.subspace.offsets
    copies = shifted(averages, frame, threads)
    classes, shifts = copies.shape[:2]
    operands = []
    for m in range(frame.orders):
        part = copies[:, :, offsets[m] : offsets[m + 1]].permute(2, 1, 0).reshape(-1, shifts * classes)
        # conj(y) a = (yr ar + yi ai) + i (yr ai - yi ar), y stored as [yr | yi]
        real, imaginary = torch.cat([part.real, part.imag]), torch.cat([part.imag, -part.real])
        operands.append(torch.cat([real, imaginary], 1).contiguous())
    return Bank(tuple(operands), (averages.abs() ** 2).sum(1), classes, shifts)
