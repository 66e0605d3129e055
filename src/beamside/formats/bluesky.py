"""A run of Bluesky as Tiled serves it: `streams/primary` or `primary`, with or without `data` between, and documents.

Frames are the first array of images of the primary stream, (n, rows, columns) or (n, images, rows, columns), counted
through. Positions are those of the two motors that the start document names, slowest first, as plans write them; where
just one of the two names has a "y" in its last part, that one is y. Units are those of the descriptor's data keys.
Other names, of flyers and encoders for instance, need a mapping.
"""

from __future__ import annotations

from beamside.formats.scan_layout import (
    DatasetInfo,
    ScanLayout,
    View,
    energy_keV,
    first_of,
    length_m,
    unit_of,
    wavelength_of_energy_m,
)

_STREAMS = ("streams/primary", "primary/data", "primary")
_LEAST_PX = 4


def layout(view: View) -> ScanLayout | None:
    """Where a run's scan lies; None where the node is no run, or holds no images.

    Raises:
        FormatError: a value of the start document is not what its name says.
    """
    motors = view.children("start/motors")
    for stream in _STREAMS if motors else ():
        names = view.children(stream)
        frames = next((found for name in names if (found := _images(view, f"{stream}/{name}")) is not None), None)
        if frames is None:
            continue
        places = [found for name in _y_first(motors) if (found := view.info(f"{stream}/{name}")) is not None]
        energy = energy_keV(view, "energy_keV", "energy_kev", default_unit="keV")
        energy = energy or energy_keV(view, "energy_eV", "energy_ev", default_unit="eV")
        return ScanLayout(
            format="bluesky",
            frames=(frames.path,),
            positions=tuple(found.path for found in places) if len(places) == 2 else (),
            split=True,
            unit_m=unit_of(places[0], 1.0) if len(places) == 2 else 1.0,
            dc="auto",
            wavelength_m=wavelength_of_energy_m(energy) if energy else length_m(view, "wavelength_m"),
            distance_m=length_m(view, "distance_m", "detector_distance_m"),
            detector_pixel_m=length_m(view, "detector_pixel_m"),
            sample=view.text("sample") or view.text("sample_name"),
            scan_uid=view.text("scan_uid"),
        )
    return None


def _images(view: View, name: str) -> DatasetInfo | None:
    found = first_of(view, name)
    return found if found is not None and len(found.shape) == 3 and min(found.shape[1:]) >= _LEAST_PX else None


def _y_first(motors: list[str]) -> list[str]:
    """The last two motors, y before x."""
    two = motors[-2:]
    is_y = ["y" in motor.lower().replace("-", "_").rpartition("_")[2] for motor in two]
    return two[::-1] if is_y == [False, True] else two
