"""The same sums in plain tensor operations, for a GPU; on the CPU they are the oracle of the compiled loops.

Object, probe and sums live on the device while an iteration runs, and come back when it ends: a few megabytes each
way, where the frames' counts, uploaded once, are hundreds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.compute.device import require_agreement
from beamside.ptycho.canvas import Canvas
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.probe import BINS
from beamside.ptycho.workshop import Detector, Frames, Kept, Likelihood, Workshop
from beamside.run.engine import Batch

_BLOCK_BYTES = 1 << 28
_TINY = 1e-9


class TorchWorkshop(Workshop):
    """A workshop on `device`. Sums over frames are added in no fixed order on a GPU: runs agree to rounding there."""

    def __init__(self, frames: FrameStore, canvas: Canvas, detector: Detector, device: str) -> None:
        super().__init__(frames, canvas, detector, lanes=1)
        self.device = torch.device(device)
        self._valid = torch.from_numpy(detector.valid).to(self.device)
        self._turns = torch.from_numpy(self.phases).to(self.device)
        self._counts = torch.empty((0, self.size, self.size), dtype=torch.int16, device=self.device)
        self._axis = torch.arange(self.size, device=self.device)
        self._object = self._velocity = self._num = self._force = torch.zeros(0)
        self._den = self._modes = self._bank = self._pnum = self._pden = self._probe_velocity = torch.zeros(0)
        self._at = self._bin = torch.zeros(0, dtype=torch.int64)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Object, probe and placement on the device inside the block, and back on the host after it."""
        self._upload()
        try:
            yield
        finally:
            self.canvas.object[:] = self._object.cpu().numpy()
            self.canvas.velocity[:] = self._velocity.cpu().numpy()
            velocity = self._probe_velocity.cpu().numpy()
            self.set_probe(self._modes.cpu().numpy())
            self.probe_velocity = velocity

    def _upload(self) -> None:
        device = self.device
        self._object = torch.from_numpy(self.canvas.object).to(device, copy=True)
        self._velocity = torch.from_numpy(self.canvas.velocity).to(device, copy=True)
        self._modes = torch.from_numpy(self.probe).to(device, copy=True)
        self._probe_velocity = torch.from_numpy(np.asarray(self.probe_velocity, np.complex64)).to(device, copy=True)
        self._bank = bank(self._modes, self._turns)
        self._num, self._den = torch.zeros_like(self._object), torch.zeros_like(self._object.real)
        self._force = torch.zeros_like(self._den)
        self._pnum = torch.zeros((BINS * BINS, *self._modes.shape), dtype=torch.complex64, device=device)
        self._pden = torch.zeros((self.size, self.size), device=device)
        self._at = torch.from_numpy(self.corners.astype(np.int64)).to(device)
        self._bin = torch.from_numpy(self.bins.astype(np.int64)).to(device)
        held = self.frames.held
        if self.frames.integer and len(self._counts) < held:
            fresh = torch.from_numpy(self.frames.counts[len(self._counts) : held].view(np.int16)).to(device)
            self._counts = torch.cat([self._counts, fresh])

    def gradient(
        self, frames: Frames, noise: Likelihood, *, probe: bool, displacement: bool = False, kept: Kept | None = None
    ) -> float:
        """As on the CPU: add the frames' shares to the sums; the misfit. Residuals are not kept for anybody."""
        assert kept is None, "solvers that keep them compute on the CPU"
        size = max(1, _BLOCK_BYTES // (8 * self.size**2 * len(self._modes)))
        return sum(
            self._block(frames[at : at + size], noise, probe=probe, displacement=displacement)
            for at in range(0, len(frames), size)
        )

    def _block(self, frames: Frames, noise: Likelihood, *, probe: bool, displacement: bool) -> float:
        chosen = torch.from_numpy(frames).to(self.device)
        corner, bins = self._at[chosen], self._bin[chosen]
        place = self._places(corner)
        obj = self._object.reshape(-1)[place]
        light = self._bank[bins]
        held = self._transfer(frames)
        transfer = None if held is None else torch.from_numpy(held).to(self.device)
        waves = self._forward(light * obj[:, None], transfer)
        misfit = self._residual(waves, self._pixels(frames, chosen), noise)
        chi = self._back(waves, transfer)
        flat = place.reshape(-1)
        _add_complex(self._num, flat, (light.conj() * chi).sum(1).reshape(-1))
        self._den.reshape(-1).index_add_(0, flat, light.abs().square().sum(1).reshape(-1))
        if probe:
            torch.view_as_real(self._pnum).index_add_(0, bins, torch.view_as_real(obj.conj()[:, None] * chi))
            self._pden += obj.abs().square().sum(0)
        if displacement:
            self.normal[frames] = self._displacement(corner, light, chi).double().cpu().numpy()
        return misfit

    def _places(self, corner: Tensor) -> Tensor:
        """(k, N, N) flat canvas index of every pixel of the windows."""
        rows, cols = corner[:, 0, None] + self._axis, corner[:, 1, None] + self._axis
        return rows[:, :, None] * self.canvas.shape[1] + cols[:, None, :]

    def _pixels(self, frames: Frames, chosen: Tensor) -> Tensor:
        if self.frames.integer and (frames < len(self._counts)).all():
            return self._counts[chosen].to(torch.int32).bitwise_and(0xFFFF).float()
        counts, rows = self.frames.block(frames)
        return torch.from_numpy(counts[rows].astype(np.float32)).to(self.device)

    def _forward(self, waves: Tensor, transfer: Tensor | None) -> Tensor:
        out: Tensor = torch.fft.fft2(waves)
        return out if transfer is None else torch.fft.ifft2(out * transfer)

    def _back(self, waves: Tensor, transfer: Tensor | None) -> Tensor:
        out: Tensor
        if transfer is None:
            out = torch.fft.ifft2(waves, norm="forward")
        else:
            out = torch.fft.ifft2(torch.fft.fft2(waves) * transfer.conj())
        return out

    def _residual(self, waves: Tensor, counts: Tensor, noise: Likelihood) -> float:
        scale = 1.0 / self.size**2 if self.detector.transfer is None else 1.0
        model = waves.abs().square().sum(1) * scale + noise.floor
        keep = self._valid * (counts < self.detector.saturation)
        misfit = (keep * (model.sqrt() - counts.sqrt()).square()).sum(dtype=torch.float64)
        share = 0.5 * (counts / model - 1) if noise.poisson else (counts / model).sqrt() - 1
        waves *= (keep * share * scale)[:, None]
        return float(misfit)

    def _displacement(self, corner: Tensor, light: Tensor, chi: Tensor) -> Tensor:
        """(k, 5), see `kernels.displacement`."""
        flat, width = self._object.reshape(-1), self.canvas.shape[1]
        place = self._places(corner)
        along_y = light * (0.5 * (flat[place + width] - flat[place - width]))[:, None]
        along_x = light * (0.5 * (flat[place + 1] - flat[place - 1]))[:, None]
        pairs = ((along_y, chi), (along_x, chi), (along_y, along_y), (along_x, along_x), (along_y, along_x))
        return torch.stack([(a.conj() * b).real.sum((1, 2, 3)) for a, b in pairs], 1)

    def update_object(
        self, step: float, damping: float, momentum: float, smooth: float = 0.0, *, gather: bool = False
    ) -> None:
        """As on the CPU."""
        if gather:
            self._force += (self._object.conj() * self._num).imag
        peak = self._den.max()
        weight = smooth * peak
        num = self._num
        if smooth > 0:
            num = num + weight * _laplacian(self._object) * (self._den > 0)
        scale = (1 - damping) * self._den + damping * peak + 8 * weight + _TINY
        self._velocity = momentum * self._velocity + step * num / scale
        self._object = self._object + self._velocity
        self._num.zero_()
        self._den.zero_()

    def exit_wave(self, frame: int) -> NDArray[np.complex64]:
        """As on the CPU, and there."""
        row, col = self.corners[frame].tolist()
        window = self._object[row : row + self.size, col : col + self.size]
        return np.asarray((self._bank[int(self.bins[frame])] * window).cpu().numpy())

    def turn(self, phase_rad: NDArray[np.float32]) -> None:
        """As on the CPU."""
        phase = torch.from_numpy(phase_rad).to(self.device)
        by = torch.polar(torch.ones_like(phase), phase)
        self._object, self._velocity = self._object * by, self._velocity * by

    def take_force(self) -> NDArray[np.float64]:
        """As on the CPU, and there."""
        taken = self._force.cpu().numpy().astype(np.float64)
        self._force.zero_()
        return np.asarray(taken)

    def update_probe(self, step: float, momentum: float = 0.0, damping: float = 0.1) -> None:
        """As on the CPU."""
        weight = (1 - damping) * self._pden + damping * self._pden.max() + _TINY
        self._probe_velocity = momentum * self._probe_velocity + step * unshifted(self._pnum, self._turns) / weight
        self._modes = self._modes + self._probe_velocity
        self._bank = bank(self._modes, self._turns)
        self._pnum.zero_()
        self._pden.zero_()


def bank(modes: Tensor, phases: Tensor) -> Tensor:
    """Modes (m, N, N) -> (bins^2, m, N, N): entry row * bins + col is shifted by row/bins and col/bins pixels.

    One axis after the other: 4 transforms of columns and 16 of rows.
    """
    half = torch.fft.ifft(torch.fft.fft2(modes) * phases[:, None, :, None], dim=-2)
    both: Tensor = torch.fft.ifft(half[:, None] * phases[:, None, None], dim=-1)
    return both.reshape(-1, *modes.shape)


def unshifted(sums: Tensor, phases: Tensor) -> Tensor:
    """The adjoint of `bank`: sums (bins^2, m, N, N) of shifted modes, brought back and added up, (m, N, N)."""
    bins = len(phases)
    back = phases.conj().resolve_conj()
    half = torch.empty((bins, *sums.shape[1:]), dtype=sums.dtype, device=sums.device)
    for row in range(bins):
        columns = torch.fft.fft(sums[row * bins : (row + 1) * bins], dim=-1)
        half[row] = columns[0]  # of which the shift is none
        for col in range(1, bins):
            half[row].addcmul_(columns[col], back[col])
    rows = torch.fft.fft(half, dim=-2)
    spectrum = rows[0]
    for row in range(1, bins):
        spectrum.addcmul_(rows[row], back[row][:, None])
    modes: Tensor = torch.fft.ifft2(spectrum)
    return modes


def _add_complex(sums: Tensor, where: Tensor, values: Tensor) -> None:
    torch.view_as_real(sums).reshape(-1, 2).index_add_(0, where, torch.view_as_real(values))


def _laplacian(obj: Tensor) -> Tensor:
    up, down = torch.cat([obj[:1], obj[:-1]]), torch.cat([obj[1:], obj[-1:]])
    left, right = torch.cat([obj[:, :1], obj[:, :-1]], 1), torch.cat([obj[:, 1:], obj[:, -1:]], 1)
    return up + down + left + right - 4 * obj


def require_same_sums(device: str) -> None:
    """A small iteration on `device` moves object and probe as the same operations do on the processor.

    Raises:
        OptionError: it does not, or cannot be done there.
    """
    require_agreement(device, "a test iteration", _sample_iteration("cpu"), lambda: _sample_iteration(device))


def _sample_iteration(device: str) -> tuple[Tensor, ...]:
    """Object, probe and displacements after one step with two modes and twelve frames of 32 x 32."""
    size, count, rng = 32, 12, np.random.default_rng(0)
    counts, at = rng.poisson(4.0, (count, size, size)).astype(np.uint16), rng.uniform(0, 30, (count, 2))
    store, canvas = FrameStore(size, count), Canvas()
    store.append(Batch(tuple(map(str, range(count))), {"position_m": at}, lambda rows: counts[rows]))
    canvas.cover(at, size)
    # Displacements are seen in an object that is not flat.
    canvas.object[:] += 0.1 * rng.standard_normal(canvas.shape)
    shop = TorchWorkshop(store, canvas, Detector(np.ones((size, size), np.float32), 12.0), device)
    waves = rng.standard_normal((2, 2, size, size))
    shop.set_probe((waves[0] + 1j * waves[1]).astype(np.complex64))
    shop.place(canvas.inside(at, size))
    with shop.working():
        shop.gradient(np.arange(count), Likelihood(poisson=True, floor=0.05), probe=True, displacement=True)
        shop.update_object(0.5, 0.1, 0.0, smooth=0.01)
        shop.update_probe(0.5)
    return torch.from_numpy(canvas.object), torch.from_numpy(shop.probe), torch.from_numpy(shop.normal)
