"""A trained network as the bytes of one safetensors file that proves itself when it is read.

The file holds the weights under the names of `Network.state_dict()`, a probe patch with the network's answer to it
(`probe.input`, `probe.output`), and as metadata the card (JSON) and a SHA-256 over everything else. safetensors by
itself loads a flipped bit without a word, and `load_state_dict` takes a square kernel transposed: the checksum answers
the first (`files.checksum`), the probe the second (`weights.canary`).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beamside.compute.device import require_agreement
from beamside.denoise.blend import Blend
from beamside.denoise.networks import NAMES, Network, build
from beamside.errors import BeamsideError, FormatError

FORMAT = "beamside-denoise-1"
PROBE_TOLERANCE = 1e-4
"""Largest difference from the stored answer, in its standard deviations. The order of sums on another processor gives
1e-6; weights in another layout give about 1."""
_PROBE_PX = 64
UNEQUAL_PAIRS = "unequal"
_KEY, _SUM = "beamside", "sha256"
_PROBE_IN, _PROBE_OUT = "probe.input", "probe.output"
_REMEDY = "Use another copy of this file, or the run that made it."


@dataclass(frozen=True)
class Card:
    """What a user of a model must know beside its weights. All of it is plain JSON.

    network: one of `networks.NAMES`.
    pixel_size_A: of the micrographs it was trained on; None for a range of them or unknown.
    pairs: "halves" when trained on pairs with independent noise, "unequal" when one image of most pairs was much
    noisier than the other, "single" when on sums by a blind spot, "given" for weights of other programs.
    score: held-out figures of the gate, see `gate.Score`; empty when nothing was held out.
    provenance: versions, options, seed, steps, names of the training micrographs, and the like.
    blend: weights of `blend.Blend`; None for the network alone.
    """

    network: str
    pixel_size_A: float | None
    pairs: str
    score: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    blend: Mapping[str, Any] | None = None


def probe_input() -> NDArray[np.float32]:
    """(1, 1, 64, 64): a disc and a ramp under noise, as a normalised micrograph might hold them; always the same."""
    noise = np.random.default_rng(20201).standard_normal((_PROBE_PX, _PROBE_PX))
    y, x = np.mgrid[0:_PROBE_PX, 0:_PROBE_PX] / _PROBE_PX - 0.5
    image = noise - 1.0 * (np.hypot(x - 0.1, y + 0.05) < 0.2) + 0.5 * x + 0.25 * y
    patch: NDArray[np.float32] = image[None, None].astype(np.float32)
    return patch


def answer(network: Network, patch: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network's output in float32 on the CPU, whatever device it trains on."""
    where = next(network.parameters()).device
    training = network.training
    try:
        network.cpu().eval()
        with torch.inference_mode():
            output: Tensor = network(torch.from_numpy(patch))
            pixels: NDArray[np.float32] = np.ascontiguousarray(output.numpy())
            return pixels
    finally:
        network.to(where).train(training)


def require_same_answer(network: Network, device: str) -> None:
    """The network answers the probe on `device` as it does on the processor.

    Raises:
        OptionError: it does not, or cannot be used there.
    """
    if device == "cpu":
        return
    patch = probe_input()

    def there() -> list[Tensor]:
        with torch.inference_mode():
            return [copy.deepcopy(network).to(device).eval()(torch.from_numpy(patch).to(device))]

    require_agreement(device, "a test image", [torch.from_numpy(answer(network, patch))], there)


def pack_model(network: Network, card: Card) -> bytes:
    """The bytes of a model file."""
    from safetensors.numpy import save

    if card.network != network.name:
        raise ValueError(f"the card says {card.network}, the network is {network.name}")
    patch = probe_input()
    arrays = weights_of(network) | {_PROBE_IN: patch, _PROBE_OUT: answer(network, patch)}
    said = {"format": FORMAT, **asdict(card), "blend": None if network.blend is None else network.blend.to_json()}
    if said["blend"] is None:
        del said["blend"]
    bare = bytes(save(arrays, metadata={_KEY: _text(said)}))
    # One entry only: the writer puts several in a random order, and the same model shall be the same bytes.
    return bytes(save(arrays, metadata={_KEY: _text({**said, _SUM: _checksum(*_split(bare))})}))


def weights_of(network: Network) -> dict[str, NDArray[np.float32]]:
    """The weights as they are stored, in C order.

    safetensors writes the memory of a strided array as it lies, so every array is made contiguous.
    """
    return {
        name: np.array(tensor.detach().cpu().contiguous().numpy(), dtype=np.float32, order="C")
        for name, tensor in network.state_dict().items()
    }


