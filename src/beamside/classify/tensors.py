"""The search and the sums in plain tensor operations, for a GPU; on the CPU they are the oracle of the compiled loops.

Operands of a pass are uploaded once, particles block by block; poses and sums come back. Sums over particles are added
in no fixed order on a GPU: runs agree to rounding there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from beamside.classify.average import Accumulator, component_columns
from beamside.classify.reference import Bank, Frame
from beamside.classify.search import Poses, Rotations, Workspace, rotations, search
from beamside.compute.device import chosen, require_agreement

BLOCK = 1024
"""Particles at a time: enough to fill a GPU."""
_TILE_BYTES = 1 << 29


def search_tensors(
    vectors: Tensor,
    ctf2: Tensor,
    bank: Bank,
    turns: Rotations,
    *,
    best: int,
    bonus: Tensor | None = None,
    first: Tensor | None = None,
) -> Poses:
    """As `search.search`, on the device on which all operands are."""
    count, columns = len(vectors), bank.shifts * bank.classes
    block = _laid_out(vectors, bank)
    per_column = 4 * count * (2 * len(block) + 6 * len(turns.even[0]))
    width = max(1, min(columns, _TILE_BYTES // max(1, per_column)))
    tiles = [slice(at, min(columns, at + width)) for at in range(0, columns, width)]
    top = torch.cat([_tile(block, bank, tile, turns) for tile in tiles], 1).view(count, bank.shifts, bank.classes)
    value = top.amax(1) - 0.5 * ctf2 @ bank.ring_power.T
    if bonus is not None:
        value = value + bonus
    score, label = _ranked(value, min(best, bank.classes), first)
    shift = top.gather(2, label[:, None].expand(-1, bank.shifts, -1)).argmax(1)
    return Poses(score, label, _rotation(block, bank, turns, label, shift), shift)


def _laid_out(vectors: Tensor, bank: Bank) -> Tensor:
    """(M, b, 2P): the block's vectors by order; the column -1 is one of zeros."""
    padded = torch.cat([vectors, vectors.new_zeros(len(vectors), 1)], 1)
    return padded[:, bank.columns].transpose(0, 1).contiguous()


def _tile(block: Tensor, bank: Bank, part: slice, turns: Rotations) -> Tensor:
    """(b, columns of the tile): the best score over all rotations, see `kernels.best_of_quarters`."""
    orders, count, _ = block.shape
    evens, width = turns.even[0].shape[1], part.stop - part.start
    x = torch.empty(orders, count, width, device=block.device)
    y = torch.empty_like(x)
    for first, last, entries in bank.groups:
        rows = block[first:last, :, :entries]
        torch.bmm(rows, bank.real[first:last, :entries, part], out=x[first:last])
        torch.bmm(rows, bank.imaginary[first:last, :entries, part], out=y[first:last])
    x, y = x.flatten(1), y.flatten(1)
    ee, eo = turns.even[0] @ x[:evens], turns.odd[0] @ x[evens:]
    oe, oo = turns.even[1] @ y[:evens], turns.odd[1] @ y[evens:]
    near = (ee + eo + (oe + oo).abs_()).amax(0)
    far = (ee - eo + (oo - oe).abs_()).amax(0)
    return torch.maximum(near, far).view(count, width)


