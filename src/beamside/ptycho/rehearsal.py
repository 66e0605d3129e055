"""What the first frames would wait for, done before they come: loops made or loaded, libraries read, fonts found."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from beamside.ptycho.engine import Ptychography
from beamside.ptycho.options import PtychoOptions
from beamside.ptycho.picture import write_picture
from beamside.run.engine import Batch, Header

_SIZE, _FRAMES = 32, 24
_FIELDS = {
    "frame_px": _SIZE, "wavelength_m": 1e-10, "distance_m": 1.0, "detector_pixel_m": 1e-4, "detector_mask": None,
    "saturation": None, "count": None, "propagation": "far", "defocus_m": None, "sample": None, "scan_uid": None,
}  # fmt: skip


def rehearse(options: PtychoOptions) -> None:
    """A first look at a few small frames of noise with the run's solver on its device, and its picture.

    OptionError for a device that is not there.
    """
    engine = Ptychography.fresh(replace(options, probe=None, defocus_m=1e-3, modes=None), Header("frames", _FIELDS))
    rng, k = np.random.default_rng(0), np.fft.fftfreq(_SIZE) * _SIZE
    pattern = 30 * np.exp(-(k[:, None] ** 2 + k**2) / 20)
    counts = rng.poisson(pattern, (_FRAMES, _SIZE, _SIZE)).astype(np.uint16)
    at_m = rng.uniform(0, 20, (_FRAMES, 2)) * engine.optics.pixel_m
    keys = tuple(map(str, range(_FRAMES)))
    engine.ingest(Batch(keys, {"position_m": at_m}, lambda rows: counts[rows]))
    engine.step()
    with tempfile.TemporaryDirectory() as folder:
        write_picture(Path(folder) / "ptycho.png", engine.snapshot())
    engine.shop.shut()
