"""Positions that arrive as JSON messages: matched to frames by number, averaged where the encoders are faster.

Two forms are known, one message a ZeroMQ frame:

    {"msg_type": "positions", "unit": "um", "frame": [17, 18], "y": [1.5, 1.6], "x": [0.1, 0.2]}     lists or numbers
    {"msg_type": "data", "datasets": {"/INENC1.VAL.Value": {"starting_sample_number": 340, "data": [...]}, ...}}

The second is what a PandA box sends. Its samples are counted through; sample s belongs to frame s // samples_per_frame,
and a frame's position is the mean of its samples. {"msg_type": "start"} and {"msg_type": "stop"} frame a scan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, OptionError
from beamside.formats.scan_layout import length_unit_m

_MOST_OPEN = 4096
"""Frames whose samples are incomplete that are kept; older ones are given out as they are."""


@dataclass(frozen=True)
class MotorOptions:
    """How position messages are read. unit: of PandA samples, and where a message names none.

    y_dataset, x_dataset: names of the PandA datasets; samples_per_frame: samples that are averaged for one frame.
    """

    unit: str = "um"
    y_dataset: str = "y"
    x_dataset: str = "x"
    samples_per_frame: int = 1

    def __post_init__(self) -> None:
        if length_unit_m(self.unit) is None:
            raise OptionError(f"the unit {self.unit!r} is no length.", remedy="Give m, mm, um or nm.")
        if self.samples_per_frame < 1:
            raise OptionError("samples_per_frame must be at least 1.")


@dataclass(frozen=True)
class Places:
    """Positions of frames: numbers (n,) and (y, x) in metres (n, 2), as the encoders have their axes."""

    frames: NDArray[np.int64]
    yx_m: NDArray[np.float64]


class Motors:
    """Messages in, positions out; holds the samples of frames that are not complete."""

    def __init__(self, options: MotorOptions) -> None:
        self.options = options
        self.stopped = False
        self._sums: dict[int, NDArray[np.float64]] = {}
        """Frame -> (samples of y, sum of y, samples of x, sum of x)."""

    def take(self, message: bytes) -> Places:
        """The positions that a message completes; none is (0,).

        Raises:
            FormatError: it has none of the known forms.
        """
        try:
            values = json.loads(message)
        except (ValueError, RecursionError):
            raise FormatError("a position message is no JSON.") from None
        if not isinstance(values, dict):
            raise FormatError("a position message is no JSON object.")
        kind = values.get("msg_type")
        if kind == "positions":
            return self._given(values)
        if kind == "data":
            return self._sampled(values)
        if kind == "stop":
            self.stopped = True
            return self.flush()
        if kind == "start":
            return _places([], np.empty((0, 2)))
        raise FormatError(f"a position message of type {str(kind)[:40]!r} came.")

    def flush(self) -> Places:
        """Positions of frames whose samples never became complete, of those that did come."""
        return self._finished(sorted(self._sums))

    def _given(self, values: Mapping[str, Any]) -> Places:
        unit_m = length_unit_m(str(values.get("unit", self.options.unit)))
        if unit_m is None:
            raise FormatError(f"a position message has the unit {str(values['unit'])[:20]!r}.")
        columns = [_numbers(values.get(name)) for name in ("frame", "y", "x")]
        if len({len(column) for column in columns}) != 1:
            raise FormatError("a position message has lists of different lengths.")
        frames = columns[0]
        if not (
            np.isfinite(frames).all() and (frames >= 0).all() and (frames < 2**53).all() and (frames % 1 == 0).all()
        ):
            raise FormatError("a position message numbers its frames by something else than whole numbers.")
        return Places(frames.astype(np.int64), np.stack(columns[1:], axis=1) * unit_m)

    def _sampled(self, values: Mapping[str, Any]) -> Places:
        sets = values.get("datasets")
        if not isinstance(sets, dict):
            raise FormatError("a data message has no datasets.")
        per_frame = self.options.samples_per_frame
        parsed = [_samples(sets, name) for name in (self.options.y_dataset, self.options.x_dataset)]
        touched: set[int] = set()
        for axis, (first, samples) in enumerate(parsed):
            frames = (first + np.arange(len(samples))) // per_frame
            for frame in np.unique(frames).tolist():
                mine = samples[frames == frame]
                entry = self._sums.setdefault(frame, np.zeros(4))
                entry[2 * axis] += len(mine)
                entry[2 * axis + 1] += mine.sum()
                touched.add(frame)
        done = [f for f in sorted(touched) if min(self._sums[f][0], self._sums[f][2]) >= per_frame]
        overdue = sorted(set(self._sums) - set(done))[: max(0, len(self._sums) - len(done) - _MOST_OPEN)]
        return self._finished(sorted([*done, *overdue]))

    def _finished(self, frames: list[int]) -> Places:
        entries = {frame: self._sums.pop(frame) for frame in frames}
        good = [frame for frame, entry in entries.items() if min(entry[0], entry[2]) > 0]
        means = [[entries[f][1] / entries[f][0], entries[f][3] / entries[f][2]] for f in good]
        return _places(good, np.array(means).reshape(-1, 2) * (length_unit_m(self.options.unit) or 1.0))


def _places(frames: list[int], yx_m: NDArray[np.float64]) -> Places:
    return Places(np.array(frames, dtype=np.int64), np.asarray(yx_m, dtype=np.float64))


def _numbers(value: Any) -> NDArray[np.float64]:
    """A number, or a list of numbers, null for one that is missing: (n,)."""
    values = value if isinstance(value, list) else [value]
    try:
        array = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise FormatError("a position message holds something else than numbers.")
    return array


def _samples(sets: Mapping[str, Any], name: str) -> tuple[int, NDArray[np.float64]]:
    found = sets.get(name)
    if not isinstance(found, dict):
        known = ", ".join(map(str, list(sets)[:6]))
        raise FormatError(f"a data message has no dataset {name!r}; it has {known}.")
    first = found.get("starting_sample_number")
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first < 1 << 53:
        raise FormatError(f"dataset {name!r} starts at sample {str(first)[:40]!r}.")
    return first, _numbers(found.get("data"))
