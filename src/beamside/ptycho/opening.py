"""What happens before the first iteration: a probe, and a look at the geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from beamside.errors import InputError
from beamside.ptycho.optics import Optics
from beamside.ptycho.options import PtychoOptions, StartProbe
from beamside.ptycho.orientation import Candidate, compare
from beamside.ptycho.probe import scaled_to, with_modes
from beamside.ptycho.start import Trial, flat_probe, pupil_probe, sweep

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_TOLERANCE = 0.01
"""Relative difference of pixel sizes and wavelengths up to which a start probe fits."""
_LEAST_FOR_GEOMETRY = 20
"""With fewer frames than this no misfit tells two geometries apart."""


class Opening:
    """The tasks before the first iteration, one a step, and what they found."""

    def __init__(self, options: PtychoOptions, optics: Optics) -> None:
        self.options, self.optics = options, optics
        if options.probe is not None:
            require_fit(options.probe, optics)
        self.pending = ["probe", "geometry"] if options.check_geometry else ["probe"]
        self.defocus_m = options.defocus_m
        self.trials: list[Trial] = []
        self.geometry: list[Candidate] = []

    def advance(self, engine: Ptychography) -> str:
        """The next task; what it was, in words."""
        task = self.pending.pop(0)
        if task == "probe":
            self._make_probe(engine)
            return "finding a start probe"
        self._look_at_geometry(engine)
        return "comparing the geometry with its alternatives"

    def _make_probe(self, engine: Ptychography) -> None:
        store, options = engine.store, self.options
        if options.probe is not None:
            modes = options.probe.modes
        elif self.optics.near:
            modes = flat_probe(store.mean_pattern)
        else:
            if self.defocus_m is None:
                self.trials = sweep(
                    store, engine.positions_px, self.optics, engine.likelihood, seed=options.seed, lanes=engine.lanes
                )
                self.defocus_m = self.trials[0].defocus_m
            modes = pupil_probe(store.mean_pattern, self.optics, self.defocus_m)
        count = options.modes or len(modes)
        counts = float(store.total[store.usable].mean())
        engine.shop.set_probe(scaled_to(with_modes(modes, count), counts))

    def _look_at_geometry(self, engine: Ptychography) -> None:
        if int(engine.store.usable.sum()) < _LEAST_FOR_GEOMETRY:
            return
        z = () if self.defocus_m is None else (self.defocus_m, -self.defocus_m)
        self.geometry = compare(
            engine.store, engine.positions_px, self.optics, engine.likelihood,
            None if z else engine.shop.probe, defocus_m=z, with_dc=False,
            seed=self.options.seed, lanes=engine.lanes, hurried=True,
        )  # fmt: skip

    @property
    def assumed(self) -> Candidate | None:
        """The geometry that the run uses, as it did in the comparison."""
        same = [c for c in self.geometry if c.orientation == 0 and not c.dc_moved]
        return same[0] if same else None


def require_fit(probe: StartProbe, optics: Optics) -> None:
    """Refuse a start probe that belongs to another scan (guard `warmstart.fits`).

    InputError, with both values, for another shape, pixel size or wavelength.
    """
    if probe.modes.ndim != 3 or probe.modes.shape[1:] != (optics.size, optics.size):
        _refuse(probe, "shape", f"{probe.modes.shape}", f"(modes, {optics.size}, {optics.size})")
    if not np.isfinite(probe.modes).all() or not np.abs(probe.modes).max() > 0:
        _refuse(probe, "content", "not finite, or all zero", "a finite one")
    for name, given, wanted in (
        ("pixel size", probe.pixel_size_m, optics.pixel_m),
        ("wavelength", probe.wavelength_m, optics.wavelength_m),
    ):
        if given is not None and abs(given - wanted) > _TOLERANCE * wanted:
            _refuse(probe, name, f"{given:.6g} m", f"{wanted:.6g} m")


def _refuse(probe: StartProbe, what: str, given: str, wanted: str) -> None:
    raise InputError(
        f"warmstart.fits: the start probe's {what} is {given}; this scan's is {wanted}.",
        where=probe.origin,
        remedy="Give a probe of this instrument and crop, or leave --probe out for a cold start.",
    )
