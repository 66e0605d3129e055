"""Random crops from more micrographs than memory holds: a pool of a few open ones, refilled by a thread.

The order of everything is a function of the seed and of when micrographs joined, never of the thread's speed: the
micrograph of the next visit is fixed when the present one enters the pool, and each visit draws its crops from a
generator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.compute.heap import give_back
from beamside.denoise.micrograph import Micrograph, Pixels
from beamside.errors import CapacityError

OPEN_MICROGRAPHS = 8
_LEAST_CROPS = 4
_BYTES_A_PIXEL = 4
"""Two halves in float16: with values cut at 8 spreads its rounding is far below the noise."""


@dataclass(frozen=True)
class Visit:
    """One opening of a micrograph: its number in the run, and which one."""

    number: int
    key: str


@dataclass
class _Slot:
    visit: Visit
    crops: Tensor
    used: int = 0


class CropLoader:
    """Batches of crop pairs (B, 2, c, c) float32, dihedral and half-swap augmentation applied.

    levels: (B, 2) of the batch that was drawn last (`Micrograph.levels`).
    """

    def __init__(self, pixels: Pixels, crop_px: int, budget_bytes: int, seed: int) -> None:
        self.pixels, self.crop_px, self.budget_bytes, self.seed = pixels, crop_px, budget_bytes, seed
        self.members: dict[str, Micrograph] = {}
        self._queue: list[str] = []
        self._visits = 0
        self._slots: list[_Slot] = []
        self._next: Visit | None = None
        self._prepared: Future[Tensor] | None = None
        self._rng = np.random.default_rng([seed, 1])
        self._thread: ThreadPoolExecutor | None = None
        self.levels = torch.ones(0, 2)

    def join(self, micrographs: Sequence[Micrograph]) -> None:
        """New micrographs come before the rest of the present round over all of them."""
        for found in micrographs:
            self.members[found.key] = found
        self._queue = [found.key for found in micrographs] + self._queue

    def __len__(self) -> int:
        return len(self.members)

    def draw(self, count: int) -> Tensor:
        """The next batch."""
        self._fill()
        out = np.empty((count, 2, self.crop_px, self.crop_px), dtype=np.float32)
        levels = []
        for target in out:
            slot = int(self._rng.integers(len(self._slots)))
            member = self.members[self._slots[slot].visit.key]
            target[...], swapped = augmented(self._take(slot), self._rng)
            levels.append(member.levels[::-1] if swapped else member.levels)
        self.levels = torch.tensor(levels)
        return torch.from_numpy(out)

    def close(self) -> None:
        """End the thread; what it prepared is made again from its visit if need be."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._thread, self._prepared = None, None

    # the pool

    def _fill(self) -> None:
        while len(self._slots) < min(OPEN_MICROGRAPHS, len(self.members)):
            self._slots.append(self._open())

    def _take(self, number: int) -> NDArray[np.float32]:
        slot = self._slots[number]
        crop: NDArray[np.float32] = slot.crops[slot.used].float().numpy()
        slot.used += 1
        if slot.used == len(slot.crops):
            # Its crops are let go before the next ones are taken, so the pool never grows past its size.
            slot.crops = slot.crops[:0]
            self._slots[number] = self._open()
        return crop

    def _open(self) -> _Slot:
        """The prepared visit enters the pool, and the thread begins the one after it."""
        visit = self._next or self._plan()
        crops = self._prepared.result() if self._prepared is not None else self._prepare(visit)
        self._next = self._plan()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="crops")
        self._prepared = self._thread.submit(self._prepare, self._next)
        return _Slot(visit, crops)

    def _plan(self) -> Visit:
        if not self._queue:
            order = np.random.default_rng([self.seed, 2, self._visits]).permutation(len(self.members))
            keys = list(self.members)
            self._queue = [keys[i] for i in order]
        self._visits += 1
        return Visit(self._visits - 1, self._queue.pop(0))

    def _prepare(self, visit: Visit) -> Tensor:
        """(n, 2, c, c) float16: the crops of a visit, in the thread or, after a resume, in the caller."""
        member = self.members[visit.key]
        rng = np.random.default_rng([self.seed, 3, visit.number])
        corners = draw_corners(member, self.crops_of(member), self.crop_px, rng)
        pixels = self.pixels.read(visit.key)
        crops = torch.empty(len(corners), 2, self.crop_px, self.crop_px, dtype=torch.float16)
        for target, (y, x) in zip(crops, corners, strict=True):
            target.copy_(torch.from_numpy(member.crop(pixels, y, x, self.crop_px, self.crop_px)))
        del pixels
        give_back()
        return crops

    def crops_of(self, member: Micrograph) -> int:
        """How many crops one visit cuts: as many as cover the micrograph once, or as the budget allows.

        Raises:
            CapacityError: capacity.declared, the budget does not hold one micrograph and the pool.
        """
        pool = self.budget_bytes - member.load_bytes
        one = _BYTES_A_PIXEL * self.crop_px**2
        most = pool // (one * (OPEN_MICROGRAPHS + 2))
        if most < _LEAST_CROPS:
            need = member.load_bytes + one * _LEAST_CROPS * (OPEN_MICROGRAPHS + 2)
            raise CapacityError(
                f"capacity.declared: a pair of {member.width_px} x {member.height_px} px and its crops take "
                f"{need / 2**20:.0f} MB; {self.budget_bytes / 2**20:.0f} MB are left of --memory.",
                where=member.key,
                remedy=f"Give --memory {round(need / 2**20 * 1.3):d}MB.",
            )
        (top, bottom), (left, right) = member.rows, member.columns
        return int(max(1, min(most, (bottom - top) * (right - left) // self.crop_px**2)))

    # state

    def state(self) -> dict[str, Any]:
        """Plain values: where everything stands. Pixels are read again."""
        return {
            "queue": list(self._queue),
            "visits": self._visits,
            "slots": [[slot.visit.number, slot.visit.key, slot.used] for slot in self._slots],
            "next": None if self._next is None else [self._next.number, self._next.key],
            "rng": self._rng.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state` was taken; the members have joined already."""
        self._queue, self._visits = list(state["queue"]), int(state["visits"])
        self._rng.bit_generator.state = state["rng"]
        self._next = None if state["next"] is None else Visit(*state["next"])
        self._slots = []
        for number, key, used in state["slots"]:
            visit = Visit(number, key)
            self._slots.append(_Slot(visit, self._prepare(visit), used))


def draw_corners(member: Micrograph, count: int, crop_px: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Corners (y, x) of crops inside the micrograph's rows; on its grid where it is made of patches."""
    (top, bottom), (left, right) = member.rows, member.columns
    if member.tile_px:
        tiles = rng.integers(-(-top // member.tile_px), bottom // member.tile_px, count)
        return [(int(tile) * member.tile_px, 0) for tile in tiles]
    ys = rng.integers(top, bottom - crop_px + 1, count)
    xs = rng.integers(left, right - crop_px + 1, count)
    return [(int(y), int(x)) for y, x in zip(ys, xs, strict=True)]


def augmented(pair: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], int]:
    """One of the 8 symmetries of the square, with even chance the halves exchanged: (2, c, c), and 1 if they are."""
    swap, turns, flip = int(rng.integers(2)), int(rng.integers(4)), int(rng.integers(2))
    pair = np.rot90(pair[::-1] if swap else pair, turns, axes=(1, 2))
    return pair[:, ::-1] if flip else pair, swap
