"""`python -m beamside.denoise.verify`: score a model from its bytes, in a process that knows nothing else.

Standard input: 8 bytes (little endian) with the length of the model, the model file, and a safetensors file with the
examples (`000000.input`, `.target`, `.weight`) and the number of threads. Standard output: the score as JSON, or
`{"fault": why}` when the model cannot be read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from beamside.denoise.held_out import Example

_LENGTH_BYTES = 8
_THREADS = "threads"


def message(model: bytes, examples: Sequence[Example], threads: int) -> bytes:
    """What the process reads."""
    from safetensors.numpy import save

    arrays = {_THREADS: np.array([threads])}
    for number, example in enumerate(examples):
        arrays[f"{number:06d}.input"] = np.ascontiguousarray(example.input)
        arrays[f"{number:06d}.target"] = np.ascontiguousarray(example.target)
        if example.weight is not None:
            arrays[f"{number:06d}.weight"] = np.ascontiguousarray(example.weight)
    return len(model).to_bytes(_LENGTH_BYTES, "little") + model + bytes(save(arrays))


def answer(data: bytes) -> str:
    """What the process writes."""
    import torch
    from safetensors.numpy import load

    from beamside.denoise.gate import independent
    from beamside.denoise.model_file import unpack_model
    from beamside.errors import BeamsideError

    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    arrays = load(data[end:])
    torch.set_num_threads(int(arrays.pop(_THREADS)[0]))
    numbers = sorted({name.split(".")[0] for name in arrays})
    examples = [Example(arrays[f"{n}.input"], arrays[f"{n}.target"], arrays.get(f"{n}.weight")) for n in numbers]
    try:
        network, _ = unpack_model(data[_LENGTH_BYTES:end], where="the model as saved")
    except BeamsideError as error:
        return json.dumps({"fault": error.paragraph()})
    return json.dumps(asdict(independent(network, examples)))


if __name__ == "__main__":
    print(answer(sys.stdin.buffer.read()))