def unpack_model(data: bytes, *, where: str) -> tuple[Network, Card]:
    """The network, in evaluation mode on the CPU, and its card.

    Raises:
        FormatError: files.checksum when a bit or the length is wrong, weights.canary when the weights do not give the
        stored answer, or the file is none of ours.
    """
    header, content = _read_header(data, where)
    metadata = header.get("__metadata__", {})
    if _KEY not in metadata:
        if _was_ours(header):
            raise _damaged(where, "its card is not where it was written")
        raise FormatError(
            "is a safetensors file, but no beamside model.", where=where, remedy="Import it by 'import-weights'."
        )
    said = _said(metadata[_KEY], where)
    stored = said.pop(_SUM, None)
    if stored != _checksum({**header, "__metadata__": {**metadata, _KEY: _text(said)}}, content):
        raise _damaged(where, "its content does not agree with its checksum")
    arrays = _arrays(data, where)
    card = _card(said, where)
    network = build(card.network)
    network.by_own_spread = card.pairs == UNEQUAL_PAIRS
    network.blend = _blend(card, where)
    weights = {name: array for name, array in arrays.items() if name not in (_PROBE_IN, _PROBE_OUT)}
    load_weights(network, weights, where=where)
    check_canary(network, arrays[_PROBE_IN], arrays[_PROBE_OUT], where=where)
    return network.eval(), card


def load_weights(network: Network, weights: Mapping[str, NDArray[Any]], *, where: str) -> None:
    """Put arrays into the network; every name and shape must be as the network has it.

    Raises:
        FormatError: a weight is missing, unknown, of another shape, or not finite.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(array.shape) for name, array in weights.items()}
    if expected != found:
        name = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise FormatError(
            f"'{name}' has shape {found.get(name, 'none')}; the network {network.name} has {expected.get(name)}.",
            where=where,
            remedy="The weights belong to another network.",
        )
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise FormatError(f"'{name}' holds NaN or infinity.", where=where, remedy=_REMEDY)
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})


def check_canary(network: Network, patch: NDArray[np.float32], stored: NDArray[np.float32], *, where: str) -> None:
    """Compare the network's answer with the stored one.

    Raises:
        FormatError: weights.canary, they differ.
    """
    got = answer(network, patch)
    worst = float(np.abs(got - stored).max()) / max(float(stored.std()), 1e-6)
    if not worst <= PROBE_TOLERANCE:
        raise FormatError(
            f"weights.canary: the weights answer the stored probe {worst:.2g} standard deviations off "
            f"(at most {PROBE_TOLERANCE:g}): they are in another order than they were saved in.",
            where=where,
            remedy=_REMEDY,
        )


def _damaged(where: str, why: str) -> FormatError:
    return FormatError(f"files.checksum: the model is damaged: {why}.", where=where, remedy=_REMEDY)


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        raise ValueError("the header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise ValueError("the header is no table")
    return header, data[8 + length :]


def _read_header(data: bytes, where: str) -> tuple[dict[str, Any], bytes]:
    try:
        return _split(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"no safetensors header ({error})") from error


def _was_ours(header: Mapping[str, Any]) -> bool:
    """Whether a header without a card has other signs of this form: a flipped bit can hide one of them, not all."""
    return not {_PROBE_IN, _PROBE_OUT}.isdisjoint(header) or FORMAT in json.dumps(header)


def _checksum(header: Mapping[str, Any], content: bytes) -> str:
    """Over a header whose card does not hold the checksum itself, and the bytes of all arrays."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content).hexdigest()


def _text(said: Mapping[str, Any]) -> str:
    return json.dumps(said, sort_keys=True, allow_nan=False)


def _said(text: Any, where: str) -> dict[str, Any]:
    """The card as it was written, the checksum in it."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(where, f"its card is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise _damaged(where, "its card is no table")
    return values


def _arrays(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, NDArray[Any]] = load(data)
    except SafetensorError as error:
        raise _damaged(where, str(error)) from error
    probes = [arrays.get(name) for name in (_PROBE_IN, _PROBE_OUT)]
    if any(probe is None or probe.shape != (1, 1, _PROBE_PX, _PROBE_PX) for probe in probes):
        raise FormatError(f"holds no probe of {_PROBE_PX} px.", where=where, remedy=_REMEDY)
    return arrays


def _blend(card: Card, where: str) -> Blend | None:
    if card.blend is None:
        return None
    try:
        return Blend.from_json(card.blend)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"its blend is not understood ({error}).", where=where, remedy="Update beamside.") from error


def _card(said: Mapping[str, Any], where: str) -> Card:
    values = {name: value for name, value in said.items() if name != "format"}
    if said.get("format") != FORMAT:
        raise FormatError(f"is not of the form {FORMAT}.", where=where, remedy="Update beamside.")
    if values.get("network") not in list(NAMES):
        text = f"is a model of a network {str(values.get('network'))[:40]!r}, which this version does not know."
        raise FormatError(text, where=where, remedy="Update beamside.")
    try:
        return Card(**values)
    except (TypeError, BeamsideError) as error:
        raise FormatError(f"its card is not understood ({error}).", where=where, remedy="Update beamside.") from error
