"""The Fortran ancestor's weights: in which order they lie is decided by what they do to a noisy image.

A flat file can be read in 24 orders of (out, in, kH, kW), and a wrong one gives no error: a residual network with
scrambled weights stays near the identity and looks harmless. So every order is tried on a probe whose truth is known.
Orders that differ by kH and kW alone are one network seen in a mirror, which no probe without a direction of its own
can tell apart; they count as one, and the documented order stands for them.

The ancestor's images lie between 0 and 1, with an unknown mean and spread of the noise; the probe finds these too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from beamside.denoise.networks import NAMES, Network, Plain, build
from beamside.denoise.normalise import Scale
from beamside.errors import InputError

AXES = ("out", "in", "kh", "kw")
PLAIN = "out,in,kh,kw"
"""Right by the ancestor's own code: cuDNN reads the buffer so, whatever shape Fortran declared."""
LAYOUTS = tuple(",".join(order) for order in itertools.permutations(AXES))
DISTINCT = tuple(layout for layout in LAYOUTS if layout.index("kh") < layout.index("kw"))
"""One of each two that are mirror images."""
GAINS, OFFSETS = (0.01, 0.02, 0.03, 0.05, 0.1), (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)
UNITS = ((1.0, 0.0), *itertools.product(GAINS, OFFSETS))
"""(spread of a half's noise, mean of the image) that are tried: our own, and what the ancestor may have had."""
REMOVES, BETTER = 0.2, 0.5
"""Accepted: at most 20 % of the error of doing nothing is left, and at most half of what the next order leaves."""
_KERNEL_PX = 3


@dataclass(frozen=True)
class Weights:
    """One layer: flat weights as stored, and the bias (outputs,)."""

    inputs: int
    outputs: int
    flat: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True)
class Trial:
    """What a layout does to the probe: share of the error of doing nothing that is left, at the best units."""

    layout: str
    left: float
    gain: float
    offset: float


def network_of(layers: Sequence[Weights]) -> str:
    """Which of our networks has these layers.

    Raises:
        InputError: none has.
    """
    shapes = [(layer.inputs, layer.outputs) for layer in layers]
    for name in NAMES:
        network = build(name)
        if isinstance(network, Plain) and shapes == [(c.in_channels, c.out_channels) for c in network.convolutions]:
            return name
    raise InputError(
        f"{len(layers)} layers of {', '.join(f'{i} to {o}' for i, o in shapes[:3])}, ... channels are no network that "
        "this version has.",
        remedy="Give 3 layers of 16 channels or 12 of 32, with kernels of 3 x 3.",
    )


def arranged(layer: Weights, layout: str) -> NDArray[np.float32]:
    """The kernel (out, in, kH, kW) of a flat file whose axes lie in the order `layout`, the last one fastest."""
    order = layout.split(",")
    sizes = {"out": layer.outputs, "in": layer.inputs, "kh": _KERNEL_PX, "kw": _KERNEL_PX}
    stored = layer.flat.reshape([sizes[axis] for axis in order])
    return np.ascontiguousarray(stored.transpose([order.index(axis) for axis in AXES]))


def assembled(name: str, layers: Sequence[Weights], layout: str) -> Plain:
    """The network with the weights read in that layout."""
    network = build(name)
    assert isinstance(network, Plain)
    with torch.no_grad():
        for convolution, layer in zip(network.convolutions, layers, strict=True):
            assert convolution.bias is not None
            convolution.weight.copy_(torch.from_numpy(arranged(layer, layout)))
            convolution.bias.copy_(torch.from_numpy(layer.bias))
    return network.eval()


def flattened(network: Network) -> list[Weights]:
    """The layers of a plain network as the ancestor stores them.

    Raises:
        InputError: the network is no plain chain of convolutions.
    """
    if not isinstance(network, Plain):
        raise InputError(
            f"the network {network.name} is no chain of convolutions, which is all that these files can hold.",
            remedy="Export it to onnx or safetensors.",
        )
    layers = []
    for convolution in network.convolutions:
        assert convolution.bias is not None
        kernel, bias = (p.detach().cpu().numpy() for p in (convolution.weight, convolution.bias))
        layers.append(Weights(convolution.in_channels, convolution.out_channels, kernel.reshape(-1), bias))
    return layers


def is_mirror(one: str, other: str) -> bool:
    """Whether two layouts differ by the exchange of kH and kW alone."""
    exchanged = ",".join({"kh": "kw", "kw": "kh"}.get(axis, axis) for axis in one.split(","))
    return other in (one, exchanged)


@torch.inference_mode()
def trial(
    name: str, layers: Sequence[Weights], layout: str, noisy: NDArray[np.float32], truth: NDArray[np.float32]
) -> Trial:
    """Try one layout on a probe: `noisy` and `truth` (H, W) in units of the noise of `noisy`, mean 0."""
    network, nothing = assembled(name, layers, layout), float(np.square(noisy - truth).mean())
    found = []
    for gain, offset in UNITS:
        seen = torch.from_numpy((gain * noisy + offset).astype(np.float32))[None, None]
        output = (network(seen)[0, 0].numpy() - offset) / gain
        found.append((float(np.square(output - truth).mean()) / nothing, gain, offset))
    return Trial(layout, *min(found))


def try_all(
    name: str, layers: Sequence[Weights], noisy: NDArray[np.float32], truth: NDArray[np.float32]
) -> list[Trial]:
    """Every layout but the mirror images, the best first."""
    return sorted((trial(name, layers, layout, noisy, truth) for layout in DISTINCT), key=lambda t: t.left)


def chosen(trials: Sequence[Trial], wanted: str) -> Trial:
    """The trial of the layout `wanted`, if the evidence is for it.

    Raises:
        InputError: weights.canary, it does not denoise, or not clearly better than every other order.
    """
    own = next(t for t in trials if is_mirror(t.layout, wanted))
    others = [t for t in trials if not is_mirror(t.layout, wanted)]
    best = min(others, key=lambda t: t.left, default=None)
    if best is not None and best.left <= REMOVES and best.left <= BETTER * own.left:
        raise InputError(
            f"weights.canary: read as ({wanted}) these weights leave {100 * own.left:.0f} % of the error, read as "
            f"({best.layout}) {100 * best.left:.0f} %: they were copied between the two orders.",
            remedy=f"Write them again from the program that trained them, or say --layout {best.layout}.",
        )
    if own.left > REMOVES or (best is not None and own.left > BETTER * best.left):
        raise InputError(
            f"weights.canary: read as ({wanted}) these weights leave {100 * own.left:.0f} % of the error, and no other "
            "order denoises clearly better: they are scrambled or were never trained.",
            remedy="Write them again from the program that trained them.",
        )
    return own


def table(trials: Sequence[Trial]) -> str:
    """The evidence, for people."""
    lines = [f"{'order in the file':20s} error left"]
    lines += [f"{t.layout:20s} {100 * t.left:8.1f} %" for t in trials]
    return "\n".join(lines)


def in_own_units(scale: Scale, units: Sequence[float]) -> Scale:
    """The scale that brings a micrograph to a network's own units gain x normalised + offset."""
    gain, offset = units
    return Scale(scale.mean - scale.spread * offset / gain, scale.spread / gain, scale.ground)
