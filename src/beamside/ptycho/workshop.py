"""Sums over frames on the CPU: each lane a thread with sums of its own, each block of frames in the cache.

Cost of a frame: two FFTs (10 N^2 log2 N^2 flops), of whose columns `columns` takes care, and about 10 N^2 complex
multiply-adds, all on a block of waves that stays in the second-level cache; nothing but the counts (2 bytes a pixel)
comes from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho import columns, kernels, shifts, visit, whole
from beamside.ptycho.canvas import Canvas
from beamside.ptycho.columns import zeros as _zeros
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.probe import BINS, Modes, shift_phases
from beamside.run.engine import Array

_CACHE_BYTES = 1 << 20
"""Waves of a block: what a core's second-level cache holds. With half of it calls cost more than they save."""
_AT_ONCE = 64
"""Frames of a visit each: so many counts are in memory where a scan is larger than that."""
Frames = NDArray[np.int64]
Waves = NDArray[np.complex64]
Kept = dict[int, NDArray[np.complex64]]
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Detector:
    """What every frame shares. valid (N, N) float32: 1 where a pixel counts, DC at the corner.

    saturation: counts from here on are unknown. transfer: (N, N) complex64 of the angular spectrum for near field, or
    None for far field.
    """

    valid: NDArray[np.float32]
    saturation: float
    transfer: Waves | None = None


@dataclass(frozen=True)
class Likelihood:
    """Poisson or Gaussian noise; floor: counts added to the model's, which keeps empty pixels from dominating."""

    poisson: bool
    floor: float


@dataclass
class _Lane:
    """The sums and the workspace of one thread."""

    waves: Waves
    """(frames, modes, N, N) complex64."""
    flat: NDArray[np.float32]
    """The same memory as (frames, modes, N, 2 N)."""
    line: NDArray[np.float32]
    bench: visit.Bench | None


