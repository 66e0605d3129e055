"""PtyPy's prepared data, `.ptyd`: chunks of frames with positions, and what was known of the instrument.

`/chunks/N/{data,positions,indices,weights}`; positions are (y, x) in metres; `/meta` has energy (keV), distance and
psize (metres). Chunks may be links to files beside it. Frames carry DC in the centre (n//2), PtyPy's "fftshift".
"""

from __future__ import annotations

import numpy as np

from beamside.errors import FormatError
from beamside.formats.scan_layout import ScanLayout, View, energy_keV, first_of, length_m, wavelength_of_energy_m


def layout(view: View) -> ScanLayout | None:
    """Where a .ptyd scan lies; None where the file is none.

    Raises:
        FormatError: a chunk lacks its positions, or a value is not what its name says.
    """
    chunks = sorted((name for name in view.children("/chunks") if name.isdigit()), key=int)
    chunks = [name for name in chunks if view.info(f"/chunks/{name}/data") is not None]
    if not chunks:
        return None
    bare = [name for name in chunks if view.info(f"/chunks/{name}/positions") is None]
    if bare:
        raise FormatError(f"chunk {bare[0]} has no positions.", where=view.where, remedy="Write the chunk again.")
    numbered = all(view.info(f"/chunks/{name}/indices") is not None for name in chunks)
    weight = first_of(view, "/info/weight2d", "/meta/weight2d")
    energy = energy_keV(view, "/meta/energy", "/info/energy", default_unit="keV")
    return ScanLayout(
        format="ptyd",
        frames=tuple(f"/chunks/{name}/data" for name in chunks),
        positions=tuple(f"/chunks/{name}/positions" for name in chunks),
        numbers=tuple(f"/chunks/{name}/indices" for name in chunks) if numbered else (),
        dc="centre",
        valid=None if weight is None or len(weight.shape) != 2 else np.asarray(view.array(weight.path) > 0),
        wavelength_m=None if energy is None else wavelength_of_energy_m(energy),
        distance_m=length_m(view, "/meta/distance", "/info/distance"),
        detector_pixel_m=length_m(view, "/meta/psize", "/info/psize"),
    )
