"""Arrays and values as bytes, without pickle: safetensors for arrays, JSON for the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from beamside.errors import RunDirectoryError
from beamside.run.engine import Array

_COMPLEX128 = "complex128"


def pack(arrays: Mapping[str, Array]) -> bytes:
    """Arrays of numbers as one safetensors file.

    Each array is made C-contiguous first: safetensors writes the memory of a transposed array as it lies and would
    read it back in another order without a word. complex128, which the format lacks, travels as float64 with an axis
    of 2 appended.

    Raises:
        RunDirectoryError: an array holds text or objects.
    """
    from safetensors.numpy import save

    plain: dict[str, Array] = {}
    doubled = []
    for name, given in arrays.items():
        array = np.array(given, order="C", copy=None)
        if array.dtype.kind not in "biufc":
            raise RunDirectoryError(
                f"the array '{name}' has type {array.dtype}, which cannot be stored.",
                remedy="Arrays hold numbers; text belongs in tables or values.",
            )
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if array.dtype == np.complex128:
            doubled.append(name)
            array = np.stack([array.real, array.imag], axis=-1)
        plain[name] = array
    return bytes(save(plain, metadata={_COMPLEX128: json.dumps(doubled)}))


def unpack(data: bytes) -> dict[str, Array]:
    """The arrays that `pack` stored, same names, shapes and types."""
    from safetensors.numpy import load

    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    arrays: dict[str, Array] = load(data)
    for name in json.loads(metadata.get(_COMPLEX128, "[]")):
        arrays[name] = arrays[name].view(np.complex128)[..., 0]
    return arrays


def exact_json(values: Any) -> bytes:
    """Plain values so that they come back exactly, NaN included; for a run's own files only."""
    return json.dumps(values, default=_plain, sort_keys=True, indent=1).encode()


def public_json(values: Any, *, indent: int | None = 1) -> bytes:
    """Plain values as strict JSON, which has no NaN and no infinity: both become null; no indent is faster."""
    return json.dumps(_finite(values), allow_nan=False, sort_keys=True, indent=indent).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__} has no plain JSON form")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray) and (
        value.dtype.kind in "biuU" or (value.dtype.kind == "f" and np.isfinite(value).all())
    ):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return _finite(_plain(value))
