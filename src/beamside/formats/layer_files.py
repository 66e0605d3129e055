"""Weights of plain convolutional networks as raw float32 files, two a layer: convNN_weights.bin, convNN_bias.bin.

The form of the Fortran/cuDNN denoiser: NN counts from 01, numbers are little-endian, kernels lie in C order of (out,
in, kH, kW), and nothing in a file says its shape: the sizes of the files give the widths of the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.atomic import replacing

_FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Layer:
    """weights: as they lie in the file, flat; bias: (outputs,). inputs and outputs are channels."""

    inputs: int
    outputs: int
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def read_layers(folder: Path, kernel_px: int = 3) -> list[Layer]:
    """The layers of a folder in their order; the first takes one channel, each next what the one before gives.

    Raises:
        FormatError: a file is missing, or its size fits no such network.
    """
    names = sorted(path.name for path in folder.glob("conv*_bias.bin")) if folder.is_dir() else []
    if not names:
        raise FormatError(
            "holds no convNN_bias.bin.", where=str(folder), remedy="Name the folder of one epoch's weight files."
        )
    layers: list[Layer] = []
    for number in range(1, len(names) + 1):
        bias = _numbers(folder / f"conv{number:02d}_bias.bin")
        path = folder / f"conv{number:02d}_weights.bin"
        weights = _numbers(path)
        inputs = layers[-1].outputs if layers else 1
        expected = inputs * bias.size * kernel_px**2
        if weights.size != expected:
            raise FormatError(
                f"holds {weights.size} numbers; a layer of {inputs} to {bias.size} channels has {expected}.",
                where=str(path),
                remedy="The file is cut, or belongs to another network; copy the folder again.",
            )
        layers.append(Layer(inputs, bias.size, weights, bias))
    return layers


def _numbers(path: Path) -> NDArray[np.float32]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(
            f"cannot be read ({error.strerror}).", where=str(path), remedy="Copy the folder again."
        ) from error
    if not data or len(data) % _FLOAT.itemsize:
        raise FormatError(
            f"holds {len(data)} bytes, no whole float32 numbers.",
            where=str(path),
            remedy="The file is cut; copy the folder again.",
        )
    numbers = np.frombuffer(data, dtype=_FLOAT).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise FormatError("holds NaN or infinity.", where=str(path), remedy="Take the weights of an earlier epoch.")
    return numbers


def write_layers(folder: Path, layers: Sequence[Layer]) -> None:
    """The files of `layers` into `folder`, each written beside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, layer in enumerate(layers, 1):
        for kind, numbers in (("weights", layer.weights), ("bias", layer.bias)):
            with replacing(folder / f"conv{number:02d}_{kind}.bin") as file:
                file.write(numbers.astype(_FLOAT).tobytes())
