"""A reconstruction as people and files see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from beamside.ptycho.noise import lit_pixels
from beamside.ptycho.sketch import frames_of
from beamside.run.engine import Snapshot

if TYPE_CHECKING:
    from beamside.ptycho.engine import Ptychography

LEAST_ITERATIONS, LEAST_FRAMES = 10, 20


def snapshot_of(engine: Ptychography) -> Snapshot:
    """Object, probe, coverage, positions and error curve; pixel frames as `canvas.Canvas` has them."""
    sketch, optics = engine.opening.sketch, engine.optics
    active = engine.active if sketch is None else frames_of(engine, sketch.frames)
    arrays = {
        "object": engine.canvas.object.copy(),
        "probe": engine.shop.probe.copy(),
        "coverage": engine.shop.illumination(active),
        "positions_px": engine.positions_px.copy(),
        "error": np.array(engine.errors),
    }
    table = {
        "position_y_px": engine.positions_px[:, 0].copy(),
        "position_x_px": engine.positions_px[:, 1].copy(),
        "recorded_y_m": engine.store.position_m[:, 0].copy(),
        "recorded_x_m": engine.store.position_m[:, 1].copy(),
        "counts": engine.store.total.copy(),
        "used": np.isin(np.arange(len(engine.store)), active).astype(np.int64),
    }
    notes = {
        "pixel_size_m": [optics.pixel_m, optics.pixel_m],
        "offset_px": [int(v) for v in engine.canvas.origin],
        "wavelength_m": optics.wavelength_m,
        "distance_m": optics.distance_m,
        "detector_pixel_m": optics.detector_pixel_m,
        "nominal_lengths": engine.header.fields.get("energy_keV", 0) is None,
        "propagation": "near" if optics.near else "far",
        "solver": engine.options.solver,
        "noise": "poisson" if engine.store.total.any() and engine.likelihood.poisson else "gaussian",
        "iterations": engine.iteration if sketch is None else sketch.iterations,
        "frames": len(active),
        "frames_expected": engine.expected,
        "bytes_per_frame": engine.store.bytes_per_frame,
        "start_defocus_m": engine.opening.defocus_m,
        "start_moved_m": 0.0 if engine.opening.refocus is None else engine.opening.refocus.moved_m,
        "twin": twin(engine),
        "sample": engine.header.fields.get("sample"),
        "scan_uid": engine.header.fields.get("scan_uid"),
        "counts_per_object_pixel": float(engine.store.total.sum()) / max(1.0, lit_pixels(engine.shop, active)),
        "geometry": [
            {"orientation": c.orientation, "name": c.name, "misfit": c.misfit, "glanced": c.glanced}
            for c in engine.opening.geometry
        ],
    }
    share = 1.0 if not engine.expected else len(active) / engine.expected
    return Snapshot(arrays, {"frames": table}, float(min(1.0, share)), _provisional(engine), notes)


def twin(engine: Ptychography) -> str:
    """What the data leave open when nobody gave the sign of the defocus; "" where nothing is open.

    In the far field P*(r), O*(r) with the frames turned by 180 degrees is the same experiment as P(r), O(r): each frame
    of the one is the other's at the opposite frequencies. A near-field image has no such twin.
    """
    z = engine.opening.defocus_m
    if engine.opening.signed or engine.optics.near or z is None:
        return ""
    return (
        "The sign of the phase rests on the detector's orientation: turned by 180 degrees, the frames fit as well, "
        f"with the complex conjugate of this object and a defocus of {-z * 1e3:+.3g} mm instead of {z * 1e3:+.3g} mm. "
        "A start probe, or a --defocus of known sign, tells the two apart."
    )


def well_lit(illumination: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels with at least a fifth of the usual light, where the object is more than noise."""
    lit = illumination[illumination > 0.01 * illumination.max()]
    return np.asarray(illumination > 0.2 * np.median(lit)) if lit.size else np.zeros(illumination.shape, bool)


def _provisional(engine: Ptychography) -> str:
    if engine.opening.sketch is not None:
        return f"a first look at {engine.opening.sketch.frames} frames, before start and geometry were looked into"
    if engine.iteration < LEAST_ITERATIONS:
        return f"only {engine.iteration} iterations so far"
    if not engine.closed and engine.expected and len(engine.active) < 0.1 * engine.expected:
        return f"only {len(engine.active)} of {engine.expected} frames so far"
    if len(engine.active) < LEAST_FRAMES:
        return f"only {len(engine.active)} frames, which tell neither axes nor focus nor object for certain"
    return ""
