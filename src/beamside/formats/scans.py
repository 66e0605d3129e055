"""Which of the known layouts a file has."""

from __future__ import annotations

from collections.abc import Mapping

from beamside.formats import bluesky, cxi, hxn, nexus, npz, ptyd, tiled
from beamside.formats.scan_layout import ScanLayout, View, mapped

_READERS = (cxi.layout, ptyd.layout, hxn.layout, nexus.layout)


def find_layout(view: View, mapping: Mapping[str, str]) -> ScanLayout | None:
    """Where the scan lies, from the user's mapping, or by the first format that knows the file; None: by none."""
    if mapping:
        return mapped(view, mapping)
    readers = (npz.layout,) if isinstance(view, npz.NpzView) else (*_READERS, npz.layout)
    if isinstance(view, tiled.TiledView):
        readers = (bluesky.layout, *readers)
    return next((found for reader in readers if (found := reader(view)) is not None), None)
