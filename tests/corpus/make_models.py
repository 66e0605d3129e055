"""Malformed models of the denoiser, and HDF5 scans that promise far more than they hold."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from beamside.denoise.export import read_model
from tests.formats.scan_files import write_cxi

BOMB_CHUNKS, BOMB_CHUNK_FRAMES, BOMB_SIDE = 104, 64, 1024


@lru_cache(maxsize=1)
def sound_model() -> bytes:
    """A small model as training saves it."""
    import torch

    from beamside.denoise.model_file import Card, pack_model
    from beamside.denoise.networks import build

    state = torch.get_rng_state()
    torch.manual_seed(0)
    network = build("seed3")
    torch.set_rng_state(state)
    return pack_model(network, Card("seed3", 1.3, "halves", {"loss": 0.9}, {"seed": 1}))


def parts(raw: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """(card, arrays, header) of a model file, read by hand."""
    length = struct.unpack_from("<Q", raw)[0]
    header = json.loads(raw[8 : 8 + length])
    card = json.loads(header.pop("__metadata__")["beamside"])
    arrays = {
        name: np.frombuffer(raw[8 + length + about["data_offsets"][0] : 8 + length + about["data_offsets"][1]], "<f4")
        .reshape(about["shape"])
        .copy()
        for name, about in header.items()
    }
    return card, arrays, header


def sealed(card: Any, arrays: Mapping[str, np.ndarray[Any, Any]], header: Mapping[str, Any] | None = None) -> bytes:
    """A model file whose checksum is right, whatever its card and header say."""
    content, entries, at = b"", {}, 0
    for name, array in arrays.items():
        data = array.astype("<f4").tobytes()
        entries[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [at, at + len(data)]}
        content, at = content + data, at + len(data)
    entries = dict(header) if header is not None else entries
    if isinstance(card, dict):
        card = {name: value for name, value in card.items() if name != "sha256"}
        bare = {**entries, "__metadata__": {"beamside": json.dumps(card, sort_keys=True)}}
        card["sha256"] = hashlib.sha256(json.dumps(bare, sort_keys=True).encode() + content).hexdigest()
    whole = {**entries, "__metadata__": {"beamside": json.dumps(card, sort_keys=True)}}
    text = json.dumps(whole).encode()
    return struct.pack("<Q", len(text)) + text + content


def models() -> Iterator[tuple[str, bytes]]:
    """Flipped bits, cuts, and files whose checksum is right although what they say is not."""
    good = sound_model()
    for share in range(40):
        at = share * len(good) // 40
        raw = bytearray(good)
        raw[at] ^= 1 << share % 8
        yield f"bit {share % 8} of byte {at} flipped", bytes(raw)
    for share in range(20):
        yield f"cut at {share * 5} %", good[: share * len(good) // 20]
    yield "cut by a byte", good[:-1]
    yield "a byte too many", good + b"\0"
    for length in (0, 1, 2**31, 2**62, 2**64 - 1):
        yield f"header of {length} bytes", struct.pack("<Q", length) + good[8:]
    for label, text in {"a list": b"[]", "deep": b"[" * 90_000, "a number": b"5", "no JSON": b"{]"}.items():
        yield f"header: {label}", struct.pack("<Q", len(text)) + text
    yield from wrong_cards()
    yield from wrong_arrays()


def wrong_cards() -> Iterator[tuple[str, bytes]]:
    """Configurations of no network that there is."""
    card, arrays, _ = parts(sound_model())
    changes: dict[str, Any] = {
        "another network": {"network": "deep12"}, "an unknown network": {"network": "nets"},
        "network a number": {"network": 5}, "network a list": {"network": []}, "network none": {"network": None},
        "another format": {"format": "beamside-denoise-9"}, "format none": {"format": None},
        "a word too many": {"colour": "red"}, "code": {"network": "__import__('os').mkdir('executed')"},
    }  # fmt: skip
    for label, change in changes.items():
        yield f"card: {label}", sealed({**card, **change}, arrays)
    for name in ("network", "pairs", "pixel_size_A", "format"):
        yield f"card: no {name}", sealed({key: value for key, value in card.items() if key != name}, arrays)
    for label, value in {"a list": [], "a text": "x", "a number": 3, "null": None}.items():
        yield f"card: {label}", sealed(value, arrays)


def wrong_arrays() -> Iterator[tuple[str, bytes]]:
    """Shapes, types and numbers of another network or of none."""
    card, arrays, header = parts(sound_model())
    name = next(key for key in arrays if key.endswith("weight") and arrays[key].shape[0] != arrays[key].shape[1])
    yield "weights turned", sealed(card, {**arrays, name: arrays[name].swapaxes(0, 1)})
    yield "weights flat", sealed(card, {**arrays, name: arrays[name].ravel()})
    yield "weights mirrored", sealed(card, {**arrays, name: arrays[name][..., ::-1]})
    yield "weights zero", sealed(card, {**arrays, name: 0 * arrays[name]})
    yield "no such weights", sealed(card, {key: array for key, array in arrays.items() if key != name})
    yield "weights too many", sealed(card, {**arrays, "layers.9.weight": arrays[name]})
    for value in (np.nan, np.inf, 1e38):
        yield f"weights {value}", sealed(card, {**arrays, name: np.full_like(arrays[name], value)})
    for probe in ("probe.input", "probe.output"):
        yield f"no {probe}", sealed(card, {key: array for key, array in arrays.items() if key != probe})
        yield f"{probe} of one pixel", sealed(card, {**arrays, probe: np.ones((1, 1, 1, 1), np.float32)})
        yield f"{probe} flat", sealed(card, {**arrays, probe: arrays[probe].ravel()})
        yield f"{probe} NaN", sealed(card, {**arrays, probe: np.nan * arrays[probe]})
        yield f"{probe} empty", sealed(card, {**arrays, probe: np.zeros((1, 1, 0, 0), np.float32)})
    about = header[name]
    wrong = {
        "16 TB": {"shape": [2000, 2000, 1000, 1000], "data_offsets": [0, 16 * 10**12]},
        "overflowing": {"shape": [2**40, 2**40, 1, 1]}, "negative": {"shape": [-1, 1, 3, 3]},
        "of another type": {"dtype": "F64"}, "of no type": {"dtype": "X9"}, "of half a type": {"dtype": "BF16"},
        "without a place": {"data_offsets": [10**9, 10**9 + 4]}, "a word": {"shape": "x"},
    }  # fmt: skip
    for label, change in wrong.items():
        yield f"weights {label}", sealed(card, arrays, {**header, name: {**about, **change}})


def read_weights(path: Path) -> object:
    """As `denoise apply` and `--init` take it."""
    return read_model(path)


def write_bomb(path: Path) -> Path:
    """A scan of 13 GB of frames in a file of some 70 kB: every chunk is one of zeros, deflated twice."""
    write_cxi(path, **{"entry_1/data_1/data": None})
    once, frame = zlib.compressobj(9), bytes(BOMB_SIDE**2 * 2)
    plain = b"".join([*(once.compress(frame) for _ in range(BOMB_CHUNK_FRAMES)), once.flush()])
    packed = zlib.compress(plain, 9)
    frames = BOMB_CHUNKS * BOMB_CHUNK_FRAMES
    with h5py.File(path, "a") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((BOMB_CHUNK_FRAMES, BOMB_SIDE, BOMB_SIDE))
        settings.set_deflate(9)
        settings.set_deflate(9)
        space = h5py.h5s.create_simple((frames, BOMB_SIDE, BOMB_SIDE))
        made = h5py.h5d.create(file.create_group("entry_1/data_1").id, b"data", h5py.h5t.NATIVE_UINT16, space, settings)
        for first in range(0, frames, BOMB_CHUNK_FRAMES):
            made.write_direct_chunk((first, 0, 0), packed)
        del file["entry_1/sample_1/geometry_1/translation"]
        file["entry_1/sample_1/geometry_1/translation"] = np.random.default_rng(0).uniform(0, 1e-6, (frames, 3))
    return path


def write_promise(path: Path) -> Path:
    """A scan of 13 GB of which nothing was written."""
    write_cxi(path, **{"entry_1/data_1/data": None})
    with h5py.File(path, "a") as file:
        file.create_dataset("entry_1/data_1/data", (6500, 1024, 1024), np.uint16)
    return path
