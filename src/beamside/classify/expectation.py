"""The E-step: particles of a frame against the averages, responsibilities, and the sums for the next averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beamside.classify.average import Accumulator, Averages, Sums, component_columns
from beamside.classify.groups import Group, Grouping
from beamside.classify.leaveout import LeaveOut
from beamside.classify.reference import Bank, Frame, bank
from beamside.classify.search import LARGEST_BLOCK, Poses, Rotations, Workspace, rotations, search
from beamside.compute.lanes import LANES, blocks, over_lanes

_SMALLEST_BLOCK = 16
LEAST_WEIGHT = 0.02
"""Responsibilities below this are dropped and the rest renormalised."""


@dataclass
class Assignment:
    """What is known of every particle: T candidate poses, responsibilities, and its share in the present sums.

    score .. weight: (N, T); presence: (N,), the factor with which the particle's own contribution stands in the sums.
    """

    score: Tensor
    label: Tensor
    alpha: Tensor
    shift: Tensor
    weight: Tensor
    presence: Tensor

    @classmethod
    def empty(cls, count: int, best: int) -> Assignment:
        """Nothing assigned yet."""
        zero, whole = torch.zeros(count, best), torch.zeros(count, best, dtype=torch.int64)
        return cls(zero.clone(), whole.clone(), zero.clone(), whole.clone(), zero.clone(), torch.zeros(count))

    def rows(self, index: Tensor | slice) -> Poses:
        """The poses of some particles."""
        return Poses(self.score[index], self.label[index], self.alpha[index], self.shift[index])

    def store(self, index: Tensor, poses: Poses, weight: Tensor) -> None:
        """New poses of some particles; fewer candidates than T leave the rest at weight 0."""
        width = poses.label.shape[1]
        self.weight[index] = 0.0
        for name in ("score", "label", "alpha", "shift"):
            getattr(self, name)[index, :width] = getattr(poses, name)
        self.weight[index, :width] = weight

    def extended(self, count: int) -> Assignment:
        """The same for `count` particles, the new ones unassigned."""
        more = Assignment.empty(count - len(self.presence), self.label.shape[1])
        names = ("score", "label", "alpha", "shift", "weight", "presence")
        return Assignment(*(torch.cat([getattr(self, n), getattr(more, n)]) for n in names))


def responsibilities(score: Tensor, temperature: float) -> Tensor:
    """(b, T) softmax of scores / temperature without its small change."""
    weight = torch.softmax(score / temperature, 1)
    weight = torch.where(weight > LEAST_WEIGHT, weight, torch.zeros(()))
    return weight / weight.sum(1, keepdim=True)


@dataclass(frozen=True)
class Expectation:
    """One E-step's settings and operands, good for any rows of the particles."""

    frame: Frame
    averages: Averages
    bank: Bank
    turns: Rotations
    temperature: float
    best: int
    seed: int = 0
    leave: LeaveOut | None = None

    @classmethod
    def of(
        cls,
        frame: Frame,
        averages: Averages,
        temperature: float,
        best: int,
        threads: int = 1,
        seed: int = 0,
        leave: LeaveOut | None = None,
    ) -> Expectation:
        """Operands made from the averages; `leave` tells what a particle itself has put into them."""
        made = bank(averages.values, frame, threads)
        return cls(frame, averages, made, rotations(frame.orders), temperature, best, seed, leave)

    def run(
        self,
        vectors: Tensor,
        ctf2: Tensor,
        rows: Tensor,
        known: Assignment,
        threads: int,
        *,
        sums: bool = True,
        among: Grouping | None = None,
    ) -> Sums | None:
        """Assign `rows` anew, in place, and return their sums; with `among` each is searched in some classes alone."""
        work = self._work([Group(rows, None)] if among is None else among.groups(rows, self.bank.classes))

        def lane(numbers: Sequence[slice]) -> Accumulator:
            total = Accumulator(self.bank.classes, self.frame)
            for number in numbers:
                group, pieces = work[number.start]
                part = self.bank if group.classes is None else self.bank.only(group.classes)
                space = Workspace(part, self.turns, self._block(group))
                for piece in pieces:
                    index = group.rows[piece]
                    block, c2 = vectors[index], ctf2[index]
                    poses = self._poses(block, c2, part, space, group, index)
                    weight = responsibilities(poses.score, self.temperature)
                    known.store(index, poses, weight)
                    if sums:
                        total.add(block, c2, poses, weight)
            return total

        lanes = over_lanes(lane, blocks(len(work), 1), threads)
        return Accumulator.total(lanes, threads) if sums else None

    def _work(self, groups: Sequence[Group]) -> list[tuple[Group, list[slice]]]:
        """Blocks of particles that one lane does one after the other, so that operands of a group are made once."""
        if len(groups) > LANES:
            return [(g, blocks(len(g.rows), self._block(g))) for g in groups]
        return [(g, blocks(len(g.rows), self._block(g))[lane::LANES]) for g in groups for lane in range(LANES)]

    @staticmethod
    def _block(group: Group) -> int:
        return max(_SMALLEST_BLOCK, min(LARGEST_BLOCK, -(-len(group.rows) // LANES)))

    def _poses(
        self,
        block: Tensor,
        c2: Tensor,
        part: Bank,
        space: Workspace,
        group: Group,
        index: Tensor,
    ) -> Poses:
        """The search of a block among the classes of its group."""
        bonus = None if self.leave is None else -self.leave.own(self._power(block), index)
        if group.classes is None:
            first = self._first(index)
            return search(block, c2, part, self.turns, space, best=self.best, bonus=bonus, first=first)
        bonus = None if bonus is None else bonus[:, group.classes]
        found = search(block, c2, part, self.turns, space, best=self.best, bonus=bonus)
        return Poses(found.score, group.classes[found.label], found.alpha, found.shift)

    def _first(self, index: Tensor) -> Tensor:
        """(b,): the class at which a particle's search begins, so that equal scores favour no class."""
        return ((index + self.seed) * 2654435761 % 4294967296) % self.bank.classes

    def _power(self, block: Tensor) -> Tensor:
        """(b, D): squared components."""
        real, imaginary = component_columns(self.frame.encoder.subspace.sizes)
        return block[:, real] ** 2 + block[:, imaginary] ** 2


def accumulate(frame: Frame, classes: int, vectors: Tensor, ctf2: Tensor, known: Assignment, threads: int) -> Sums:
    """Sums of all particles at the poses and weights that they have, without a search."""

    def lane(pieces: Sequence[slice]) -> Accumulator:
        total = Accumulator(classes, frame)
        for piece in pieces:
            total.add(vectors[piece], ctf2[piece], known.rows(piece), known.weight[piece])
        return total

    return Accumulator.total(over_lanes(lane, blocks(len(vectors), 256), threads), threads)
