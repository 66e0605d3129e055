"""A scan that arrives over two sockets, frames on one and positions on the other, as a source.

A thread receives, checks and writes everything into a spool file; a frame becomes an item only once it and its position
are on the disk. A killed run opens the same spool again and goes on where it was: the payload of an item is where its
frame lies in the spool.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.formats.scan_layout import ScanLayout
from beamside.optics.frames import DcPlace, DetectorGeometry, ScanGeometry
from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding, Severity
from beamside.run.source import Record
from beamside.sources import dectris_cbor
from beamside.sources.dectris import Beam, Image, SeriesEnd, SeriesStart, beam, parse
from beamside.sources.matching import Matcher
from beamside.sources.motors import MotorOptions, Motors
from beamside.sources.positions import LEAST_FOR_STATISTICS
from beamside.sources.scan_contents import (
    Instrument,
    beam_centre,
    cropped,
    flagged,
    frames_header,
    instrument,
    pixel_of,
)
from beamside.sources.scan_options import ScanOptions
from beamside.sources.sockets import CurveFiles, Listener
from beamside.sources.spool import Spool

_MOST_WAITING = 100_000
"""Frames and positions that wait for their other half, or to be taken; beyond, nothing more is received."""
_CACHE_BYTES = 1 << 28
_MOST_SAID = 20
SPOOL_NAME = "frames.spool"
_NO_OPTIONS, _NO_MOTORS = ScanOptions(), MotorOptions()


class LiveScan:
    """Frames of a DECTRIS stream with positions of motor messages; columns as those of `ScanFile`.

    The stream is of version 1 or 2, told apart message by message. spool: folder for what arrives, RUN/spool.
    patience_s: after the end of the series, how long positions (or late frames) are still waited for. positions_socket:
    "sub" or "pull".
    A message that makes no sense is a finding (`stream.message`), never an error.
    """

    def __init__(
        self,
        frames: str,
        positions: str,
        spool: Path,
        options: ScanOptions = _NO_OPTIONS,
        motors: MotorOptions = _NO_MOTORS,
        *,
        positions_socket: str = "sub",
        curve: CurveFiles | None = None,
        patience_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options, self.patience_s, self.clock = options, patience_s, clock
        self.scan = ScanGeometry(0, 1, options.y_sign, options.x_sign, options.position_unit_m or 1.0)
        self._agreed: Header | None = None
        self._geometry: DetectorGeometry | None = None
        self._motors, self._matcher = Motors(motors), Matcher()
        self._start: SeriesStart | None = None
        self._first: Image | None = None
        self._series: int | None = None
        self._ended = False
        self._last_at = clock()
        self._expected: int | None = None
        self._header_missed = self._full = False
        self._found: list[Finding] = []
        self._said = 0
        self._exhausted = False
        self._lock = threading.RLock()
        self._cache: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._spool = Spool(spool / SPOOL_NAME)
        self._replay()
        endpoints = {"frames": (frames, "pull"), "positions": (positions, positions_socket)}
        self._listener: Listener | None = Listener(endpoints, self._take, self._ready, curve)

    # what a source gives

    def header(self) -> Header | None:
        """Known once the series' header and its first frame have come."""
        with self._lock:
            return self._agreed

    def poll(self) -> Sequence[Record]:
        """Frames whose positions have come, by frame number; all of it is on the disk by then.

        Raises:
            InputError: the instrument is not known although frames come.
        """
        if self._listener is not None and self._listener.failure is not None:
            raise self._listener.failure
        with self._lock:
            if not self._ready() and not self._full:
                self._full = True
                waiting = f"{len(self._matcher.frames)} frames and {len(self._matcher.places)} positions"
                saw = f"{waiting} wait for their other half; nothing more is received."
                remedy = "Check that both streams count frames alike (encoder samples a frame, first number)."
                self._found.append(Finding("stream.backlog", Severity.SUSPECT, saw, remedy))
            if self._agreed is None:
                self._settle()
            if self._agreed is None or self._exhausted:
                self._conclude_if_over()
                return []
            matches, findings = self._matcher.pairs(ended=self._over())
            self._found += findings
            self._conclude_if_over()
        self._spool.sync()
        return [
            Record(f"frame {m.frame}", json.dumps({"frame": m.frame, "y_m": m.y_m, "x_m": m.x_m, "offset": m.offset}))
            for m in matches
        ]

    def exhausted(self) -> bool:
        """Once the series has ended and what could still be matched has been, or patience is over."""
        return self._exhausted

    def findings(self) -> Sequence[Finding]:
        """What was set aside or noticed since the last call."""
        with self._lock:
            found, self._found = self._found, []
        return found

    def batch(self, records: Sequence[Record]) -> Batch:
        """Records as a batch; frames come from memory while they are recent, else from the spool."""
        entries = [json.loads(record.payload) for record in records]
        offsets = [int(entry["offset"]) for entry in entries]
        columns = {
            "position_m": np.array([[e["y_m"], e["x_m"]] for e in entries], dtype=np.float64).reshape(-1, 2),
            "frame": np.array([entry["frame"] for entry in entries], dtype=np.int64),
        }

        def load(rows: NDArray[np.int64]) -> NDArray[Any]:
            return self._frames([offsets[row] for row in np.asarray(rows).reshape(-1).tolist()])

        return Batch(tuple(record.key for record in records), columns, load)

    def close(self) -> None:
        """Stop receiving and close the spool."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._spool.close()

    # frames

    def _frames(self, offsets: list[int]) -> NDArray[Any]:
        geometry = self._geometry
        if geometry is None:
            raise InputError("frames were asked for before the scan's geometry was known.")
        parts: list[NDArray[Any]] = []
        for offset in offsets:
            with self._lock:
                pixels = self._cache.pop(offset, None)
            if pixels is None:
                about, blob = self._spool.read(offset)
                pixels = image_of(about, blob).pixels()
            parts.append(pixels)
        if not parts:
            return np.empty((0, geometry.frame_px, geometry.frame_px), dtype=np.uint16)
        return geometry.frames(np.stack(parts)).counts

    # receiving, in the listener's thread

    def _ready(self) -> bool:
        return len(self._matcher.frames) + len(self._matcher.places) < _MOST_WAITING

    def _take(self, name: str, parts: list[bytes]) -> None:
        self._last_at = self.clock()
        try:
            if name == "frames":
                self._take_frame(parts)
            else:
                self._take_places(parts[-1])
        except FormatError as error:
            with self._lock:
                self._complain(f"{error.what} The message on the {name} socket is ignored.", error.remedy)

    def _take_frame(self, parts: list[bytes]) -> None:
        message = dectris_cbor.parse(parts[0]) if dectris_cbor.is_cbor(parts) else parse(parts)
        if isinstance(message, Image):
            pixels = message.pixels()  # before it is kept: what does not decode is no frame
            with self._lock:
                if self._foreign(message.series) or not self._fits(message):
                    return
                offset = self._spool.append(_about(message), message.blob)
                if self._matcher.add_frame(message.frame, offset):
                    self._first = self._first or message
                    self._remember(offset, pixels)
        else:
            with self._lock:
                if not self._foreign(message.series):
                    self._spool.append(*_series_record(message))
                    self._note_series(message)

    def _take_places(self, message: bytes) -> None:
        with self._lock:
            places = self._motors.take(message)
            yx_m = self.scan.positions_m(places.yx_m[:, ::-1] if self.options.swap_axes else places.yx_m)
            rows = list(map(tuple, yx_m.tolist()))
            new = set(self._matcher.add_places(places.frames.tolist(), rows))
            kept = [[f, *row] for f, row in zip(places.frames.tolist(), rows, strict=True) if f in new]
            if kept or self._motors.stopped:
                self._spool.append({"kind": "places", "rows": kept, "stopped": self._motors.stopped})

    def _foreign(self, series: int) -> bool:
        """Whether a message belongs to another series than the run's."""
        if self._series is None:
            self._series = series
        if series != self._series:
            self._complain(f"a message of series {series} came in a run of series {self._series}; it is ignored.")
        return series != self._series

    def _fits(self, image: Image) -> bool:
        first = self._first
        same = first is None or (image.shape, image.type_name) == (first.shape, first.type_name)
        if not same and first is not None:
            self._complain(
                f"frame {image.frame} has {image.shape[0]} x {image.shape[1]} px ({image.type_name}), the first had "
                f"{first.shape[0]} x {first.shape[1]} ({first.type_name}); it is ignored."
            )
        return same

    def _note_series(self, message: SeriesStart | SeriesEnd) -> None:
        if isinstance(message, SeriesStart):
            self._start = self._start or message
            self._expected = beam(message.config).frames
        else:
            self._ended = True

    def _remember(self, offset: int, pixels: NDArray[Any]) -> None:
        self._cache[offset] = pixels
        while len(self._cache) * pixels.nbytes > _CACHE_BYTES:
            self._cache.popitem(last=False)

    def _complain(self, saw: str, remedy: str = "") -> None:
        self._said += 1
        if self._said <= _MOST_SAID:
            more = " No more of this kind are reported." if self._said == _MOST_SAID else ""
            remedy = f"{remedy or 'Check who else sends to this address.'}{more}"
            self._found.append(Finding("stream.message", Severity.NOTE, saw, remedy))

    # what an earlier process received

    def _replay(self) -> None:
        for offset, about, blob in self._spool.records():
            kind = about.get("kind")
            if kind == "image":
                image = image_of(about, blob)
                self._series = image.series
                self._matcher.add_frame(image.frame, offset)
                self._first = self._first or image
            elif kind == "places":
                rows = about["rows"]
                self._matcher.add_places([row[0] for row in rows], [(row[1], row[2]) for row in rows])
                self._motors.stopped = self._motors.stopped or bool(about["stopped"])
            else:
                self._series = int(about["series"])
                self._note_series(series_of(about, blob))
        self._settle()

    # when all is known, and when all is over

    def _settle(self) -> None:
        """Geometry and header, once the first frame has come."""
        first = self._first
        if first is None:
            return
        if self._start is None and not self._enough():
            if self._matcher.frames_seen >= LEAST_FOR_STATISTICS and not self._header_missed:
                self._header_missed = True
                saw = "frames come, but the header of their series has not."
                remedy = "Give energy, distance and detector pixel as options, or start the series again."
                self._found.append(Finding("stream.header", Severity.SUSPECT, saw, remedy))
            return
        known = beam(self._start.config) if self._start is not None else Beam(None, None, None, None, None, None)
        geometry = geometry_of(self._start, known, first, self.options)
        layout = ScanLayout("stream", (), unit_m=1.0, wavelength_m=known.wavelength_m, distance_m=known.distance_m,
                            detector_pixel_m=known.detector_pixel_m)  # fmt: skip
        made = instrument(layout, self.options, geometry.frame_px, "the stream")
        uid = None if self._start is None else str(self._start.config.get("scan_uid") or "") or None
        self._agreed = frames_header(geometry, made, self.options, scan_uid=uid, count=known.frames)
        self._geometry = geometry
        if text := cropped(geometry):
            remedy = "A square larger than the frame is filled up with pixels that count as not measured."
            self._found.append(Finding("frames.cropped", Severity.NOTE, text, remedy))
        self._matcher.window_m = _window_m(self._agreed, made, self.options)

    def _enough(self) -> bool:
        """Whether the options say all that a series' header would."""
        o = self.options
        return bool(o.energy_keV and o.distance_m and o.detector_pixel_m)

    def _over(self) -> bool:
        """Whether nothing more is waited for: all frames are there with positions, or a long silence after the end."""
        if not self._ended:
            return False
        matched = not self._matcher.frames.keys() - self._matcher.places.keys()
        complete = self._expected is not None and self._matcher.frames_seen >= self._expected
        return (matched and complete) or self.clock() - self._last_at >= self.patience_s

    def _conclude_if_over(self) -> None:
        if self._exhausted or not self._over() or (self._matcher.frames.keys() & self._matcher.places.keys()):
            return
        self._exhausted = True
        self._found += self._matcher.leftovers(self._expected)


