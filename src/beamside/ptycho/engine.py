"""The reconstruction as the run sees it: frames in, one iteration a step, object and probe out.

Frames join the next iteration, whatever has come before. While the source is open the iterations go on over all that
has arrived; once it has closed a few more bring the last frames in, and then the closing ones, whose falling gain takes
the minibatches' noise out of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beamside.compute.device import chosen
from beamside.compute.lanes import available_threads
from beamside.compute.memory import total_bytes
from beamside.errors import InputError, OptionError
from beamside.ptycho import stored
from beamside.ptycho.canvas import Canvas
from beamside.ptycho.ending import Ending, ending_of
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.guards import GUARDS
from beamside.ptycho.noise import choose_likelihood, is_unexplained, smoothness
from beamside.ptycho.opening import Opening
from beamside.ptycho.optics import optics_of
from beamside.ptycho.options import PtychoOptions
from beamside.ptycho.probe import centre_offset_px, orthogonal
from beamside.ptycho.refine import moves_px, without_affine
from beamside.ptycho.safety import Safety
from beamside.ptycho.solvers import ON_GPU, Pass, solver
from beamside.ptycho.tables import snapshot_of, well_lit
from beamside.ptycho.workshop import Detector, Frames, Likelihood, Workshop
from beamside.run.engine import Batch, BatchPolicy, Header, Progress, Snapshot, State
from beamside.run.guard import Guard

CATCH_UP, CATCH_UP_BROAD = 10, 20
"""Iterations that the last frames to arrive get before the closing ones, and those of a scan so broad that it takes
longer to come right as a whole."""
_PER_FRAME_BREADTH = 3.0
"""Of them, iterations for each breadth of a frame that the scan spreads over."""
SETTLED = 60
"""Iterations without a new frame after which an open run waits."""
_SHOWN_FROM = 3
"""Iterations after which an object is no worse to look at than the sketch of the first frames before it."""
_REFINE_FROM = 10
_LAST_GAIN = 0.15
"""Of the last closing iteration, relative to a gain at which minibatches are calm (see `Solver.calm`)."""
_GROWN_UP = 20
"""Iterations after which a frame of an open run has learnt what a full gain teaches."""
_ORTHOGONAL_EVERY = 10
_DRIFT_PX = 3.0
_BLOCK_PX, _LEAST_BLOCKS = 8, 8
_MEMORY_SHARE = 0.5


class Ptychography:
    """Ptychographic reconstruction; fulfils `run.engine.Engine`."""

    guards: Sequence[Guard] = GUARDS

    def __init__(self, options: PtychoOptions, header: Header, lanes: int | None = None) -> None:
        self.options, self.header = options, header
        self.optics = optics_of(header.fields)
        self.size = self.optics.size
        expected = header.fields.get("count")
        self.expected = None if expected is None else int(expected)
        self.policy = BatchPolicy(min(options.first_frames, self.expected or options.first_frames), 1, 1 << 20)
        self.lanes = lanes or available_threads(options.threads)
        self.store = FrameStore(self.size, options.capacity or _frames_that_fit(self.size))
        self.canvas = Canvas()
        self.shop = _workshop(options, self.store, self.canvas, self.optics.detector, self.lanes)
        self.solver = solver(options.solver)
        self.opening = Opening(options, self.optics)
        self.positions_px: NDArray[np.float64] = np.empty((0, 2))
        self.safety = Safety()
        self.iteration, self.since_arrival, self.closing = 0, 0, 0
        self.visits = 0.0
        """Iterations that a frame has been in, on average."""
        self.closed = False
        self.errors: list[float] = []
        self.recentred: list[float] = []
        """How far the probe was moved back, each time."""
        self.before_arrival: NDArray[np.complex64] | None = None
        self.known_before: NDArray[np.bool_] | None = None
        self.regress = 0.0
        self.unexplained = False
        """Whether the misfit is more than counting noise can be; judged half way through the closing iterations."""
        self.set_aside: list[str] = []
        self._ending: tuple[int, Ending] | None = None

    @classmethod
    def fresh(cls, options: PtychoOptions, header: Header) -> Self:
        """A new reconstruction.

        OptionError for a device that is not there; InputError for optics that make no sense.
        """
        return cls(options, header)

    @classmethod
    def resume(cls, options: PtychoOptions, header: Header, state: State, batches: Sequence[Batch]) -> Self:
        """As it was when `state` was taken, with as many lanes as it had."""
        engine = cls(options, header, int(state.values["lanes"]))
        stored.restore(engine, state, batches)
        return engine

    def state(self) -> State:
        """Object, probe, positions, momentum, and where the iterations stand."""
        return stored.state_of(self)

    def ingest(self, batch: Batch) -> None:
        """Frames become active; those that are not finite, negative or empty are set aside.

        CapacityError when their positions would need an absurd canvas.
        """
        first, before = len(self.store), self.active
        self.set_aside = self.store.append(batch)
        nominal = self.store.position_m[first:] / self.optics.pixel_m
        usable = self.store.usable[first:]
        self.visits *= len(before) / max(1, len(before) + int(usable.sum()))
        if usable.any() and self.canvas.cover(nominal[usable], self.size):
            self.safety.forget()
        self.positions_px = np.concatenate([self.positions_px, self.canvas.inside(nominal, self.size)])
        self.shop.place(self.positions_px)
        if self.iteration and usable.any():
            self.before_arrival = self.canvas.object.copy()
            self.known_before = well_lit(self.shop.illumination(before))
        self.since_arrival = 0

    def close(self) -> None:
        """No further frames: catch up, then the closing iterations.

        InputError when no usable frame has come.
        """
        self.closed = True
        if not self.store.usable.any():
            raise InputError("no usable frame has come.", remedy="Look at the findings above for what was set aside.")

    def step(self) -> Progress:
        """A task of the opening, else one iteration."""
        if not self.store.usable.any():
            return Progress("waiting for a usable frame", 0.0, round_ended=False, idle=True, shows=False)
        if self.opening.pending:
            label = self.opening.advance(self)
            return Progress(label, 0.0, round_ended=False, idle=False, shows=self.opening.sketch is not None)
        if not (self.finished or self._capped()):
            self._iterate()
        return Progress(
            self._label(), self._fraction(), round_ended=self.finished or self.resting,
            idle=self.resting, finished=self.finished, ready=True, metrics=self._metrics(),
            shows=self.iteration >= _SHOWN_FROM,
        )  # fmt: skip

    def snapshot(self) -> Snapshot:
        """Object, probe, positions and coverage as they are now."""
        return snapshot_of(self)

    # ---- where it stands

    @property
    def active(self) -> Frames:
        """The frames in use."""
        return np.flatnonzero(self.store.usable)

    @property
    def likelihood(self) -> Likelihood:
        """The noise model for what has arrived."""
        return choose_likelihood(self.options.noise, self.options.solver, self.store, unexplained=self.unexplained)

    @property
    def ending(self) -> Ending:
        """What can be said of the result, measured once an iteration."""
        if self._ending is None or self._ending[0] != self.iteration:
            self._ending = (self.iteration, ending_of(self))
        return self._ending[1]

    @property
    def resting(self) -> bool:
        """Whether iterations without new frames have stopped helping."""
        return not self.closed and (self.since_arrival >= SETTLED or self._capped())

    @property
    def finished(self) -> bool:
        """Closed, caught up, and the closing iterations done; or the cap is reached."""
        done = self._in_closing() and self.closing >= self.options.iterations_after_close
        return self.closed and (done or self._capped())

    def _capped(self) -> bool:
        return self.options.max_iterations is not None and self.iteration >= self.options.max_iterations

    def _in_closing(self) -> bool:
        return self.closed and self.since_arrival >= self._catch_up

    @property
    def _catch_up(self) -> int:
        spread_px = np.ptp(self.store.position_m[self.store.usable], axis=0).max() / self.optics.pixel_m
        return int(np.clip(_PER_FRAME_BREADTH * (1 + spread_px / self.size), CATCH_UP, CATCH_UP_BROAD))

    def _label(self) -> str:
        if self._in_closing():
            return f"closing iteration {self.closing} of {self.options.iterations_after_close}"
        return f"iteration {self.iteration}, {len(self.active)} frames"

    def _fraction(self) -> float:
        if not self.closed:
            return 0.0
        return min(
            1.0,
            (min(self.since_arrival, self._catch_up) + self.closing)
            / (self._catch_up + max(1, self.options.iterations_after_close)),
        )

    def _metrics(self) -> dict[str, float]:
        if not self.errors:
            return {}
        return {
            "misfit": self.errors[-1],
            "frames": float(len(self.active)),
            "bytes_per_frame": float(self.store.bytes_per_frame),
            "frames_beyond_capacity": float(self.store.beyond),
        }

    # ---- an iteration

    def _iterate(self) -> None:
        closing = self._in_closing()
        frames = self.active
        refine = self.options.refine_positions and self.iteration >= _REFINE_FROM
        task = Pass(
            frames, self.iteration, self.options.seed, self.likelihood, self._gain(frames) * self.safety.caution,
            caution=self.safety.caution, probe=self.iteration >= self.options.probe_start, displacement=refine,
            smooth=smoothness(self.options, self.store, self.shop, frames),
        )  # fmt: skip
        self.safety.begin(self, len(frames))
        with self.shop.working():
            misfit = self.solver.iterate(self.shop, task) / len(frames)
        self.limit()
        if refine:
            self._move_frames(frames)
        self.iteration, self.since_arrival = self.iteration + 1, self.since_arrival + 1
        self.visits += 1
        self.closing += closing
        if self.safety.judge(self, misfit, len(frames)):
            self.errors.append(misfit)
            self._tidy()

    def _gain(self, frames: Frames) -> float:
        """Of an open run less as its frames come of age; 1 once it has closed, and falling in the closing iterations.

        What an open run shows would else be the noisier the more has arrived. All of it is worked on with a full gain
        once more, so what it ends with does not tell how long it was open.
        """
        calm = self.solver.calm(self.shop, frames)
        if not self.closed:
            return float(calm ** min(1.0, self.visits / _GROWN_UP))
        if not self._in_closing():
            return 1.0
        return float((_LAST_GAIN * calm) ** (self.closing / max(1, self.options.iterations_after_close - 1)))

    def limit(self) -> None:
        """Keep amplitude and phase within what the user allows."""
        obj, options = self.canvas.object, self.options
        if options.amplitude_limit is not None:
            obj *= np.minimum(1.0, options.amplitude_limit / np.maximum(np.abs(obj), 1e-12)).astype(np.float32)
        if options.phase_limit_rad is not None:
            phase = np.angle(obj)
            outside = np.abs(phase) > options.phase_limit_rad
            obj[outside] = (
                np.abs(obj) * np.exp(1j * np.clip(phase, -options.phase_limit_rad, options.phase_limit_rad))
            )[outside]

    def _move_frames(self, frames: Frames) -> None:
        recorded = self.store.position_m[frames] / self.optics.pixel_m
        moved = self.positions_px[frames] + moves_px(self.shop.normal[frames])
        self.positions_px[frames] = self.canvas.inside(without_affine(moved, recorded), self.size)
        self.shop.place(self.positions_px)

    def _tidy(self) -> None:
        """After a good iteration: how far known parts moved, orthogonal modes, a centred probe."""
        if self.before_arrival is not None and self.known_before is not None:
            self.regress = _change(self.before_arrival, self.canvas.object, self.known_before)
            self.before_arrival = self.known_before = None
        if len(self.shop.probe) > 1 and (self.iteration % _ORTHOGONAL_EVERY == 0 or self.finished):
            self.shop.set_probe(orthogonal(self.shop.probe))
            self.shop.probe_velocity[:] = 0
        if self._in_closing() and self.closing == self.options.iterations_after_close // 2 and self.likelihood.poisson:
            self.unexplained = is_unexplained(self.errors[-1], self.store, self.optics.detector.valid)
        offset = np.round(centre_offset_px(self.shop.probe)).astype(np.int64)
        if self.options.probe is None and np.abs(offset).max() >= _DRIFT_PX and not self._in_closing():
            self._recentre(offset)

    def _recentre(self, offset: NDArray[np.int64]) -> None:
        """Move the probe to the window's centre and the object with it, which changes no exit wave."""
        back = (-int(offset[0]), -int(offset[1]))
        self.shop.set_probe(np.roll(self.shop.probe, back, axis=(1, 2)))
        self.shop.probe_velocity[:] = np.roll(self.shop.probe_velocity, back, axis=(1, 2))
        self.canvas.roll(-offset)
        self.solver.reset()
        self.safety.forget()
        self.recentred.append(float(np.hypot(*offset)))


