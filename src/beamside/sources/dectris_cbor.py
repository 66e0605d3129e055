"""Messages of a DECTRIS detector's stream, version 2: one CBOR map (RFC 8949) a message.

    {"type": "start", "series_id", "incident_energy" (eV), "detector_translation" (m), "pixel_mask": {channel: array}}
    {"type": "image", "series_id", "image_id", "data": {channel: array}, ...}
    {"type": "end", "series_id"}

An array is tag 40 of [[rows, columns], elements]; elements are a typed array (RFC 8746: tag 64, 69 or 70) of bytes, or
of tag 56500, [algorithm, bytes an element, packed bytes]. A detector with several thresholds sends a channel for each:
the first one, by name, is read. Images are numbered from 0 within a series.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.dectris_codec import decode_image
from beamside.sources.dectris import Image, SeriesEnd, SeriesStart, whole

_MARK = b"\xd9\xd9\xf7"
"""Tag 55799, with which a message says of itself that it is CBOR."""
_MAP = 5
_ROWS_FIRST, _PACKED = 40, 56500
_TYPES = {64: "uint8", 69: "uint16", 70: "uint32"}
_NAMES = {
    "incident_energy": "photon_energy",
    "incident_wavelength": "wavelength",
    "pixel_size_x": "x_pixel_size",
    "pixel_size_y": "y_pixel_size",
    "beam_center_x": "beam_center_x",
    "beam_center_y": "beam_center_y",
    "number_of_images": "nimages",
    "saturation_value": "countrate_correction_count_cutoff",
}
"""Names of version 2 -> those of version 1, in the same units."""


def is_cbor(parts: Sequence[bytes]) -> bool:
    """Whether a message is of version 2; those of version 1 begin with JSON."""
    first = parts[0] if parts else b""
    return len(parts) == 1 and (first.startswith(_MARK) or (first[:1] != b"" and first[0] >> 5 == _MAP))


def parse(message: bytes) -> SeriesStart | Image | SeriesEnd:
    """The meaning of one message.

    Raises:
        FormatError: it is none of the three, or the package that reads CBOR is absent.
    """
    values = _loaded(message)
    kind = values.get("type")
    if kind == "start":
        return _start(values)
    if kind == "image":
        shape, type_name, encoding, blob = _array(_channel(values, "data"))
        return Image(whole(values, "series_id"), whole(values, "image_id"), shape, type_name, encoding, blob)
    if kind == "end":
        return SeriesEnd(whole(values, "series_id"))
    raise FormatError(f"a message of type {str(kind)[:40]!r} came.")


def _loaded(message: bytes) -> Mapping[str, Any]:
    cbor2 = _cbor2()
    try:
        values = cbor2.loads(message)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise FormatError(f"a message is no CBOR ({type(error).__name__}).") from None
    if not isinstance(values, Mapping):
        raise FormatError("a message is no CBOR map.")
    return values


def _cbor2() -> ModuleType:
    try:
        return importlib.import_module("cbor2")
    except ImportError:
        raise FormatError(
            "a stream of version 2 (CBOR) came, and the package 'cbor2' is not installed.",
            remedy="pip install 'beamside[live]', or let the detector send version 1.",
        ) from None


def _start(values: Mapping[str, Any]) -> SeriesStart:
    config = {
        ours: values[theirs]
        for theirs, ours in _NAMES.items()
        if isinstance(values.get(theirs), int | float) and not isinstance(values[theirs], bool)
    }
    moved = values.get("detector_translation")
    if isinstance(moved, Sequence) and len(moved) == 3 and isinstance(moved[2], int | float):
        config["detector_distance"] = abs(moved[2])
    user = values.get("user_data")
    if isinstance(user, Mapping) and isinstance(user.get("scan_uid"), str):
        config["scan_uid"] = user["scan_uid"]
    config = {name: value for name, value in config.items() if isinstance(value, str) or math.isfinite(value)}
    mask: NDArray[Any] | None = None
    if values.get("pixel_mask"):
        shape, type_name, encoding, blob = _array(_channel(values, "pixel_mask"))
        mask = decode_image(blob, encoding, shape, type_name).astype(np.uint32)
    return SeriesStart(whole(values, "series_id"), config, mask)


def _channel(values: Mapping[str, Any], name: str) -> Any:
    """The array of the first channel."""
    channels = values.get(name)
    if not isinstance(channels, Mapping) or not channels:
        raise FormatError(f"a message without {name} came.")
    return channels[min(channels, key=str)]


def _array(value: Any) -> tuple[tuple[int, int], str, str, bytes]:
    """(rows, columns), type, encoding as `dectris_codec` has them, and the bytes."""
    shape, elements = _tagged(value, _ROWS_FIRST, 2)
    if not (isinstance(shape, Sequence) and len(shape) == 2 and all(type(n) is int and 0 < n < 1 << 20 for n in shape)):
        raise FormatError(f"a message's shape is {str(shape)[:40]!r}.")
    type_name = _TYPES.get(getattr(elements, "tag", None) or 0)
    if type_name is None:
        raise FormatError("a message's pixels are no unsigned integers of 8, 16 or 32 bits.")
    encoding, blob = "<", elements.value
    if not isinstance(blob, bytes):
        algorithm, size, blob = _tagged(blob, _PACKED, 3)
        encoding = {"lz4": "h5lz4<", "bslz4": f"bs{8 * size if type(size) is int else 0}-lz4<"}.get(str(algorithm), "")
        if not encoding or not isinstance(blob, bytes):
            raise FormatError(f"pixels packed by {str(algorithm)[:40]!r} are not known.")
    return (shape[0], shape[1]), type_name, encoding, blob


def _tagged(value: Any, tag: int, parts: int) -> Sequence[Any]:
    inner = getattr(value, "value", None)
    if getattr(value, "tag", None) != tag or not isinstance(inner, Sequence) or len(inner) != parts:
        raise FormatError(f"a message's pixels are not as tag {tag} of CBOR has them.")
    return inner