def _ranked(value: Tensor, kept: int, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores and labels (b, kept), best first; of equal ones that class which comes first from `first` on."""
    classes = value.shape[1]
    if first is None:
        first = torch.zeros(len(value), dtype=torch.int64, device=value.device)
    order = (first[:, None] + torch.arange(classes, device=value.device)) % classes
    score, place = value.gather(1, order).sort(dim=1, descending=True, stable=True)
    return score[:, :kept], order.gather(1, place[:, :kept])


def _rotation(block: Tensor, bank: Bank, turns: Rotations, label: Tensor, shift: Tensor) -> Tensor:
    """(b, T): best rotation of the chosen columns, between grid points by a parabola."""
    chosen = bank.rows[shift * bank.classes + label]
    x, y = (torch.einsum("mbj,btmj->btm", block, chosen[:, :, part]) for part in (0, 1))
    even, odd = x @ turns.cosines, y @ turns.sines
    circle = torch.cat([even + odd, (even - odd)[..., 1:-1].flip(-1)], -1)
    at = circle.argmax(-1, keepdim=True)
    before, peak, after = (circle.gather(-1, (at + step) % turns.count)[..., 0] for step in (-1, 0, 1))
    curvature = (before - 2 * peak + after).clamp(max=-1e-9)
    offset = (0.5 * (before - after) / curvature).clamp(-0.5, 0.5)
    return (at[..., 0] + offset) * (2 * math.pi / turns.count)


class TensorAccumulator(Accumulator):
    """As `Accumulator`, with its sums on a device until `collected`."""

    def __init__(self, classes: int, frame: Frame, device: torch.device) -> None:
        super().__init__(classes, frame)
        real, imaginary = component_columns(frame.encoder.subspace.sizes)
        self._real, self._imaginary = real.to(device), imaginary.to(device)
        self._angular = frame.encoder.subspace.orders.long().to(device)
        self._most = torch.arange(frame.orders, device=device)
        self.buckets, self.ctf2, self.weight = (t.to(device) for t in (self.buckets, self.ctf2, self.weight))

    def add(self, vectors: Tensor, ctf2: Tensor, poses: Poses, weights: Tensor) -> None:
        """Particles (b, 2D) at all their candidate poses, weighted (b, T)."""
        row, column = weights.nonzero(as_tuple=True)
        label, weight = poses.label[row, column], weights[row, column]
        phase = poses.alpha[row, column, None] * self._most
        cosine = (weight[:, None] * torch.cos(phase))[:, self._angular]
        sine = (weight[:, None] * torch.sin(phase))[:, self._angular]
        some = vectors[row]
        x, y = some[:, self._real], some[:, self._imaginary]
        turned = torch.cat([x * cosine - y * sine, x * sine + y * cosine], 1)
        self.buckets.index_add_(0, label * self._shifts + poses.shift[row, column], turned)
        self.ctf2.index_add_(0, label, ctf2[row] * weight[:, None])
        self.weight.index_add_(0, label, weight)

    def collected(self) -> TensorAccumulator:
        """The sums back on the host."""
        self.buckets, self.ctf2, self.weight = (t.cpu() for t in (self.buckets, self.ctf2, self.weight))
        return self


def chosen_device(asked: str) -> torch.device | None:
    """The device of the search for --device auto, cpu or cuda; None: the processor's compiled loops.

    Raises:
        OptionError: no such device, or it computes something else than the processor does.
    """
    if (name := chosen(asked)) == "cpu":
        return None
    device = torch.device(name)
    require_same_search(device)
    return device


def require_same_search(device: torch.device) -> None:
    """A small search on `device` gives the scores and labels that the compiled loops give.

    Raises:
        OptionError: it does not, or cannot be done there.
    """
    generator = torch.Generator().manual_seed(0)
    made, turns = _sample_bank(generator), rotations(8)
    vectors, ctf2 = torch.randn(32, 64, generator=generator), torch.rand(32, 5, generator=generator)
    loops = search(vectors, ctf2, made, turns, Workspace(made, turns), best=2)

    def there() -> tuple[Tensor, Tensor]:
        found = search_tensors(vectors.to(device), ctf2.to(device), made.to(device), turns.to(device), best=2)
        return found.score, found.label

    require_agreement(device.type, "a test search", (loops.score, loops.label), there)


def _sample_bank(generator: torch.Generator) -> Bank:
    """Random operands of 8 orders, 4 components an order, 3 shifts and 6 classes."""
    real = torch.randn(8, 8, 18, generator=generator)
    imaginary = torch.randn(8, 8, 18, generator=generator)
    rows = torch.stack([real.permute(2, 0, 1), imaginary.permute(2, 0, 1)], 1).contiguous()
    columns = torch.arange(64).view(8, 8)
    return Bank(real, imaginary, rows, columns, ((0, 4, 8), (4, 8, 8)), torch.rand(6, 5, generator=generator), 6, 3)


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copies of some tensors."""
    return [t.to(device) for t in tensors]
