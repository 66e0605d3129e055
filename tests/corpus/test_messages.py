"""Malformed messages on a live run's sockets: each is a typed error, and the run goes on without it."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
lz4 = pytest.importorskip("lz4.block", reason="the extra 'live' is not installed")

from beamside.errors import FormatError  # noqa: E402
from beamside.formats.dectris_codec import encode_image  # noqa: E402
from beamside.sources.dectris import Image, parse  # noqa: E402
from beamside.sources.live_scan import LiveScan  # noqa: E402
from beamside.sources.motors import MotorOptions, Motors  # noqa: E402

FRAME = np.arange(64, dtype=np.uint16).reshape(8, 8)
MOST_BYTES, MOST_CPU_S = 48 * 2**20, 2.0
NO_JSON = {
    "empty": b"", "a zero byte": b"\0", "text": b"hello", "cut": b'{"htype": "dimage-1.0", "ser', "a list": b"[1, 2]",
    "a number": b"7", "null": b"null", "NaN": b"NaN", "deep": b"[" * 200_000, "UTF-16": "[]".encode("utf-16"),
    "half a letter": b'{"htype": "\xff"}', "a huge number": b"9" * 5000, "a pickle": b"\x80\x04]q\x00.",
}  # fmt: skip


def text(**values: Any) -> bytes:
    return json.dumps(values).encode()


def image(head: Any = (), about: Any = (), blob: bytes | None = None) -> list[bytes]:
    """A sound image message of bit-shuffled LZ4 but for what is given."""
    first = {"htype": "dimage-1.0", "series": 1, "frame": 0, "hash": ""} | dict(head)
    second = {"htype": "dimage_d-1.0", "shape": [8, 8], "type": "uint16", "encoding": "bs16-lz4<"} | dict(about)
    return [text(**first), text(**second), encode_image(FRAME, "bs16-lz4<") if blob is None else blob]


def frames() -> Iterator[tuple[str, list[bytes]]]:
    """On the detector's socket."""
    for label, raw in NO_JSON.items():
        yield f"head: {label}", [raw]
        yield f"image's description: {label}", [image()[0], raw, image()[2]]
        yield f"configuration: {label}", [text(htype="dheader-1.0", series=1), raw]
    yield "nothing", []
    yield "one part", image()[:1]
    yield "two parts", image()[:2]
    for kind in (None, 5, "", "dimage-9.9", "dheader", "x" * 5000):
        yield f"htype {str(kind)[:9]}", [text(htype=kind, series=1)]
    for name in ("series", "frame"):
        for value in (None, -1, 1.5, "1", True, 2**53, 10**400, []):
            yield f"{name} {str(value)[:9]}", image({name: value})
    for shape in (None, 8, [], [8], [8, 8, 8], [0, 8], [-8, 8], [8.0, 8], ["8", 8], [2**20, 8], [2**62, 2**62]):
        yield f"shape {shape}", image(about={"shape": shape})
    yield "shape of 1 TB", image(about={"shape": [2**20 - 1, 2**19]})
    for value in (None, "int16", "float64", "uint64", "object", 16):
        yield f"type {value}", image(about={"type": value})
    for value in (None, "", "lz4", "gzip", "bs32-lz4<", "bs8-lz4<", ">"):
        yield f"encoding {value}", image(about={"encoding": value})
    yield from blobs()


