"""The E-step: particles of a frame against the averages, responsibilities, and the sums for the next averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from beamside.classify import tensors
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
    weight = weight.masked_fill(weight <= LEAST_WEIGHT, 0.0)
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
    device: torch.device | None = None
    """Where the search runs; None: on the processor, in compiled loops."""

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
        device: torch.device | None = None,
    ) -> Expectation:
        """Operands made from the averages; `leave` tells what a particle itself has put into them."""
        made, turns = bank(averages.values, frame, threads), rotations(frame.orders)
        if device is not None:
            made, turns, leave = made.to(device), turns.to(device), None if leave is None else leave.to(device)
        return cls(frame, averages, made, turns, temperature, best, seed, leave, device)

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
        groups = [Group(rows, None)] if among is None else among.groups(rows, self.bank.classes)
        if self.device is not None:
            total = self._on(self.device, vectors, ctf2, groups, known, sums=sums)
            return Accumulator.total([total], threads) if sums else None
        work = self._work(groups)

        def lane(numbers: Sequence[slice]) -> Accumulator:
            total = Accumulator(self.bank.classes, self.frame)
            for number in numbers:
                group, pieces = work[number.start]
                part = self.bank if group.classes is None else self.bank.only(group.classes)
                find = partial(
                    search, bank=part, turns=self.turns, space=Workspace(part, self.turns, self._block(group))
                )
                for piece in pieces:
                    index = group.rows[piece]
                    block, c2 = vectors[index], ctf2[index]
                    poses = self._poses(block, c2, find, group.classes, index)
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

    def _on(
        self,
        device: torch.device,
        vectors: Tensor,
        ctf2: Tensor,
        groups: Sequence[Group],
        known: Assignment,
        *,
        sums: bool,
    ) -> Accumulator:
        """The same on a device, block after block; the sums are back on the host."""
        total = tensors.TensorAccumulator(self.bank.classes, self.frame, device)
        for group in groups:
            classes = None if group.classes is None else group.classes.to(device)
            part = self.bank if classes is None else self.bank.only(classes)
            find = partial(tensors.search_tensors, bank=part, turns=self.turns)
            for piece in blocks(len(group.rows), tensors.BLOCK):
                index = group.rows[piece]
                block, c2, here = tensors.to_device([vectors[index], ctf2[index], index], device)
                poses = self._poses(block, c2, find, classes, here)
                weight = responsibilities(poses.score, self.temperature)
                known.store(index, poses.cpu(), weight.cpu())
                if sums:
                    total.add(block, c2, poses, weight)
        return total.collected()

    def _poses(
        self, block: Tensor, c2: Tensor, find: Callable[..., Poses], classes: Tensor | None, index: Tensor
    ) -> Poses:
        """The search of a block, among all classes or some."""
        bonus = None if self.leave is None else -self.leave.own(self._power(block), index)
        if classes is None:
            return find(block, c2, best=self.best, bonus=bonus, first=self._first(index))
        found = find(block, c2, best=self.best, bonus=None if bonus is None else bonus[:, classes])
        return Poses(found.score, classes[found.label], found.alpha, found.shift)

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