def geometry_of(start: SeriesStart | None, known: Beam, first: Image, options: ScanOptions) -> DetectorGeometry:
    """How stored frames become those of the solvers, from the series' begin, the first frame and the options."""
    maps: dict[str, Any] = dict(options.maps())
    if start is not None and start.pixel_mask is not None and "valid" not in maps:
        maps["valid"] = start.pixel_mask == 0
    if first.type_name == "uint32" and (flags := flagged(first.pixels())).any():
        maps["valid"] = ~flags if maps.get("valid") is None else maps["valid"] & ~flags
    centre = known.centre_px
    inside = centre is not None and centre[0] < first.shape[0] and centre[1] < first.shape[1]
    dc: DcPlace = options.dc or (centre if inside and centre is not None else "centre")
    whole = np.iinfo(first.type_name).max
    saturation = options.saturation or (float(whole) if first.type_name != "uint8" else None)
    if options.saturation is None and known.cutoff:
        saturation = min(saturation or known.cutoff, known.cutoff)
    return DetectorGeometry(
        shape_px=first.shape,
        orientation=options.orientation,
        dc=beam_centre(first.pixels()) if dc == "auto" else dc,
        crop_px=options.crop_px,
        saturation=saturation,
        near_field=options.propagation == "near",
        **maps,
    )


