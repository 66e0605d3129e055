"""A ptychographic scan on a Tiled server, finished or running, as a source."""

from __future__ import annotations

from pathlib import Path

from beamside.formats.scan_layout import View
from beamside.formats.tiled import TiledView
from beamside.run.engine import Header
from beamside.sources.scan_options import ScanOptions
from beamside.sources.scans import ScanFile

_NO_OPTIONS = ScanOptions()


class TiledScan(ScanFile):
    """The arrays below a node of Tiled, such as a Bluesky run; see `ScanFile` for what it gives.

    watch: the run goes on; arrays are looked at again at every poll, and frames of zeros at their end are waited for.
    """

    def __init__(
        self, url: str, options: ScanOptions = _NO_OPTIONS, *, watch: bool = False, header: Header | None = None
    ) -> None:
        super().__init__(Path(), options, watch=watch, header=header)
        self.url, self._looks = url, 0

    @property
    def where(self) -> str:
        """The URL."""
        return self.url

    def _look_into(self) -> View:
        return TiledView(self.url)

    def _state(self) -> object:
        """Always new: a server does not say that an array has grown."""
        self._looks += 1
        return self._looks
