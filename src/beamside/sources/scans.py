"""A ptychographic scan in a file, finished or growing, as a source of frames with positions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import FormatError, InputError
from beamside.formats.scan_layout import View
from beamside.formats.tiled import TiledView
from beamside.run.engine import Batch, Header
from beamside.run.guard import Finding, Severity
from beamside.run.source import Record
from beamside.sources.hdf5_reader import Hdf5Reader, UnsettledError
from beamside.sources.positions import LEAST_FOR_STATISTICS, absurd, lost_finding, outside_finding
from beamside.sources.scan_contents import Contents, Instrument, cropped, open_view, pixel_of, read_contents
from beamside.sources.scan_options import ScanOptions
from beamside.sources.settling import signature

_NO_OPTIONS = ScanOptions()
_LATE_S = 10.0
"""How long a frame of a growing file may stay behind later ones before that is said."""


class ScanFile:
    """Frames of one file; columns `position_m` (n, 2), (y, x), and `frame` (n,).

    watch: the file may not be there yet, and may grow (HDF5 with SWMR, or written anew); frames are given out once they
    and their positions are written, and the source never ends by itself. Without it the file is finished: what is
    missing is named and left out.
    header: what the run agreed on already, when it is resumed.
    Damage of a finished file is raised as FormatError or InputError by `header` or `poll`; a growing one is waited for.
    """

    def __init__(
        self,
        path: Path,
        options: ScanOptions = _NO_OPTIONS,
        *,
        watch: bool = False,
        header: Header | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path, self.options, self.watch, self.clock = path, options, watch, clock
        self._behind: dict[int, float] = {}
        self._agreed = header
        self._view: Any = None
        self._contents: Contents | None = None
        self._seen: object = None
        self._found: list[Finding] = []
        self._given: set[int] = set()
        self._numbers: set[int] = set()
        self._accepted_m: list[NDArray[np.float64]] = []
        self._said: set[str] = set()
        self._done = False

    # what a source gives

    def header(self) -> Header | None:
        """Frame size, wavelength, distance and the like; None while a growing file has no frame yet."""
        if self._agreed is None and not self.watch:
            self._open()
        return self._agreed

    def poll(self) -> Sequence[Record]:
        """Frames that have become complete, in the order of the file."""
        if self._done:
            return []
        if not self.watch:
            self._done = True
            records = self._finished()
            if not records:
                raise self._unusable()
            return records
        try:
            return self._growing()
        except UnsettledError:
            return []
        except (FormatError, InputError) as error:
            self._say(Finding("input.settled", Severity.NOTE, error.paragraph(), "It is looked at again."))
            return []

    def exhausted(self) -> bool:
        """Once a finished file was given out; never for a growing one."""
        return self._done

    def findings(self) -> Sequence[Finding]:
        """What was set aside or noticed since the last call."""
        found, self._found = self._found, []
        return found

    def batch(self, records: Sequence[Record]) -> Batch:
        """Records as a batch; its frames are read when they are asked for."""
        entries = [json.loads(record.payload) for record in records]
        rows = np.array([entry["row"] for entry in entries], dtype=np.int64)
        columns = {
            "position_m": np.array([[e["y_m"], e["x_m"]] for e in entries], dtype=np.float64).reshape(-1, 2),
            "frame": np.array([entry["frame"] for entry in entries], dtype=np.int64),
        }
        return Batch(tuple(r.key for r in records), columns, lambda wanted: self._open().frames(rows[wanted]))

    def close(self) -> None:
        """End the reader."""
        if isinstance(self._view, Hdf5Reader | TiledView):
            self._view.close()

    # the file itself

    @property
    def where(self) -> str:
        """The scan, for messages."""
        return str(self.path)

    def _look_into(self) -> View:
        if not self.path.exists():
            raise InputError("there is no such file.", where=self.where, remedy="Check the spelling.")
        return open_view(self.path, live=self.watch)

    def _state(self) -> object:
        """Something that changes when the file does; None while it is not there."""
        return signature(self.path)

    # a finished file

    def _open(self) -> Contents:
        """The file's contents, opened once.

        Raises:
            FormatError, InputError: it holds no scan that can be used.
        """
        if self._contents is None:
            self._view = self._look_into() if self._view is None else self._view
            contents = read_contents(self._view, self.options)
            if contents is None:
                raise self._unusable()
            self._adopt(contents)
        assert self._contents is not None
        return self._contents

    def _adopt(self, contents: Contents) -> None:
        self._contents = contents
        if self._agreed is None:
            fields = dict(contents.header.fields)
            fields["count"] = None if self.watch else contents.frame_rows()[0]
            self._agreed = Header(contents.header.kind, fields)
        if text := cropped(contents.geometry):
            remedy = "A square larger than the frame is filled up with pixels that count as not measured."
            self._say(Finding("frames.cropped", Severity.NOTE, text, remedy))
        if contents.nominal:
            text = "the file says neither wavelength nor distance, and gives positions in pixels."
            remedy = "Lengths are nominal: a pixel of the object counts as 1 nm."
            self._say(Finding("geometry.nominal", Severity.NOTE, text, remedy))

    def _unusable(self) -> InputError:
        return InputError(
            "holds no frame with a position that could be used.",
            where=self.where,
            remedy="Give a CXI, NeXus, .ptyd, HXN or .npz scan, or say where its parts lie: --map frames=PATH "
            "--map positions=PATH.",
        )

    def _finished(self) -> list[Record]:
        contents = self._open()
        total, holes, _ = contents.frame_rows()
        positions_m = contents.positions_m()
        numbers = contents.numbers(total)
        beyond = contents.declared() - total
        if beyond > 0:
            text = f"the file has room for {beyond} more frames that were never written."
            self._say(Finding("input.settled", Severity.NOTE, text, "The scan ends before them."))
        self._never_written(numbers, holes, "were never written and would read as zeros")
        rows = np.setdiff1d(np.arange(total), holes)
        hollow = np.intersect1d(rows, contents.position_holes())
        self._never_written(numbers, hollow.tolist(), "have a position that was never written and would read as zeros")
        rows = np.setdiff1d(rows, hollow)
        bare = rows[rows >= len(positions_m)]
        if bare.size:
            self._lost("positions.complete", Severity.SUSPECT, numbers[bare], "have no position")
        if len(positions_m) > total:
            count = len(positions_m) - total
            self._say(
                Finding("positions.complete", Severity.NOTE, f"{count} positions have no frame.", "They are unused.")
            )
        return self._accept(rows[rows < len(positions_m)], positions_m, numbers)

    def _never_written(self, numbers: NDArray[np.int64], rows: list[int], what: str) -> None:
        """Refuse a file that has lost frames in its middle, or name those that are left out.

        InputError, unless the options say that they are.
        """
        if not rows:
            return
        remedy = "They are left out of the reconstruction."
        found = lost_finding("files.checksum", Severity.SUSPECT, numbers[rows].tolist(), what, remedy)
        if self.options.lost_frames == "refuse":
            raise InputError(
                f"files.checksum: {found.saw}",
                where=self.where,
                remedy="Copy the file again; if the frames are lost for good, --lost-frames leave-out goes on without.",
            )
        self._say(found)

    # a growing file

    def _growing(self) -> list[Record]:
        now = self._state()
        if now is None:
            return []
        if self._view is None:
            self._view = self._look_into()
        elif now != self._seen:
            self._reopen()
        self._seen = now
        if self._contents is None:
            contents = read_contents(self._view, self.options)
            if contents is None:
                return []
            self._adopt(contents)
        contents = self._refreshed()
        since = self._next_row()
        total, holes, deep = contents.frame_rows(since)
        positions_m = contents.positions_m()
        known = _filled(positions_m)
        rows = np.array([row for row in range(min(total, known)) if row not in self._given], dtype=np.int64)
        rows = np.setdiff1d(rows, holes)
        rows = rows[np.isfinite(positions_m[rows]).all(1)]
        if deep != 1 and rows.size:
            rows = self._not_blank(contents, rows)
        if len(self._given) + rows.size < LEAST_FOR_STATISTICS:
            return []
        numbers = contents.numbers(total)
        records = self._accept(rows, positions_m, numbers)
        self._name_late(numbers)
        return records

    def _name_late(self, numbers: NDArray[np.int64]) -> None:
        """Say, once, which frames or positions have not come although later ones have long been there."""
        now, last = self.clock(), max(self._given)
        missing = set(range(last)) - self._given if len(self._given) <= last else set()
        self._behind = {row: self._behind.get(row, now) for row in missing}
        due = sorted(row for row, since in self._behind.items() if since + _LATE_S <= now)
        if due:
            what = f"have not been written {_LATE_S:g} s after later ones"
            self._say(
                lost_finding("files.checksum", Severity.SUSPECT, numbers[due].tolist(), what, "They are waited for.")
            )
            self._behind |= dict.fromkeys(due, float("inf"))

    def _reopen(self) -> None:
        if isinstance(self._view, Hdf5Reader):
            self._view.reopen()
        else:
            self._view, self._contents = self._look_into(), None

    def _refreshed(self) -> Contents:
        """The contents with the datasets as they are listed now; .ptyd files gain datasets as they grow."""
        assert self._contents is not None
        if len(self._contents.layout.frames) > 1 or self._contents.layout.format == "ptyd":
            self._contents = read_contents(self._view, self.options) or self._contents
        return self._contents

    def _next_row(self) -> int:
        row = len(self._given)
        return row if not self._given or max(self._given) == row - 1 else 0

    def _not_blank(self, contents: Contents, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows up to the last frame with a count: where frames share a chunk, one not yet written reads as zeros."""
        full = np.flatnonzero(contents.frames(rows).any(axis=(1, 2)))
        return rows[: full[-1] + 1] if full.size else rows[:0]

    # both

    def _accept(
        self, rows: NDArray[np.int64], positions_m: NDArray[np.float64], numbers: NDArray[np.int64]
    ) -> list[Record]:
        """Records of `rows` whose number is new and whose position can be used; the others are named."""
        self._given.update(rows.tolist())
        places_m = positions_m[rows]
        bad = ~np.isfinite(places_m).all(1)
        if bad.any():
            self._lost("positions.finite", Severity.NOTE, numbers[rows[bad]], "have a position that is no number")
        rows, places_m = rows[~bad], places_m[~bad]
        everything = np.concatenate([*self._accepted_m, places_m]) if len(places_m) else places_m
        far = absurd(places_m, everything, self._window_m())
        if far.any():
            self._found.append(outside_finding(numbers[rows[far]].tolist(), places_m[far]))
        rows, places_m = rows[~far], places_m[~far]
        fresh: list[int] = []
        repeated: list[int] = []
        for place, row in enumerate(rows.tolist()):
            (repeated if int(numbers[row]) in self._numbers else fresh).append(place)
            self._numbers.add(int(numbers[row]))
        if repeated:
            self._lost("input.repeated", Severity.NOTE, numbers[rows[repeated]], "came more than once")
        rows, places_m = rows[fresh], places_m[fresh]
        self._accepted_m.append(places_m)
        return [
            scan_record(int(numbers[row]), y_m, x_m, row=row)
            for row, (y_m, x_m) in zip(rows.tolist(), places_m.tolist(), strict=True)
        ]

    def _window_m(self) -> float:
        assert self._agreed is not None
        fields = self._agreed.fields
        made = Instrument(fields["wavelength_m"], fields["distance_m"], fields["detector_pixel_m"], False)
        return pixel_of(made, self.options, fields["frame_px"]) * float(fields["frame_px"])

    def _lost(self, guard: str, severity: Severity, numbers: NDArray[np.int64], what: str) -> None:
        self._say(lost_finding(guard, severity, numbers.tolist(), what, "They are left out of the reconstruction."))

    def _say(self, finding: Finding) -> None:
        """A finding, once for each text."""
        if finding.saw not in self._said:
            self._said.add(finding.saw)
            self._found.append(finding)


def scan_record(number: int, y_m: float, x_m: float, **place: int) -> Record:
    """The ledger's record of a frame: its number, its position, and where it is read again."""
    return Record(f"frame {number}", json.dumps({"frame": number, "y_m": y_m, "x_m": x_m, **place}))


def _filled(positions_m: NDArray[np.float64]) -> int:
    """Positions up to the last that is neither zero nor NaN: what a growing file has not written yet is either."""
    written = np.flatnonzero((np.nan_to_num(positions_m) != 0).any(1))
    return int(written[-1]) + 1 if written.size else 0
