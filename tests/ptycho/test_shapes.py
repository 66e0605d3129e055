"""Detectors that are not square, frames of odd size, and large ones: they work, and what is left out is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from beamside.optics.frames import DetectorGeometry, object_pixel_m, pack_mask
from beamside.ptycho.engine import Ptychography
from beamside.ptycho.options import StartProbe
from beamside.run.engine import Batch, Header
from beamside.simulate.scan import focus, heap, pattern_px
from tests.ptycho import scene

INSTRUMENT = {"wavelength_m": 1.377e-10, "distance_m": 2.0, "detector_pixel_m": 75e-6}


def truth(size: int, frames: int, step_px: float, photons: float = 1e5) -> Any:
    """A scan of any frame size, by the tests' own forward model: frames (n, size, size), DC at [0, 0]."""
    recipe = SimpleNamespace(frame_px=size, defocus_m=1e-3 * 64 / size, **INSTRUMENT)
    probe = focus(recipe)[None]
    probe = (probe * np.sqrt(photons / (np.abs(probe) ** 2).sum())).astype(np.complex64)
    at = pattern_px("fermat", frames, step_px)
    at = at - at.min(0) + 4.25
    height, width = (int(v) + size + 8 for v in np.ceil(at.max(0)))
    rng = np.random.default_rng(3)
    obj = heap(height, width, rng)
    counts = np.stack([rng.poisson(scene.expected_counts(obj, probe, p)) for p in at]).astype(np.uint16)
    return SimpleNamespace(object=obj, probe=probe, positions_px=at, recipe=recipe, counts=counts)


def reconstructed(made: Any, stored: np.ndarray, geometry: DetectorGeometry, closing: int) -> Ptychography:
    """The frames as a detector stores them, through the boundary, to the end, from the true defocus without coma."""
    frames = geometry.frames(stored).counts
    size = geometry.frame_px
    pixel_m = object_pixel_m(INSTRUMENT["wavelength_m"], INSTRUMENT["distance_m"], size, INSTRUMENT["detector_pixel_m"])
    fields = {**INSTRUMENT, "frame_px": size, "detector_mask": pack_mask(geometry.detector_mask), "saturation": None}
    probe = np.exp(1j * np.angle(np.fft.fft2(made.probe[0])))  # the true phases, the amplitude of a mean pattern
    start = StartProbe(np.fft.ifft2(probe * np.sqrt(frames.mean(0)))[None].astype(np.complex64), "test")
    engine = Ptychography.fresh(scene.options(probe=start, iterations_after_close=closing), Header("frames", fields))
    position_m = made.positions_px * pixel_m
    keys = tuple(map(str, range(len(frames))))
    engine.ingest(Batch(keys, {"position_m": position_m, "frame": np.arange(len(frames))}, lambda rows: frames[rows]))
    engine.close()
    scene.settle(engine)
    engine.shop.shut()
    return engine


def centred(counts: np.ndarray) -> np.ndarray:
    """DC at pixel n // 2, as detectors store frames."""
    return np.roll(counts, (counts.shape[1] // 2, counts.shape[2] // 2), axis=(1, 2))


@pytest.mark.parametrize("size", [47, 48])
def test_frames_of_odd_size_are_as_good_as_even_ones(size: int) -> None:
    made = truth(size, 150, 3.0)
    stored = centred(made.counts)
    engine = reconstructed(made, stored, DetectorGeometry((size, size)), 15)
    assert scene.run_error(made, engine) < 0.03


def test_a_detector_that_is_not_square_is_cropped_or_filled_up() -> None:
    """32 rows of 48: by itself the square of 32 px is used; with a crop of 48 all of it, and the rest is masked."""
    made = truth(48, 150, 3.0)
    stored = centred(made.counts)[:, 8:40]
    assert DetectorGeometry((32, 48)).frame_px == 32
    whole = DetectorGeometry((32, 48), crop_px=48)
    assert whole.detector_mask.sum() == 32 * 48
    assert scene.run_error(made, reconstructed(made, stored, whole, 15)) < 0.035


@pytest.mark.slow
def test_frames_of_512_px() -> None:
    made = truth(512, 60, 20.0, photons=1e6)
    engine = reconstructed(made, centred(made.counts), DetectorGeometry((512, 512)), 15)
    assert scene.run_error(made, engine) < 0.06
