"""A scan sent over sockets as a DECTRIS detector and an encoder box send it, with real streams' accidents on demand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError, OptionError
from beamside.formats.dectris_codec import TYPES, encode_image

_WAIT_MS = 100
_PLACES_PER_S = 20
_BLOCK = 64


@dataclass(frozen=True)
class Replay:
    """What is sent. frames(rows) gives stored frames (k, rows, columns); numbers: of the frames; positions_m: (n, 2),
    (y, x); config: of the series' header, in DECTRIS' names and units."""

    numbers: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    frames: Callable[[NDArray[np.int64]], NDArray[Any]]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class StreamOptions:
    """How it is sent. rate: frames a second, 0: as fast as they are taken. encoding: "lz4", "bslz4" or "raw".

    samples: encoder samples a frame, in the form of a PandA box; 0: one position a frame. lead: how many frames the
    positions run ahead (negative: behind). drop, drop_positions, duplicate: shares; reorder: frames within which the
    order is shuffled.
    """

    rate: float = 0.0
    encoding: str = "bslz4"
    series: int = 1
    samples: int = 0
    lead: int = 0
    drop: float = 0.0
    drop_positions: float = 0.0
    duplicate: float = 0.0
    reorder: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        possible = {
            "--rate must not be negative": self.rate >= 0,
            "--encoding must be raw, lz4 or bslz4": self.encoding in ("raw", "lz4", "bslz4"),
            "--samples and --reorder must not be negative": min(self.samples, self.reorder) >= 0,
            "--drop, --drop-positions and --duplicate are shares": all(
                0 <= share <= 1 for share in (self.drop, self.drop_positions, self.duplicate)
            ),
        }
        for rule, holds in possible.items():
            if not holds:
                raise OptionError(f"{rule}.", where="publish")


def send(
    frames_at: str,
    positions_at: str,
    replay: Replay,
    options: StreamOptions,
    *,
    wait_s: float = 60.0,
    say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Bind both addresses, wait for a receiver on each, send the scan; how many frames were sent.

    All frames are encoded before the first is sent, so that the rate is that of the sending alone.

    Raises:
        InputError: an address cannot be bound, or nobody listens within wait_s.
    """
    import zmq

    messages = _messages(replay, options)
    context = zmq.Context()
    try:
        detector, motors = context.socket(zmq.PUSH), context.socket(zmq.XPUB)
        motors.setsockopt(zmq.SNDHWM, 0)
        for socket, address in ((detector, frames_at), (motors, positions_at)):
            try:
                socket.bind(address)
            except zmq.ZMQError as error:
                raise InputError(f"cannot be bound ({error}).", where=address, remedy="Give a free port.") from None
        say(f"{len(replay.numbers)} frames are ready; waiting for a receiver.")
        _await(motors.poll, zmq.POLLIN, positions_at, wait_s, clock)
        _await(detector.poll, zmq.POLLOUT, frames_at, wait_s, clock)
        begun, sent = clock(), 0
        for due, on_detector, parts in messages:
            if options.rate and (early := begun + due / options.rate - clock()) > 0:
                sleep(early)
            (detector if on_detector else motors).send_multipart(parts)
            sent += on_detector and parts[0].startswith(b'{"htype": "dimage-1.0"')
        say(f"{sent} frames were sent in {clock() - begun:.2f} s.")
        detector.close(linger=30_000)
        motors.close(linger=30_000)
        context.term()
        return sent
    finally:
        context.destroy(linger=0)


def _await(poll: Callable[[int, int], int], what: int, address: str, wait_s: float, clock: Callable[[], float]) -> None:
    until = clock() + wait_s
    while not poll(_WAIT_MS, what):
        if clock() > until:
            raise InputError(f"nobody listened within {wait_s:g} s.", where=address, remedy="Start the run first.")


