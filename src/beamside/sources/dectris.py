"""Messages of a DECTRIS detector's stream, version 1: ZeroMQ multipart, JSON parts and blobs (2: `dectris_cbor`).

    dheader-1.0                 {"htype", "series", "header_detail"}, then the configuration (JSON), and with detail
                                "all" pairs of dflatfield-1.0, dpixelmask-1.0, dcountrate_table-1.0 and their blobs
    dimage-1.0                  {"htype", "series", "frame", "hash"}, dimage_d-1.0 {"shape": [columns, rows], "type",
                                "encoding", "size"}, the blob, dimage_c-1.0 (or dconfig-1.0) with times; appendices
    dseries_end-1.0             {"htype", "series"}

Frames are numbered from 0 within a series. Whatever does not have this form is a FormatError that names the part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError
from beamside.formats.dectris_codec import decode_image
from beamside.formats.scan_layout import wavelength_of_energy_m


@dataclass(frozen=True)
class SeriesStart:
    """A series begins. config: the detector's configuration, empty with header_detail "none".

    pixel_mask: (rows, columns), 0 where a pixel measures. The flat field is not kept: the detector has applied it.
    """

    series: int
    config: Mapping[str, Any]
    pixel_mask: NDArray[Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Image:
    """One frame, still encoded. shape: (rows, columns)."""

    series: int
    frame: int
    shape: tuple[int, int]
    type_name: str
    encoding: str
    blob: bytes

    def pixels(self) -> NDArray[Any]:
        """The counts (rows, columns); FormatError where the blob does not hold them."""
        return decode_image(self.blob, self.encoding, self.shape, self.type_name)


@dataclass(frozen=True)
class SeriesEnd:
    """A series has ended."""

    series: int


@dataclass(frozen=True)
class Beam:
    """What a configuration says of the instrument, in SI units; None where it does not."""

    wavelength_m: float | None
    distance_m: float | None
    detector_pixel_m: float | None
    centre_px: tuple[int, int] | None
    cutoff: float | None
    frames: int | None


def parse(parts: Sequence[bytes]) -> SeriesStart | Image | SeriesEnd:
    """The meaning of one multipart message.

    Raises:
        FormatError: it is none of the three.
    """
    head = _json(parts, 0)
    kind = head.get("htype")
    if kind == "dheader-1.0":
        return _start(parts, head)
    if kind == "dimage-1.0":
        return _image(parts, head)
    if kind == "dseries_end-1.0":
        return SeriesEnd(whole(head, "series"))
    raise FormatError(f"a message of htype {str(kind)[:40]!r} came.")


def beam(config: Mapping[str, Any]) -> Beam:
    """The instrument by a series' configuration: wavelength in Angstrom, energy in eV, lengths in metres."""

    def positive(name: str) -> float | None:
        value = config.get(name)
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        return float(value) if good and value is not None else None

    wavelength, energy = positive("wavelength"), positive("photon_energy")
    row, column = positive("beam_center_y"), positive("beam_center_x")
    images, triggers = positive("nimages"), positive("ntrigger")
    return Beam(
        wavelength_m=wavelength * 1e-10 if wavelength else wavelength_of_energy_m(energy * 1e-3) if energy else None,
        distance_m=positive("detector_distance"),
        detector_pixel_m=positive("x_pixel_size"),
        centre_px=(round(row), round(column)) if row and column else None,
        cutoff=positive("countrate_correction_count_cutoff"),
        frames=None if images is None else round(images * (triggers or 1)),
    )


def _start(parts: Sequence[bytes], head: Mapping[str, Any]) -> SeriesStart:
    config = _json(parts, 1) if len(parts) > 1 else {}
    pixel_mask = None
    # Parts after the configuration come in pairs; an appendix of the user may follow, which is no map.
    for place in range(2, len(parts) - 1, 2):
        try:
            about = _json(parts, place)
        except FormatError:
            break
        if about.get("htype") == "dpixelmask-1.0":
            pixel_mask = _map(about, parts[place + 1])
    return SeriesStart(whole(head, "series"), config, pixel_mask)


def _map(about: Mapping[str, Any], blob: bytes) -> NDArray[Any]:
    shape = _shape(about)
    if about.get("type") != "uint32" or 4 * math.prod(shape) != len(blob):
        raise FormatError(f"the pixel mask does not fit its {len(blob):,} bytes.")
    return np.frombuffer(blob, dtype="<u4").reshape(shape)


def _image(parts: Sequence[bytes], head: Mapping[str, Any]) -> Image:
    if len(parts) < 3:
        raise FormatError(f"an image of {len(parts)} parts came; it has at least 3.")
    about = _json(parts, 1)
    if about.get("htype") != "dimage_d-1.0":
        raise FormatError("an image without a part dimage_d-1.0 came.")
    shape = _shape(about)
    return Image(
        whole(head, "series"), whole(head, "frame"), shape, str(about.get("type")), str(about.get("encoding")),
        bytes(parts[2]),
    )  # fmt: skip


def _json(parts: Sequence[bytes], place: int) -> dict[str, Any]:
    try:
        value = json.loads(parts[place])
    except (IndexError, ValueError, RecursionError) as error:
        raise FormatError(f"part {place + 1} of a message is no JSON ({type(error).__name__}).") from None
    if not isinstance(value, dict):
        raise FormatError(f"part {place + 1} of a message is no JSON object.")
    return value


def whole(values: Mapping[str, Any], name: str) -> int:
    """A number that counts; FormatError where a message has none of that name."""
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise FormatError(f"a message's {name} is {str(value)[:40]!r}.")
    return value


def _shape(about: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns); on the wire the columns come first."""
    shape = about.get("shape")
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and 0 < n < 1 << 20 for n in shape)):
        raise FormatError(f"a message's shape is {str(shape)[:40]!r}.")
    return shape[1], shape[0]
