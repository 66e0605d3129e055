"""The scan's optics as the engine needs them: object pixel, propagation, detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.errors import InputError
from beamside.optics.frames import magnified_pixel_m, object_pixel_m, unpack_mask
from beamside.ptycho.workshop import Detector


@dataclass(frozen=True)
class Optics:
    """One instrument. Far field: object pixel = wavelength distance / (N detector pixel), Fraunhofer.

    Near field: a beam that diverges from a focus `defocus_m` before the sample is, by the Fresnel scaling theorem, a
    parallel one over distance_m / M with detector pixels of detector_pixel_m / M, M = (defocus + distance)/defocus
    (Paganin, Coherent X-Ray Optics, 2006, appendix B). Without defocus_m the beam is parallel, M = 1.
    """

    size: int
    wavelength_m: float
    distance_m: float
    detector_pixel_m: float
    near: bool
    defocus_m: float | None
    detector: Detector

    @property
    def magnification(self) -> float:
        """Geometric magnification of a diverging beam; 1 in the far field."""
        return self.detector_pixel_m / self.pixel_m if self.near else 1.0

    @property
    def pixel_m(self) -> float:
        """Pixel of the object."""
        if self.near:
            return magnified_pixel_m(self.detector_pixel_m, self.defocus_m, self.distance_m)
        return object_pixel_m(self.wavelength_m, self.distance_m, self.size, self.detector_pixel_m)


def optics_of(fields: Mapping[str, Any]) -> Optics:
    """From a source's header.

    InputError: a quantity is not positive.
    """
    size = int(fields["frame_px"])
    values = {name: float(fields[name]) for name in ("wavelength_m", "distance_m", "detector_pixel_m")}
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value:g}.", remedy="Give the scan's optics; see --help.")
    mask, saturation = fields.get("detector_mask"), fields.get("saturation")
    valid = unpack_mask(mask, size).astype(np.float32)
    near = fields.get("propagation", "far") == "near"
    defocus = fields.get("defocus_m")
    bare = Optics(
        size, values["wavelength_m"], values["distance_m"], values["detector_pixel_m"], near,
        None if defocus is None else float(defocus), Detector(valid, np.inf),
    )  # fmt: skip
    transfer = angular_spectrum(size, bare.pixel_m, bare.wavelength_m, bare.distance_m / bare.magnification)
    detector = Detector(valid, np.inf if saturation is None else float(saturation), transfer if near else None)
    return Optics(
        size, bare.wavelength_m, bare.distance_m, bare.detector_pixel_m, near, bare.defocus_m, detector
    )  # fmt: skip


def angular_spectrum(size: int, pixel_m: float, wavelength_m: float, distance_m: float) -> NDArray[np.complex64]:
    """(N, N) complex64 transfer function of free space; evanescent waves are dropped. Goodman, Fourier Optics, 3.10."""
    f = np.fft.fftfreq(size, pixel_m)
    along = 1.0 / wavelength_m**2 - f[:, None] ** 2 - f[None] ** 2
    phase = 2 * np.pi * distance_m * (np.sqrt(np.maximum(along, 0)) - 1.0 / wavelength_m)
    return np.asarray(np.where(along > 0, np.exp(1j * phase), 0), np.complex64)