def _messages(replay: Replay, options: StreamOptions) -> list[tuple[float, bool, list[bytes]]]:
    """All messages with the time they are due (in frames from the begin) and their socket (True: the detector's)."""
    rng = np.random.default_rng(options.seed)
    count = len(replay.numbers)
    due = np.arange(count, dtype=np.float64)
    out: list[tuple[float, bool, list[bytes]]] = [(-1.0, True, _header(replay, options))]
    if options.reorder > 1:
        due = due + rng.uniform(0, options.reorder, count)
    for row, parts in enumerate(_images(replay, options)):
        if rng.uniform() >= options.drop:
            out.append((due[row], True, parts))
            if rng.uniform() < options.duplicate:
                out.append((due[row] + 1, True, parts))
    kept = np.flatnonzero(rng.uniform(size=count) >= options.drop_positions)
    step = max(1, round(options.rate / _PLACES_PER_S)) if options.rate else _BLOCK
    for rows in _portions(kept, replay.numbers, step, consecutive=options.samples > 0):
        place = _samples(replay, rows, options.samples) if options.samples else _places(replay, rows)
        out.append((float(rows[-1]) - options.lead, False, [json.dumps(place).encode()]))
    last = float(count + abs(options.lead) + options.reorder)
    end = {"htype": "dseries_end-1.0", "series": options.series}
    out.append((last, True, [json.dumps(end).encode()]))
    out.append((last, False, [json.dumps({"msg_type": "stop"}).encode()]))
    return sorted(out, key=lambda message: message[0])


def _portions(
    kept: NDArray[np.int64], numbers: NDArray[np.int64], step: int, *, consecutive: bool
) -> Iterator[NDArray[np.int64]]:
    """Rows by at most `step`; where samples are counted through, also cut at every gap."""
    breaks = np.flatnonzero(np.diff(numbers[kept]) != 1) + 1 if consecutive else np.empty(0, dtype=np.int64)
    for run in np.split(kept, breaks):
        for start in range(0, run.size, step):
            yield run[start : start + step]


def _header(replay: Replay, options: StreamOptions) -> list[bytes]:
    head = {"htype": "dheader-1.0", "series": options.series, "header_detail": "basic"}
    return [json.dumps(head).encode(), json.dumps(dict(replay.config)).encode()]


def _images(replay: Replay, options: StreamOptions) -> Iterator[list[bytes]]:
    count = len(replay.numbers)
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        for row, stored in zip(rows.tolist(), replay.frames(rows), strict=True):
            if stored.dtype.name not in TYPES:
                raise InputError(f"frames of type {stored.dtype} cannot be sent; a detector sends unsigned integers.")
            bits = 8 * stored.dtype.itemsize
            encoding = {"raw": "<", "lz4": "lz4<", "bslz4": f"bs{bits}-lz4<"}[options.encoding]
            blob = encode_image(stored, encoding)
            head = {"htype": "dimage-1.0", "series": options.series, "frame": int(replay.numbers[row]), "hash": ""}
            about = {
                "htype": "dimage_d-1.0",
                "shape": [stored.shape[1], stored.shape[0]],
                "type": stored.dtype.name,
                "encoding": encoding,
                "size": len(blob),
            }
            times = {"htype": "dimage_c-1.0", "start_time": 0, "stop_time": 0, "real_time": 0}
            yield [json.dumps(head).encode(), json.dumps(about).encode(), blob, json.dumps(times).encode()]


def _places(replay: Replay, rows: NDArray[np.int64]) -> dict[str, Any]:
    y, x = (replay.positions_m[rows] * 1e6).T.tolist()
    return {"msg_type": "positions", "unit": "um", "frame": replay.numbers[rows].tolist(), "y": y, "x": x}


def _samples(replay: Replay, rows: NDArray[np.int64], samples: int) -> dict[str, Any]:
    """Encoder samples that straddle each position, so that only their mean is right; in micrometres.

    Samples are counted through from the frame number of the first row; rows are consecutive frames.
    """
    offsets = np.linspace(-1, 1, samples) * 0.01 if samples > 1 else np.zeros(1)
    first = int(replay.numbers[rows[0]]) * samples
    datasets = {}
    for name, column in (("y", 0), ("x", 1)):
        values = (replay.positions_m[rows, column] * 1e6)[:, None] + offsets[None, :]
        datasets[name] = {
            "dtype": "float64",
            "size": values.size,
            "starting_sample_number": first,
            "data": values.reshape(-1).tolist(),
        }
    return {"msg_type": "data", "frame_number": 0, "datasets": datasets}
