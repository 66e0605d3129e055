"""`python -m beamside.denoise.verify`: score a model from its bytes, in a process that knows nothing else.

Standard input: pieces, each after 8 bytes (little endian) with its length: the model file, the number of threads as a
safetensors file, and one such file an example (`input`, `target`, `level`, `weight`); a length of 0, or the end, ends
them. Standard output: the score as JSON, or `{"fault": why}` when the model cannot be read.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.held_out import Example


class Readable(Protocol):
    """Gives as many bytes as asked for; fewer at its end."""

    def read(self, count: int, /) -> bytes:
        """The next bytes."""


_LENGTH_BYTES = 8
_THREADS = "threads"


def pieces(model: bytes, examples: Sequence[Example], threads: int) -> Iterator[bytes]:
    """What the process reads, one piece after another."""
    from safetensors.numpy import save

    def piece(arrays: Mapping[str, NDArray[Any]]) -> bytes:
        return _long(bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()})))

    yield _long(model)
    yield piece({_THREADS: np.array([threads])})
    for example in examples:
        arrays = {"input": example.input, "target": example.target, "level": np.array([example.level])}
        yield piece(arrays if example.weight is None else {**arrays, "weight": example.weight})


def _long(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def message(model: bytes, examples: Sequence[Example], threads: int) -> bytes:
    """All pieces at once."""
    return b"".join(pieces(model, examples, threads))


def answer(data: bytes) -> str:
    """What the process writes when it has read `data`."""
    return answer_from(io.BytesIO(data))


def answer_from(stream: Readable) -> str:
    """What the process writes when it has read the pieces of `stream`."""
    import torch
    from safetensors.numpy import load

    from beamside.denoise.gate import independent
    from beamside.denoise.model_file import unpack_model
    from beamside.errors import BeamsideError

    model, settings, *rest = _read(stream)
    torch.set_num_threads(int(load(settings)[_THREADS][0]))
    examples = [
        Example(found["input"], found["target"], found.get("weight"), float(found["level"][0]))
        for found in map(load, rest)
    ]
    try:
        network, _ = unpack_model(model, where="the model as saved")
    except BeamsideError as error:
        return json.dumps({"fault": error.paragraph()})
    # A sixth faster on a CPU.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return json.dumps(asdict(independent(network, examples)))


def _read(stream: Readable) -> Iterator[bytes]:
    while length := int.from_bytes(stream.read(_LENGTH_BYTES), "little"):
        yield stream.read(length)


if __name__ == "__main__":
    print(answer_from(sys.stdin.buffer))
