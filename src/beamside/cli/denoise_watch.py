"""`beamside denoise apply --watch`: micrographs are denoised while they settle, and written once they have."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beamside.cli.denoise_apply import SETTLE_S, MovingLine, Worker
from beamside.cli.denoise_jobs import Job, jobs_of, refuse_same_files
from beamside.errors import FormatError, InputError
from beamside.sources.settling import Settling, Signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_POLL_S = 0.5
_IDLE_CLOSE_S = 600.0
State = tuple[Signature | None, ...]


@dataclass(frozen=True)
class Early:
    """What was made of files that had not settled yet, and how they looked before they were read.

    result: None where they could not be read: most likely they were not complete.
    """

    job: Job
    state: State
    result: NDArray[np.float32] | None


class Watch:
    """A growing folder. One result at most waits for its files to settle; the next look writes or forgets it."""

    def __init__(self, args: argparse.Namespace, worker: Worker) -> None:
        self.args, self.worker = args, worker
        self.settling = Settling(args.settle or SETTLE_S, time.monotonic)
        self.idle_close_s = args.idle_close or _IDLE_CLOSE_S
        self.done: dict[Path, State] = {}
        self.looked: dict[Path, State] = {}
        self.early: Early | None = None
        self.last = time.monotonic()

    def run(self) -> int:
        """Until nothing has come for --idle-close; the exit status."""
        worker, open_jobs = self.worker, list[Job]()
        alone: dict[Path, str] = {}
        if not worker.model.refresh():
            text = f"beamside: {self.args.model} has published no model yet; waiting for one."
            print(text, file=sys.stderr, flush=True)
        while time.monotonic() - self.last < self.idle_close_s:
            jobs, alone = jobs_of(self.args.micrographs, self.args.out)
            open_jobs = [job for job in jobs if job.output in self.done or not job.output.exists()]
            # What is made already comes first: making another would mean to forget it.
            open_jobs.sort(key=lambda job: self.early is None or job != self.early.job)
            settling = [job for job in open_jobs if not self._finished(job)]
            if not self._begun_early(settling):
                time.sleep(_POLL_S)
        waiting = [job for job in open_jobs if job.output not in self.done]
        worker.set_aside |= alone | {job.output: f"{job.inputs[0]}: no model came in time." for job in waiting}
        return worker.summary()

    def _finished(self, job: Job) -> bool:
        """Look at a micrograph, and finish it if it has settled and there is a model."""
        state = tuple(self.settling.look(path) for path in job.inputs)
        if self.looked.get(job.output) != state:
            self.looked[job.output], self.last = state, time.monotonic()
        if self.done.get(job.output) == state:
            return True
        settled = all([self.settling.settled(path) for path in job.inputs])
        if not settled or not self.worker.model.refresh():
            return False
        refuse_same_files([job])
        early, self.early = self._early_of(job, state), None
        if early is not None and early.result is not None:
            self.worker.keep(job, early.result)
        else:
            self.worker.one(job, self._line())
        self.done[job.output], self.last = state, time.monotonic()
        return True

    def _early_of(self, job: Job, state: State) -> Early | None:
        return self.early if self.early is not None and (self.early.job, self.early.state) == (job, state) else None

    def _begun_early(self, settling: Sequence[Job]) -> bool:
        """Denoise the first that has kept still since the last look, unless one waits; whether that took time."""
        if self.early is not None and any(self._early_of(job, self.looked[job.output]) for job in settling):
            return False
        self.early = None
        for job in settling:
            state = self.looked[job.output]
            moving = None in state or any(self.settling.age_s(path) < _POLL_S for path in job.inputs)
            if moving or not self.worker.model.refresh():
                continue
            try:
                self.early = Early(job, state, self.worker.make(job, self._line()))
            except (FormatError, InputError):
                self.early = Early(job, state, None)
            return True
        return False

    def _line(self) -> MovingLine:
        return MovingLine(self.worker.done, self.worker.done + 1, time.monotonic())
