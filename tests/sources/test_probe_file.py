"""Probes to start from: every form gives the same modes; what is no probe is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from beamside.errors import BeamsideError, FormatError
from beamside.formats.cxi import Reconstruction, write_reconstruction
from beamside.sources.probe_file import load_probe

MODES = (np.random.default_rng(1).normal(size=(2, 8, 8, 2)) @ [1, 1j]).astype(np.complex64)


def write_cxi(path: Path) -> Path:
    object_ = np.ones((20, 20), np.complex64)
    places = np.zeros((1, 2))
    write_reconstruction(
        path,
        Reconstruction(object_, MODES, np.ones((20, 20), np.float32), places, np.array([0]), (0, 0), (2e-8, 2e-8),
                       1.3e-10, 2.0, 75e-6, np.empty(0), {}),
    )  # fmt: skip
    return path


def write_run(path: Path) -> Path:
    (path / "result").mkdir(parents=True)
    write_cxi(path / "result" / "ptycho.cxi")
    return path


def write_npy(path: Path) -> Path:
    np.save(path, MODES[None])
    return path


def write_npz(path: Path) -> Path:
    np.savez(path, probe=MODES, pixel_size_m=[2e-8, 2e-8])
    return path


def write_hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["probe"] = MODES
    return path


@pytest.mark.parametrize(
    ("write", "name", "pixel_m", "wavelength_m"),
    [
        (write_npy, "p.npy", None, None),
        (write_npz, "p.npz", 2e-8, None),
        (write_cxi, "p.cxi", 2e-8, 1.3e-10),
        (write_run, "RUN", 2e-8, 1.3e-10),
        (write_hdf5, "p.h5", None, None),
    ],
)
def test_every_form_gives_the_modes(write, name: str, pixel_m: float, wavelength_m: float, tmp_path: Path) -> None:
    found = load_probe(write(tmp_path / name))
    assert np.array_equal(found.modes, MODES) and found.modes.dtype == np.complex64
    assert (found.pixel_m, found.wavelength_m) == (pixel_m, pytest.approx(wavelength_m) if wavelength_m else None)


def test_one_mode_may_lack_its_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", MODES[0])
    assert load_probe(tmp_path / "p.npy").modes.shape == (1, 8, 8)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 8, 8), complex),
        np.full((8, 8), np.nan + 0j),
        np.ones(8),
        np.ones((2, 8, 9), complex),
        np.ones((8, 8), int),
    ],
)
def test_what_is_no_probe_is_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(FormatError, match=r"p\.npy"):
        load_probe(tmp_path / "p.npy")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.cxi").write_text("no HDF5")
    with h5py.File(tmp_path / "empty.cxi", "w"):
        pass
    (tmp_path / "RUN").mkdir()
    for name in ("none.npy", "text.npy", "text.cxi", "empty.cxi", "RUN"):
        with pytest.raises(BeamsideError, match=name):
            load_probe(tmp_path / name)