def blobs() -> Iterator[tuple[str, list[bytes]]]:
    """Pixels that do not decode, and bombs."""
    good = image()[2]
    for share in range(12):
        yield f"pixels cut at {share}/12", image(blob=good[: share * len(good) // 12])
    for label, size, block in (("other", 127, 128), ("1 TB", 2**40, 8192), ("2^63", 2**63, 8192), ("none", 128, 0)):
        yield f"container of {label}", image(blob=struct.pack(">QI", size, block) + good[12:])
    yield "a block of 4 GB", image(blob=struct.pack(">QII", 128, 128, 2**32 - 1) + good[16:])
    raw = {"encoding": "<"}
    for length in (0, 1, 127, 129, 10**6):
        yield f"raw pixels, {length} bytes", image(about=raw, blob=bytes(length))
    bomb = lz4.compress(bytes(1 << 26), store_size=False)
    yield "a bomb of 64 MB in an LZ4 block", image(about={"encoding": "lz4<"}, blob=bomb)
    packed = struct.pack(">QI", 1 << 26, 1 << 26) + struct.pack(">I", len(bomb)) + bomb
    yield "a bomb of 64 MB in a container", image(blob=packed)
    many = struct.pack(">QI", 128, 128) + struct.pack(">I", len(bomb)) + bomb
    yield "a bomb in a block of 128 bytes", image(blob=many)
    yield "no LZ4", image(about={"encoding": "lz4<"}, blob=b"\xff" * 200)


def places() -> Iterator[tuple[str, bytes]]:
    """On the positions' socket."""
    for label, raw in NO_JSON.items():
        yield label, raw
    good = {"msg_type": "positions", "unit": "um", "frame": [0, 1], "y": [0.0, 1.0], "x": [0.0, 1.0]}
    wrong: dict[str, list[Any]] = {
        "msg_type": [None, 5, "", "position", "x" * 5000], "unit": ["", "parsec", 5, None, []],
        "frame": [None, "a", [0], [0, 1, 2], [0, -1], [0, 0.5], [0, 2**53], [0, "1e999"], {}, [[0], [1]]],
        "y": ["a", [0], [0, "a"], {}, [[0, 1]], [0, [1]]], "x": ["a", [0], [0, "a"], {}, [[0, 1]]],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            yield f"{name} {str(value)[:12]}", text(**(good | {name: value}))
        if name in ("msg_type", "frame"):
            yield f"no {name}", text(**{key: value for key, value in good.items() if key != name})
    data = {"starting_sample_number": 0, "data": [1.0, 2.0]}
    for label, sets in {
        "none": None, "a list": [], "empty": {}, "no x": {"y": data}, "a number": {"y": 5, "x": data},
        "start -1": {"y": data | {"starting_sample_number": -1}, "x": data},
        "start 1e30": {"y": data | {"starting_sample_number": 10**30}, "x": data},
        "start half": {"y": data | {"starting_sample_number": 0.5}, "x": data},
        "words": {"y": data | {"data": ["a"]}, "x": data}, "nested": {"y": data | {"data": [[1], [2]]}, "x": data},
    }.items():  # fmt: skip
        yield f"datasets {label}", text(msg_type="data", datasets=sets)


FRAMES, PLACES = list(frames()), list(places())


def refused(call: Any) -> str:
    """Why a message was refused; nothing else may come of it."""
    try:
        call()
    except FormatError as error:
        return "" if error.what else "no reason is given"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "was taken"


def decoded(parts: list[bytes]) -> None:
    message = parse(parts)
    if isinstance(message, Image):
        message.pixels()


@pytest.mark.parametrize("kind", ["frames", "places"])
def test_each_message_is_a_typed_error_in_no_time_and_memory(kind: str) -> None:
    failures = []
    for label, message in FRAMES if kind == "frames" else PLACES:
        begun = time.process_time()
        tracemalloc.start()
        why = refused(lambda m=message: decoded(m) if kind == "frames" else Motors(MotorOptions()).take(m))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if why or peak > MOST_BYTES or time.process_time() - begun > MOST_CPU_S:
            failures.append(f"{kind}, {label}: {why or 'too dear'}, {peak >> 20} MB")
    assert not failures, "\n".join(failures)


def test_sound_messages_are_taken() -> None:
    """Without this, a parser that refuses everything would pass."""
    made = parse(image())
    assert isinstance(made, Image) and np.array_equal(made.pixels(), FRAME)
    assert len(Motors(MotorOptions()).take(text(msg_type="positions", frame=[0], y=[1], x=[2])).frames) == 1
    assert len({label for label, _ in FRAMES}) == len(FRAMES) and len({label for label, _ in PLACES}) == len(PLACES)


def test_a_live_run_survives_all_of_them_and_says_so(tmp_path: Path) -> None:
    context = zmq.Context.instance()
    senders = [context.socket(zmq.PUSH), context.socket(zmq.PUB)]
    ports = [f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}" for socket in senders]
    source = LiveScan(*ports, tmp_path / "spool")
    try:
        for _, parts in FRAMES:
            if parts:
                senders[0].send_multipart(parts)
        senders[0].send_multipart(image({"frame": 3}))
        until = time.monotonic() + 30
        while not source._matcher.frames and time.monotonic() < until:
            time.sleep(0.02)
        assert list(source._matcher.frames) == [3], "the sound one behind them is taken"
        found = source.findings()
        assert {finding.guard for finding in found} == {"stream.message"} and len(found) == 20
        assert all(finding.saw and "ignored" in finding.saw and finding.remedy for finding in found)
        assert "No more of this kind are reported." in found[-1].remedy
    finally:
        source.close()
        for socket in senders:
            socket.close(linger=0)