class Workshop:
    """Works on a canvas, a probe and the frames placed on it. CPU; the same sums on a GPU are in `torch_workshop`."""

    def __init__(self, frames: FrameStore, canvas: Canvas, detector: Detector, lanes: int) -> None:
        self.frames, self.canvas, self.detector, self.lanes = frames, canvas, detector, lanes
        self.size = frames.size
        self.phases = shift_phases(self.size)
        self._shifts = shifts.Bank(self.phases)
        self.probe_velocity: Modes = np.zeros((0, self.size, self.size), np.complex64)
        self.probe: Modes = np.zeros((0, self.size, self.size), np.complex64)
        self._whole: NDArray[np.complex64] | None = None
        self.bank_planes: NDArray[np.float32] = np.zeros((0, 0, 2, 0, 0), np.float32)
        self.planes: NDArray[np.float32] = np.zeros((2, 0, 0), np.float32)
        """The bank, and the object as it was when the pass began, with real and imaginary part apart."""
        self.corners, self.bins = np.zeros((0, 2), np.int32), np.zeros(0, np.int32)
        self.turns: Waves = np.zeros((0, 2, 0), np.complex64)
        """Near field: (n, 2, N) phases that move each frame's image back by the shift its probe was given."""
        self.normal = np.zeros((0, 5))
        """(n, 5) normal equations of each frame's displacement, from the last pass that asked for them."""
        self._lanes: list[_Lane] = []
        there = detector.transfer is None and columns.possible(self.size)
        self._plan = visit.plan(self.size) if there else None
        """Far field: of frames that can be worked on in one visit; others go the long way."""
        self._fft = whole.by_scipy() if there else whole.by_torch()
        self._pool = ThreadPoolExecutor(lanes, initializer=self._fft.one_thread) if lanes > 1 else None
        if lanes == 1:
            self._fft.one_thread()
        self.num: NDArray[np.float32] = np.zeros((0, 2, 0, 0), np.float32)
        self.den: NDArray[np.float32] = np.zeros((0, 0, 0), np.float32)
        self.force: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        """(H, W) gathered in a pass: what pulls at each pixel's phase, as a sum over the frames."""
        self.pnum: NDArray[np.float32] = np.zeros((0, 0, 0, 2, 0, 0), np.float32)
        self.pden: NDArray[np.float32] = np.zeros((0, 0, 0), np.float32)

    def shut(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around each iteration of a solver: nothing to do where the sums are made in place."""
        yield

    # what is worked on

    def set_probe(self, modes: Modes) -> None:
        """Take modes (m, N, N) and make their bank of sub-pixel shifts."""
        changed = len(modes) != len(self.probe)
        self.probe = np.ascontiguousarray(modes, np.complex64)
        if changed:
            self.bank_planes = _zeros(BINS * BINS, len(modes), 2, self.size, self.size)
        self._shifts.fill(self.probe, self.bank_planes)
        self._whole = None
        if changed:
            self.probe_velocity = np.zeros_like(self.probe)
            self._allocate()

    @property
    def bank(self) -> NDArray[np.complex64]:
        """(bins^2, m, N, N) the bank in complex numbers, for the solvers whose loops take them; made when asked for."""
        if self._whole is None:
            self._whole = np.ascontiguousarray(self.bank_planes[:, :, 0] + 1j * self.bank_planes[:, :, 1])
        return self._whole

    def shifted(self, modes: Modes) -> Waves:
        """(bins^2, m, N, N) the bank of any modes (m, N, N)."""
        planes = _zeros(BINS * BINS, len(modes), 2, self.size, self.size)
        self._shifts.fill(np.ascontiguousarray(modes, np.complex64), planes)
        return np.asarray(planes[:, :, 0] + 1j * planes[:, :, 1])

    def _find_turns(self) -> None:
        """Beam and detector stand still, the sample moves; here the probe takes the sub-pixel part of the movement.

        The far field does not show that, an image does: it is moved back.
        """
        if self.detector.transfer is None:
            return
        shift = np.stack(np.divmod(self.bins, BINS), 1) / BINS
        k = np.fft.fftfreq(self.size)
        self.turns = np.exp(2j * np.pi * shift[:, :, None] * k).astype(np.complex64)

    def _transfer(self, block: Frames) -> Waves | None:
        """(k, 1, N, N) from the sample to the detector in Fourier space; None in the far field."""
        if self.detector.transfer is None:
            return None
        y, x = self.turns[block, 0], self.turns[block, 1]
        return np.asarray((self.detector.transfer * y[:, :, None] * x[:, None, :])[:, None])

    def place(self, positions_px: NDArray[np.float64]) -> None:
        """Put the frames' windows (n, 2) on the canvas, which covers them."""
        self.corners, self.bins = self.canvas.corners(positions_px, BINS)
        self._find_turns()
        if len(self.normal) != len(positions_px):
            self.normal = np.zeros((len(positions_px), 5))
        if self.num.shape[2:] != self.canvas.shape:
            self._allocate()

    @property
    def block_frames(self) -> int:
        """Frames in one block."""
        return max(2, _CACHE_BYTES // (8 * self.size * self.size * max(1, len(self.probe))))

    def _allocate(self) -> None:
        m, n, shape = len(self.probe), self.size, self.canvas.shape
        self.planes, self.force = _zeros(2, *shape), _zeros(*shape)
        self.num, self.den = _zeros(self.lanes, 2, *shape), _zeros(self.lanes, *shape)
        self.pnum, self.pden = _zeros(self.lanes, BINS * BINS, m, 2, n, n), _zeros(self.lanes, n, n)
        block = self.block_frames
        self._lanes = [_lane(block, m, n) for _ in range(self.lanes)]

    # passes over frames

    def gradient(
        self, frames: Frames, noise: Likelihood, *, probe: bool, displacement: bool = False, kept: Kept | None = None
    ) -> float:
        """Add the frames' shares to the sums; the misfit, sum of (|A| - sqrt n)^2.

        kept: takes the residuals at the sample, 8 N^2 bytes a frame and mode, by the first frame of each block; another
        pass over the same frames has the same blocks.
        """

        if self._plan is not None and kept is None:
            return self._visit(self._plan, frames, noise, probe=probe, displacement=displacement)

        def work(lane: int, block: Frames) -> float:
            misfit, chi = self.residual(lane, block, self.exit_waves(lane, block), noise)
            self.accumulate(lane, block, chi, probe=probe)
            if kept is not None:
                kept[int(block[0])] = chi.copy()
            if displacement:
                kernels.displacement(
                    self.planes, self.bank_planes, self.corners, self.bins, block, chi.view(np.float32), self.normal
                )
            return misfit

        return sum(self.over_blocks(frames, work))

    def _visit(self, plan: visit.Plan, frames: Frames, noise: Likelihood, *, probe: bool, displacement: bool) -> float:
        placed = visit.Placed(self.planes, self.bank_planes, self.corners, self.bins)

        def work(lane: int, block: Frames) -> float:
            counts, rows = self.frames.block(block)
            sums = visit.Sums(self.num[lane], self.den[lane], self.pnum[lane], self.pden[lane])
            bench = self._lanes[lane].bench
            assert bench is not None
            return visit.gradient(
                placed, block, counts, rows, self._noise(noise), plan, bench, sums, probe=probe,
                normal=self.normal if displacement else None,
            )  # fmt: skip

        return sum(self.over_blocks(frames, work, _AT_ONCE))

    def _noise(self, noise: Likelihood) -> visit.Noise:
        valid, saturation = self.detector.valid, np.float32(self.detector.saturation)
        return visit.Noise(valid, saturation, np.float32(1.0 / self.size**2), noise.poisson, np.float32(noise.floor))

    def residual(self, lane: int, block: Frames, waves: Waves, noise: Likelihood) -> tuple[float, Waves]:
        """Misfit of a block, and chi, the residual brought back to the sample; it may take the place of the waves."""
        bench = self._lanes[lane].bench
        if self._plan is not None and bench is not None:
            counts, rows = self.frames.block(block)
            told = counts, rows, self._noise(noise), self._plan, bench
            return visit.residual(waves.view(np.float32), *told), waves
        far = self.detector.transfer is None
        at_detector = self.to_detector(waves, block)
        misfit = self._residual_in_place(lane, block, at_detector, noise, 1.0 / self.size**2 if far else 1.0)
        return misfit, self.to_sample(at_detector, block)

    def to_detector(self, waves: Waves, block: Frames) -> Waves:
        """Exit waves at the detector: unnormalised FFT, or the angular spectrum."""
        out, transfer = self._fft.forward(waves), self._transfer(block)
        return out if transfer is None else self._fft.backward(out * transfer) / np.float32(self.size**2)

    def to_sample(self, waves: Waves, block: Frames) -> Waves:
        """Back again; for the far field without the 1/N^2, which the residual carries."""
        transfer = self._transfer(block)
        if transfer is None:
            return self._fft.backward(waves)
        return self._fft.backward(self._fft.forward(waves) * transfer.conj()) / np.float32(self.size**2)

    def accumulate(self, lane: int, block: Frames, waves: NDArray[np.complex64], *, probe: bool) -> None:
        """Add a block's waves (k, m, N, N) to the lane's sums."""
        kernels.accumulate(
            self.planes, self.bank_planes, self.corners, self.bins, block, waves.view(np.float32),
            self.num[lane], self.den[lane], self.pnum[lane], probe,
        )  # fmt: skip
        if probe:
            kernels.probe_weights(self.planes, self.corners, block, self.pden[lane])

    def exit_waves(self, lane: int, block: Frames) -> Waves:
        """P O of a block with the object that the pass began with, in the lane's workspace."""
        held = self._lanes[lane]
        kernels.exit_waves(self.planes, self.bank_planes, self.corners, self.bins, block, held.flat)
        return held.waves[: len(block)]

    def _residual_in_place(self, lane: int, block: Frames, waves: Waves, noise: Likelihood, scale: float) -> float:
        counts, rows = self.frames.block(block)
        return float(
            kernels.residual_waves(
                waves.view(np.float32), counts, rows, self.detector.valid,
                np.float32(self.detector.saturation), np.float32(scale), noise.poisson, np.float32(noise.floor),
                self._lanes[lane].line,
            )
        )  # fmt: skip

    def over_blocks(self, frames: Frames, work: Callable[[int, Frames], T], most: int | None = None) -> list[T]:
        """`work(lane, block)` over all frames, those of one sub-pixel bin together; results in lane order.

        most: frames in a block, where it need not be one whose waves stay in the cache.
        """
        kernels.split_object(self.canvas.object, self.planes)
        ordered = frames[np.argsort(self.bins[frames], kind="stable")]
        parts = np.array_split(ordered, self.lanes)

        def run(lane: int) -> list[T]:
            part, step = parts[lane], most or self.block_frames
            return [work(lane, part[at : at + step]) for at in range(0, len(part), step)]

        return [found for lane in self._on_lanes(run, range(self.lanes)) for found in lane]

    # updates from the sums

    def update_object(
        self, step: float, damping: float, momentum: float, smooth: float = 0.0, *, gather: bool = False
    ) -> None:
        """Move the object along its preconditioned gradient, and clear the sums.

        gather: add what pulls at each pixel's phase to `force`.
        """
        obj = self.canvas.object
        edges = np.linspace(0, len(obj), self.lanes + 1).astype(int).tolist()
        parts = list(pairwise(edges))
        # A lane's rows lean on their neighbours, which another lane changes meanwhile.
        ends = {first: obj[[max(first - 1, 0), min(last, len(obj) - 1)]] for first, last in parts}
        peak = max(self._on_lanes(lambda part: float(kernels.merge(self.num, self.den, *part)), parts))

        def update(part: tuple[int, int]) -> None:
            kernels.update_object(
                obj, self.canvas.velocity, self.num[0], self.den[0], np.float32(step), np.float32(damping),
                np.float32(momentum), np.float32(peak), np.float32(smooth * peak), self.force, gather, *part,
                ends[part[0]],
            )  # fmt: skip

        self._on_lanes(update, parts)

    def _on_lanes(self, work: Callable[[S], T], parts: Sequence[S]) -> list[T]:
        """`work(part)` of each lane's part."""
        return [work(part) for part in parts] if self._pool is None else list(self._pool.map(work, parts))

    def exit_wave(self, frame: int) -> NDArray[np.complex64]:
        """(m, N, N) P O of one frame with the object as it is."""
        (row, col), planes = self.corners[frame].tolist(), self.bank_planes[self.bins[frame]]
        window = self.canvas.object[row : row + self.size, col : col + self.size]
        return np.asarray((planes[:, 0] + 1j * planes[:, 1]) * window)

    def turn(self, phase_rad: NDArray[np.float32]) -> None:
        """Add a phase (H, W) to the object, and turn its velocity with it."""
        kernels.turn(self.canvas.object, self.canvas.velocity, phase_rad)

    def take_force(self) -> NDArray[np.float64]:
        """(H, W) what has been gathered, which is forgotten."""
        taken = self.force.astype(np.float64)
        self.force[:] = 0
        return taken

    def update_probe(self, step: float, momentum: float = 0.0, damping: float = 0.1) -> None:
        """Move the probe along its preconditioned gradient, remake the bank, and clear the sums."""
        num, den = self.probe_sums()
        weight = (1 - damping) * den + damping * den.max() + 1e-9
        self.probe_velocity = momentum * self.probe_velocity + step * num / weight
        self.set_probe((self.probe + self.probe_velocity).astype(np.complex64))
        self.drop_probe_sums()

    def drop_probe_sums(self) -> None:
        """Forget the probe's sums."""
        self.pnum[:], self.pden[:] = 0, 0

    def probe_sums(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """Numerator (m, N, N) with the sub-pixel shifts undone, and denominator (N, N), over all lanes."""
        return self._shifts.gathered(self.pnum), self.pden.sum(0)

    def object_sums(self) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """Numerator and denominator (H, W) over all lanes."""
        total = np.empty(self.canvas.shape, np.complex64)
        kernels.join(self.num[:, None, None], 0, 0, total)
        return total, self.den.sum(0)

    def clear(self) -> None:
        """Forget what the sums hold."""
        for sums in (self.num, self.den, self.pnum, self.pden):
            sums[:] = 0

    def illumination(self, frames: Frames) -> Array:
        """(H, W) float32: probe intensity summed over the frames' windows."""
        out = np.zeros(self.canvas.shape, np.float32)
        intensity = (np.abs(self.probe) ** 2).sum(0)
        for row, col in self.corners[frames].tolist():
            out[row : row + self.size, col : col + self.size] += intensity
        return out


def _lane(block: int, modes: int, size: int) -> _Lane:
    flat = _zeros(block, modes, size, 2 * size)
    return _Lane(
        flat.view(np.complex64),
        flat,
        _zeros(2, size),
        visit.bench(flat[:1], modes, size) if columns.possible(size) else None,
    )