def _change(before: NDArray[np.complex64], after: NDArray[np.complex64], where: NDArray[np.bool_]) -> float:
    """Relative change of the object's contrast on what was known, a common complex factor aside.

    Of means over small blocks: at low dose a single pixel is noise, and changes with every iteration.
    """
    whole = _blocks(where.astype(np.float32)) > 0.99
    a, b = _blocks(before)[whole], _blocks(after)[whole]
    if a.size < _LEAST_BLOCKS:
        return 0.0
    factor = np.vdot(b, a) / max(float(np.vdot(b, b).real), 1e-30)
    contrast = float(np.linalg.norm(a - a.mean()))
    return float(np.linalg.norm(factor * b - a)) / max(contrast, 1e-12)


def _blocks(image: NDArray[Any]) -> NDArray[Any]:
    """Means over blocks of 8 x 8 pixels."""
    rows, cols = image.shape[0] // _BLOCK_PX, image.shape[1] // _BLOCK_PX
    cut = image[: rows * _BLOCK_PX, : cols * _BLOCK_PX]
    return np.asarray(cut.reshape(rows, _BLOCK_PX, cols, _BLOCK_PX).mean((1, 3)))


def _frames_that_fit(size: int) -> int:
    return max(1, int(_MEMORY_SHARE * total_bytes() / (2 * size * size)))


def _workshop(options: PtychoOptions, store: FrameStore, canvas: Canvas, detector: Detector, lanes: int) -> Workshop:
    """On the GPU where there is one and the solver can use it, else on the CPU.

    OptionError when a GPU is asked for and cannot be had.
    """
    able = options.solver in ON_GPU
    if options.device == "cuda" and not able:
        raise OptionError(
            f"--device cuda: --solver {options.solver} computes on the CPU only.",
            remedy=f"Give --solver {', '.join(ON_GPU)}, or --device cpu.",
        )
    device = chosen(options.device)
    if device == "cpu" or not able:
        return Workshop(store, canvas, detector, lanes)
    from beamside.ptycho.torch_workshop import TorchWorkshop, require_same_sums

    require_same_sums(device)
    return TorchWorkshop(store, canvas, detector, device)
