"""What a live run has received, read again from its spool: no socket is opened and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.optics.frames import DetectorGeometry
from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding
from beamside.run.source import Record
from beamside.sources.dectris import Beam, Image, SeriesStart, beam
from beamside.sources.live_scan import SPOOL_NAME, geometry_of, image_of, series_of
from beamside.sources.scan_options import ScanOptions
from beamside.sources.spool import Spool

_UNKNOWN = Beam(None, None, None, None, None, None)


class SpooledScan:
    """The items of a run of `LiveScan`, for whoever has their records; it has no new ones.

    spool: folder of the run's spool; header: what the run agreed on.

    Raises:
        InputError: there is no spool, or it holds no frame.
    """

    def __init__(self, spool: Path, options: ScanOptions, header: Header | None) -> None:
        self._spool, self._agreed = Spool(spool / SPOOL_NAME, read_only=True), header
        self._geometry = self._known_geometry(options)

    def header(self) -> Header | None:
        """The run's."""
        return self._agreed

    def poll(self) -> Sequence[Record]:
        """Nothing."""
        return []

    def exhausted(self) -> bool:
        """Always."""
        return True

    def findings(self) -> Sequence[Finding]:
        """None."""
        return []

    def batch(self, records: Sequence[Record]) -> Batch:
        """Records as a batch with the columns of `LiveScan`."""
        entries = [json.loads(record.payload) for record in records]
        columns = {
            "position_m": np.array([[e["y_m"], e["x_m"]] for e in entries], dtype=np.float64).reshape(-1, 2),
            "frame": np.array([entry["frame"] for entry in entries], dtype=np.int64),
        }

        def load(rows: NDArray[np.int64]) -> NDArray[Any]:
            chosen = [int(entries[row]["offset"]) for row in np.asarray(rows).reshape(-1).tolist()]
            frames = [image_of(*self._spool.read(offset)).pixels() for offset in chosen]
            if not frames:
                return np.empty((0, self._geometry.frame_px, self._geometry.frame_px), dtype=np.uint16)
            return self._geometry.frames(np.stack(frames)).counts

        return Batch(tuple(record.key for record in records), columns, load)

    def close(self) -> None:
        """Close the spool."""
        self._spool.close()

    def _known_geometry(self, options: ScanOptions) -> DetectorGeometry:
        """As `LiveScan` found it: from the first begin of a series and the first frame."""
        start: SeriesStart | None = None
        first: Image | None = None
        for _, about, blob in self._spool.records():
            if about["kind"] == "image":
                first = first or image_of(about, blob)
            elif about["kind"] == "start":
                found = series_of(about, blob)
                start = start or (found if isinstance(found, SeriesStart) else None)
        if first is None:
            self._spool.close()
            raise InputError("holds no frame.", where=str(self._spool.path), remedy="Bring the run's spool back.")
        return geometry_of(start, _UNKNOWN if start is None else beam(start.config), first, options)
