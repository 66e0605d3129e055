from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from beamside.formats.mrc import read_map, write_map
from beamside.formats.star import StarTable, write_star
from beamside.optics.ctf import CtfParams, ctf
from beamside.optics.fourier import frequency_grid, shift_phases, to_real
from beamside.optics.rotation import euler_matrix
from beamside.simulate.projector import Projector
from beamside.simulate.volumes import load_volume

ANGLES = np.random.default_rng(3).uniform(-180, 180, (3, 12))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_straight_down_is_the_sum_along_z() -> None:
    """Real space against Fourier space within the Nyquist circle, up to the interpolation's correction."""
    volume, _ = load_volume("walk", 32, 10.0)
    axis = np.fft.fftfreq(32)
    inside = np.hypot(axis[:, None], axis[None, :]) < 0.5
    expected = np.fft.ifft2(np.fft.fft2(volume.sum(0)) * inside).real
    found = to_real(Projector(volume).sections(euler_matrix(0.0, 0.0, 0.0)[None]), 32)[0].numpy()
    assert correlation(found, expected) > 0.9995
    assert found.sum() == pytest.approx(volume.sum(), rel=0.05)


def test_quarter_turns_are_exact_about_the_axes() -> None:
    """rot 90 looks with x' along y; tilt 90 looks along x: rows of A are the image's axes."""
    volume, _ = load_volume("walk", 32, 10.0)
    projector = Projector(volume)
    down, rotated, tilted = to_real(
        projector.sections(euler_matrix(np.array([0.0, 90.0, 0.0]), np.array([0.0, 0.0, 90.0]), np.zeros(3))), 32
    ).numpy()
    # x' = y, y' = -x: image[y', x'] = down[y = x', x = -y']
    turned = down.T[::-1]
    assert correlation(np.roll(turned, 1, axis=0)[1:, 1:], rotated[1:, 1:]) > 0.999
    # view = x, x' = -z, y' = y
    side = volume.sum(2).T[:, ::-1]
    assert correlation(np.roll(side, 1, axis=1)[1:, 1:], tilted[1:, 1:]) > 0.999


def test_the_benchmarks_projector_ctf_and_shift(cls_common: ModuleType) -> None:
    volume, _ = load_volume("walk", 48, 5.0)
    rng = np.random.default_rng(0)
    u, v, angle = rng.uniform(8000, 25000, 12), rng.uniform(8000, 25000, 12), rng.uniform(0, 180, 12)
    dy, dx = (torch.as_tensor(rng.uniform(-5, 5, 12), dtype=torch.float32) for _ in range(2))
    theirs = cls_common.Projector(volume).slices(cls_common.euler_to_matrix(*ANGLES))
    theirs = theirs * cls_common.ctf(48, 5.0, u, v, angle) * cls_common.shift_phase(48, dx, dy)
    ours = Projector(volume).sections(euler_matrix(*ANGLES)) * ctf(CtfParams.of(u, v, angle), *frequency_grid(48, 5.0))
    ours = to_real(ours * shift_phases(*frequency_grid(48), dy, dx), 48).numpy()
    for mine, other in zip(ours, cls_common.to_real(theirs, 48).numpy(), strict=True):
        assert correlation(mine, other) > 0.9999


def test_relion_project(tmp_path: Path, relion: Callable[[str], str]) -> None:
    """Angles, origins, CTF with U < V and the sign of contrast, all at once, against RELION itself."""
    program = relion("relion_project")
    volume, _ = load_volume("walk", 48, 5.0)
    write_map(tmp_path / "v.mrc", volume, 5.0)
    rng = np.random.default_rng(1)
    count = ANGLES.shape[1]
    u, v, angle = rng.uniform(8000, 25000, count), rng.uniform(8000, 25000, count), rng.uniform(-90, 90, count)
    origin_x, origin_y = rng.uniform(-4, 4, (2, count))
    assert (u < v).any() and (u > v).any()
    optics = {"rlnOpticsGroupName": "o", "rlnOpticsGroup": "1", "rlnVoltage": "200", "rlnSphericalAberration": "2.0"}
    optics |= {"rlnAmplitudeContrast": "0.08", "rlnImagePixelSize": "5", "rlnImageSize": "48"}
    optics |= {"rlnImageDimensionality": "2"}
    names = ["AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "DefocusU", "DefocusV"]
    values = [*ANGLES, origin_x * 5, origin_y * 5, u, v]
    table = {f"rln{name}": [f"{x:.6f}" for x in column] for name, column in zip(names, values, strict=True)}
    table |= {"rlnDefocusAngle": [f"{x:.6f}" for x in angle], "rlnPhaseShift": ["20.0"] * count}
    table |= {"rlnOpticsGroup": ["1"] * count, "rlnImageName": [f"{i + 1}@x.mrcs" for i in range(count)]}
    groups = StarTable({k: [w] for k, w in optics.items()}, name="optics")
    write_star(tmp_path / "p.star", [groups, StarTable(table, name="particles")])
    command = [program, "--i", "v.mrc", "--ang", "p.star", "--o", "o", "--ctf", "--angpix", "5", "--pad", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    theirs, _ = read_map(tmp_path / "o.mrcs")
    params = CtfParams.of(u, v, angle, voltage_kV=200.0, cs_mm=2.0, amplitude_contrast=0.08, phase_shift_deg=20.0)
    sections = Projector(volume).sections(euler_matrix(*ANGLES)) * ctf(params, *frequency_grid(48, 5.0))
    dy, dx = (torch.as_tensor(-o, dtype=torch.float32) for o in (origin_y, origin_x))
    ours = to_real(sections * shift_phases(*frequency_grid(48), dy, dx), 48).numpy()
    for mine, other in zip(ours, theirs, strict=True):
        assert correlation(mine, other) > 0.999
