"""NeXus files in the form of NXmx, as DECTRIS and others write them, with a scan's positions beside the frames.

Frames are `/entry/data/data`, or `/entry/data/data_000001` and so on (links to files beside it); wavelength is in
Angstrom and energy in eV where no unit is given; the detector's pixel and distance are in metres. Positions are looked
for under the names that stages have: y and x apart, or one dataset. A pixel mask is 0 where a pixel is good.
"""

from __future__ import annotations

import numpy as np

from beamside.formats.scan_layout import (
    ScanLayout,
    View,
    energy_keV,
    first_of,
    is_axes_first,
    length_m,
    square_pixel_m,
    unit_of,
    wavelength_of_energy_m,
)

_ENTRIES = ("/entry", "/entry1", "/entry_1")
_DETECTORS = ("instrument/detector", "instrument/detector_1", "instrument/eiger")
_PAIRS = (("sample_y", "sample_x"), ("lab_sy", "lab_sx"), ("y", "x"), ("pos_y", "pos_x"), ("samy", "samx"))
_PLACES = ("data/positions", "sample/positions", "sample/transformations/translation")


def layout(view: View) -> ScanLayout | None:
    """Where an NXmx-like scan lies; None where the file is none.

    Raises:
        FormatError: a value is not what its name says.
    """
    entry = next((name for name in _ENTRIES if _frames(view, name)), None)
    if entry is None:
        return None
    detector = [f"{entry}/{name}" for name in _DETECTORS]
    positions, split = _positions(view, entry)
    places = view.info(positions[0]) if positions else None
    x_m = length_m(view, *(f"{d}/x_pixel_size" for d in detector))
    y_m = length_m(view, *(f"{d}/y_pixel_size" for d in detector))
    mask = first_of(view, *(f"{d}/{name}" for d in detector for name in ("pixel_mask", "detectorSpecific/pixel_mask")))
    beams = [f"{entry}/{name}" for name in ("instrument/beam", "sample/beam", "instrument/monochromator")]
    energy = energy_keV(
        view, *(f"{b}/{name}" for b in beams for name in ("energy", "incident_energy")), default_unit="eV"
    )
    wavelength_m = length_m(view, *(f"{b}/incident_wavelength" for b in beams), default_m=1e-10)
    return ScanLayout(
        format="nexus",
        frames=_frames(view, entry),
        positions=positions,
        axes_first=places is not None and not split and is_axes_first(places.shape),
        split=split,
        unit_m=1.0 if places is None else unit_of(places, 1.0),
        dc="centre",
        valid=None if mask is None else np.asarray(view.array(mask.path) == 0),
        wavelength_m=wavelength_of_energy_m(energy) if energy is not None else wavelength_m,
        distance_m=length_m(view, *(f"{d}/{name}" for d in detector for name in ("detector_distance", "distance"))),
        detector_pixel_m=square_pixel_m(view, x_m, y_m),
        sample=view.text(f"{entry}/sample/name"),
    )


def _frames(view: View, entry: str) -> tuple[str, ...]:
    single = first_of(view, f"{entry}/data/data", *(f"{entry}/{name}/data" for name in _DETECTORS))
    if single is not None:
        return (single.path,)
    names = sorted(name for name in view.children(f"{entry}/data") if name.startswith("data_"))
    return tuple(f"{entry}/data/{name}" for name in names if view.info(f"{entry}/data/{name}") is not None)


def _positions(view: View, entry: str) -> tuple[tuple[str, ...], bool]:
    """The datasets of positions, and whether they are y and x apart."""
    one = first_of(view, *(f"{entry}/{name}" for name in _PLACES))
    if one is not None:
        return (one.path,), False
    for group in ("data", "sample", "sample/transformations", "instrument/positioner"):
        for y, x in _PAIRS:
            pair = (f"{entry}/{group}/{y}", f"{entry}/{group}/{x}")
            if all(view.info(name) is not None for name in pair):
                return pair, True
    return (), False