def _window_m(header: Header, made: Instrument, options: ScanOptions) -> float:
    frame_px = int(header.fields["frame_px"])
    return pixel_of(made, options, frame_px) * frame_px


def _about(image: Image) -> dict[str, Any]:
    return {
        "kind": "image",
        "series": image.series,
        "frame": image.frame,
        "shape": list(image.shape),
        "type": image.type_name,
        "encoding": image.encoding,
    }


def image_of(about: dict[str, Any], blob: bytes) -> Image:
    """A frame as the spool keeps it."""
    rows, columns = about["shape"]
    return Image(about["series"], about["frame"], (rows, columns), about["type"], about["encoding"], blob)


def _series_record(message: SeriesStart | SeriesEnd) -> tuple[dict[str, Any], bytes]:
    """A series' begin or end as a spool record; the blob of a begin is its pixel mask."""
    if isinstance(message, SeriesEnd):
        return {"kind": "end", "series": message.series}, b""
    record = {"kind": "start", "series": message.series, "config": dict(message.config)}
    if message.pixel_mask is None:
        return record, b""
    return {**record, "mask_shape": list(message.pixel_mask.shape)}, message.pixel_mask.tobytes()


def series_of(about: dict[str, Any], blob: bytes) -> SeriesStart | SeriesEnd:
    """A series' begin or end as the spool keeps it."""
    if about["kind"] == "end":
        return SeriesEnd(about["series"])
    mask = np.frombuffer(blob, dtype="<u4").reshape(about["mask_shape"]) if blob else None
    return SeriesStart(about["series"], about["config"], mask)
