"""Scans of NSLS-II's HXN, as its ptychography programs write them: one HDF5 file of plain names at the root.

`diffamp` (square roots of counts) or `diffpattern` (counts), both (n, rows, columns); `points` (2, n) micrometres, the
first row along the frames' rows; `lambda_nm` or `energy_kev`, `z_m`, `ccd_pixel_um`. Where DC lies differs between
writers, and so do the signs of the axes: DC is looked up in the frames, the signs are taken as written.
"""

from __future__ import annotations

from beamside.formats.scan_layout import (
    ScanLayout,
    View,
    energy_keV,
    first_of,
    is_axes_first,
    length_m,
    wavelength_of_energy_m,
)

_UM = 1e-6


def layout(view: View) -> ScanLayout | None:
    """Where an HXN scan lies; None where the file is none.

    Raises:
        FormatError: a value is not what its name says.
    """
    frames, points = first_of(view, "/diffamp", "/diffpattern"), view.info("/points")
    if frames is None or points is None:
        return None
    energy = energy_keV(view, "/energy_kev", "/xray_energy_kev", default_unit="keV")
    wavelength_m = length_m(view, "/lambda_nm", default_m=1e-9)
    return ScanLayout(
        format="hxn",
        frames=(frames.path,),
        positions=(points.path,),
        axes_first=is_axes_first(points.shape),
        unit_m=_UM,
        dc="auto",
        amplitudes=frames.path == "/diffamp",
        wavelength_m=wavelength_m if wavelength_m is not None or energy is None else wavelength_of_energy_m(energy),
        distance_m=length_m(view, "/z_m", "/det_distance_m"),
        detector_pixel_m=length_m(view, "/ccd_pixel_um", default_m=_UM),
    )
