"""What happens before the first iteration: a sketch to show, a probe, and a look at the geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from beamside.errors import InputError
from beamside.ptycho.foresight import UNDOUBTED, Focus, Told, better, focus, turns
from beamside.ptycho.noise import expected_misfit
from beamside.ptycho.optics import Optics
from beamside.ptycho.options import PtychoOptions, StartProbe
from beamside.ptycho.orientation import HALF_TURN, LEARNS, Candidate, as_given, compare, is_its_twin
from beamside.ptycho.probe import Modes, scaled_to, with_modes
from beamside.ptycho.sketch import Sketch, draw, wipe
from beamside.ptycho.start import (
    Refocus,
    Trial,
    cold_trial,
    defocused,
    flat_probe,
    glanced_defocus_m,
    pupil_probe,
    refocus,
    sweep,
)

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

_TOLERANCE = 0.01
"""Relative difference of pixel sizes and wavelengths up to which a start probe fits."""
_LEAST_FOR_GEOMETRY = 20
"""With fewer frames than this no misfit tells two geometries apart."""
BEATEN = 0.8
"""Misfit of a start without the given probe, relative to that with it, from which the probe does harm."""
_POOR = 4.0
"""Misfit of a given probe, relative to what counting noise explains, from which a start without it is tried: right ones
have 1.4 to 1.9 after four iterations, probes of another instrument 5 (at low dose) to several hundred."""


class Opening:
    """The tasks before the first iteration, one a step, and what they found."""

    def __init__(self, options: PtychoOptions, optics: Optics) -> None:
        self.options, self.optics = options, optics
        if options.probe is not None:
            require_fit(options.probe, optics)
        self.pending = ["sketch", "probe", *(["geometry", "start"] if options.check_geometry else [])]
        self.defocus_m = options.defocus_m
        self.sketch: Sketch | None = None
        """What the canvas holds until the probe has been found: an object of the first frames."""
        self.trials: list[Trial] = []
        self.focus: Focus | None = None
        """Of a cold start: whether frames left out bear it out."""
        self.foreseen: list[Candidate] = []
        """Orientations by what frames left out say of them, where the misfit does not say enough."""
        self.geometry: list[Candidate] = []
        self.refocus: Refocus | None = None
        """Of a given probe: where along the beam it fits best, from where the run then begins."""
        self.cold: Trial | None = None
        """Of a given probe that hardly fits: what a start without it reaches, where that is clearly better."""

    @property
    def signed(self) -> bool:
        """Whether the sign of the defocus was given, by a probe or a number, and did not come from the data."""
        return self.options.probe is not None or self.options.defocus_m is not None

    @property
    def better(self) -> Candidate | None:
        """A geometry that fits clearly better than the one as given."""
        assumed = self.assumed
        if not self.geometry or assumed is None:
            return None
        if self.foreseen:
            return better(self.foreseen)
        best = self.geometry[0]
        return best if best is not assumed and best.clearly_beats(assumed) else None

    def advance(self, engine: Ptychography) -> str:
        """The next task; what it was, in words."""
        task = self.pending.pop(0)
        if task == "sketch":
            if self._worth_a_sketch(engine):
                self._draw_sketch(engine)
                return "a first look at the first frames"
            task = self.pending.pop(0)
        if task == "probe":
            self._make_probe(engine)
            return "finding a start probe"
        if task == "geometry":
            self._look_at_geometry(engine)
            return "comparing the geometry with its alternatives"
        self._look_at_start(engine)
        return "looking for a better defocus of the start probe"

    @staticmethod
    def _worth_a_sketch(engine: Ptychography) -> bool:
        """Whether more is to come than has: a scan that is all there has its own object as soon."""
        usable = int(engine.store.usable.sum())
        return usable >= _LEAST_FOR_GEOMETRY and (engine.expected is None or len(engine.store) < engine.expected)

    def _draw_sketch(self, engine: Ptychography) -> None:
        modes = self._known_start(engine)
        if modes is None:
            told = (engine.store, engine.positions_px, self.optics, engine.likelihood)
            z = glanced_defocus_m(*told, seed=self.options.seed, lanes=engine.lanes)
            modes = pupil_probe(engine.store.mean_pattern, self.optics, z)
        self._set_probe(engine, modes)
        self.sketch = draw(engine)

    def _known_start(self, engine: Ptychography) -> Modes | None:
        """Where no defocus is to be found first: the given probe, or one that follows from what is given."""
        pattern = engine.store.mean_pattern
        if self.options.probe is not None:
            return self.options.probe.modes
        if self.optics.near:
            return flat_probe(pattern)
        return None if self.options.defocus_m is None else pupil_probe(pattern, self.optics, self.options.defocus_m)

    def _set_probe(self, engine: Ptychography, modes: Modes) -> None:
        counts = float(engine.store.total[engine.store.usable].mean())
        engine.shop.set_probe(scaled_to(with_modes(modes, self.options.modes or len(modes)), counts))

    def _make_probe(self, engine: Ptychography) -> None:
        store, options = engine.store, self.options
        if self.sketch is not None:
            wipe(engine)
            self.sketch = None
        modes = self._known_start(engine)
        if modes is None:
            self.trials = sweep(
                store, engine.positions_px, self.optics, engine.likelihood, seed=options.seed, lanes=engine.lanes
            )
            self.defocus_m = self.trials[0].defocus_m
            if self._enough(engine):
                tried = [trial.defocus_m for trial in self.trials]
                self.focus = focus(self._told(engine), self.defocus_m, tried)
                self.defocus_m = self.focus.defocus_m
            modes = pupil_probe(store.mean_pattern, self.optics, self.defocus_m)
        self._set_probe(engine, modes)

    def _look_at_geometry(self, engine: Ptychography) -> None:
        """The geometry as given; its alternatives only where it does not clearly fit."""
        if not self._enough(engine):
            return
        cold = self.options.probe is None and not self.optics.near
        told = (engine.store, engine.positions_px, self.optics, engine.likelihood)
        probe, seed, lanes = None if cold else engine.shop.probe, self.options.seed, engine.lanes
        given = as_given(*told, probe, defocus_m=self.defocus_m, seed=seed, lanes=lanes)
        fits = given.learns and not self.optics.near
        if fits and (not self.signed or (probe is not None and not is_its_twin(probe))):
            self.geometry = [given]
        elif given.noisy and not fits:
            self.geometry = [given]  # frames left out say more
        else:
            self.geometry = compare(
                *told, probe, defocus_m=self.defocus_m, signed=self.signed, with_dc=False, seed=seed, lanes=lanes,
                hurried=True, among=(0, HALF_TURN) if fits else None,
            )  # fmt: skip
        fit_best = probe is not None and not is_its_twin(probe) and self.geometry[0] is self.assumed
        learns = fit_best and given.learnt >= LEARNS
        if self.optics.near or (not given.noisy and (self.better is not None or learns)):
            return
        # At a low dose a wrong geometry fits, and seems to learn, as well as a right one.
        left_out = self._told(engine)
        if not fits or left_out.sigma(engine.shop.probe, 1) < UNDOUBTED:
            self.foreseen = turns(left_out, probe, defocus_m=self.defocus_m, signed=self.signed)

    def _told(self, engine: Ptychography) -> Told:
        return Told(engine.store, engine.positions_px, self.optics, engine.likelihood, self.options.seed, engine.lanes)

    def _enough(self, engine: Ptychography) -> bool:
        return self.options.check_geometry and int(engine.store.usable.sum()) >= _LEAST_FOR_GEOMETRY

    def _look_at_start(self, engine: Ptychography) -> None:
        """A given probe, moved along the beam to where it fits best; nothing where the geometry itself is in doubt."""
        few = int(engine.store.usable.sum()) < _LEAST_FOR_GEOMETRY
        if self.options.probe is None or self.optics.near or self.better is not None or few:
            return
        store, seed, lanes = engine.store, self.options.seed, engine.lanes
        told = (store, engine.positions_px, self.optics, engine.likelihood)
        # The same frames from the same probe for as long: the geometry as given need not be looked at again.
        given = None if self.assumed is None else self.assumed.misfit
        self.refocus = refocus(*told, engine.shop.probe, seed=seed, lanes=lanes, given_misfit=given)
        if self.refocus.moved_m:
            engine.shop.set_probe(defocused(engine.shop.probe, self.optics, self.refocus.moved_m))
        noise = float((expected_misfit(store.mean_pattern) * self.optics.detector.valid).sum())
        if self.refocus.misfit > _POOR * noise:
            cold = cold_trial(*told, seed=seed, lanes=lanes)
            self.cold = cold if cold.misfit < BEATEN * self.refocus.misfit else None

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
