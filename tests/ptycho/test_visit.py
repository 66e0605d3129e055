"""A frame in one visit, against whole transforms and the loops that go through a block step by step."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from beamside.ptycho import columns, kernels, tiles, visit
from beamside.ptycho.workshop import Likelihood
from tests.ptycho.test_kernels import GAUSSIAN, POISSON, close, planes_of, wave

NOISES = pytest.mark.parametrize("likelihood", [POISSON, GAUSSIAN], ids=["poisson", "gaussian"])


def _slow(size: int) -> Any:
    return pytest.param(size, np.uint16, marks=pytest.mark.slow)


def noise_of(likelihood: Likelihood, size: int, rng: np.random.Generator) -> visit.Noise:
    valid = (rng.random((size, size)) > 0.2).astype(np.float32)
    told = np.float32(24.0), np.float32(1 / size**2), likelihood.poisson, np.float32(likelihood.floor)
    return visit.Noise(valid, *told)


def bench(modes: int, size: int) -> visit.Bench:
    return visit.bench(np.empty((1, modes, size, 2 * size), np.float32), modes, size)


def the_long_way(waves: Any, counts: Any, rows: Any, noise: visit.Noise) -> tuple[float, NDArray[np.complex64]]:
    """Misfit, and the residual at the sample, by whole transforms."""
    whole = np.fft.fft2(waves).astype(np.complex64)
    line = np.empty((2, waves.shape[-1]), np.float32)
    valid, saturation, scale, poisson, floor = noise
    told = valid, saturation, scale, poisson, floor, line
    misfit = kernels.residual_waves(whole.view(np.float32), counts, rows, *told)
    return misfit, np.fft.ifft2(whole, norm="forward").astype(np.complex64)


@pytest.mark.parametrize("sides", [((8, 32), (8, 32)), ((24, 7 * 24 + 5), (11, 61))], ids=["even", "by digits"])
def test_tiles(sides: Any) -> None:
    (near, far), (to_near, to_far) = sides

    @njit
    def turned(source: Any, target: Any) -> None:
        u = np.uint64
        tiles.turn(source, u(3), u(near), u(far), target, u(5), u(to_near), u(to_far))

    source = np.random.default_rng(0).random(1000).astype(np.float32)
    target, wanted = np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    for k in range(8):
        for c in range(8):
            wanted[5 + c % 4 * to_near + c // 4 * to_far + k] = source[3 + k % 4 * near + k // 4 * far + c]
    turned(source, target)
    assert np.array_equal(target, wanted)


def test_what_is_kept_on_disk_knows_the_files_that_it_calls() -> None:
    """Without this number a loop that was compiled before `kernels` changed would go on computing as before."""
    files = [Path(str(module.__file__)).read_bytes() for module in (columns, kernels, tiles)]
    held = [cell.cell_contents for cell in visit.loop(64).py_func.__closure__]
    assert zlib.crc32(b"".join(files)) in held


@pytest.mark.slow
def test_what_comes_from_disk_computes_as_what_was_just_compiled(tmp_path: Path) -> None:
    program = (
        "import sys, zlib, numpy as np; from tests.ptycho.test_visit import sums_of_some_frames\n"
        "print(*(zlib.crc32(np.ascontiguousarray(v)) for v in sums_of_some_frames()))"
    )
    told = {"env": os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, "cwd": Path(__file__).parents[2]}
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, **told).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("visit.*.nbc")) and first == second != ""


def sums_of_some_frames() -> visit.Sums:
    size, rng = 64, np.random.default_rng(0)
    obj, bank = planes_of(wave(rng, 90, 90), -3), planes_of(wave(rng, 4, 1, size, size), -3)
    placed = visit.Placed(obj, bank, rng.integers(1, 25, (6, 2)).astype(np.int32), np.zeros(6, np.int32))
    shapes = (2, 90, 90), (90, 90), (4, 1, 2, size, size), (size, size)
    sums, frames = visit.Sums(*(np.zeros(shape, np.float32) for shape in shapes)), np.arange(6)
    counts, noise = rng.poisson(20.0, (6, size, size)).astype(np.uint16), noise_of(POISSON, size, rng)
    plan = visit.plan(size)
    visit.gradient(placed, frames, counts, frames, noise, plan, bench(1, size), sums, probe=True, normal=None)
    return sums


@pytest.mark.parametrize(
    ("size", "dtype"), [(64, np.uint16), (64, np.float32), (128, np.uint16), (256, np.uint16), _slow(1024), _slow(4096)]
)
@NOISES
def test_the_same_residual_as_of_whole_transforms(size: int, likelihood: Likelihood, dtype: Any) -> None:
    rng = np.random.default_rng(size)
    waves = 3 * wave(rng, 2, 2, size, size)
    counts, noise = rng.poisson(20.0, (4, size, size)).astype(dtype), noise_of(likelihood, size, rng)
    rows = np.array([3, 1])
    misfit, wanted = the_long_way(waves, counts, rows, noise)
    found = visit.residual(waves.view(np.float32), counts, rows, noise, visit.plan(size), bench(2, size))
    close(waves, wanted)
    assert found == pytest.approx(misfit, rel=1e-5)


@pytest.mark.parametrize("probe", [True, False])
@pytest.mark.parametrize("displaced", [True, False])
@NOISES
def test_the_same_sums_as_step_by_step(likelihood: Likelihood, displaced: bool, probe: bool) -> None:
    size, modes, bins, high = 64, 2, 5, 90
    rng = np.random.default_rng(1)
    obj, bank = planes_of(wave(rng, high, high), -3), planes_of(wave(rng, bins, modes, size, size), -3)
    corners = rng.integers(1, high - size, (9, 2)).astype(np.int32)
    placed = visit.Placed(obj, bank, corners, rng.integers(0, bins, 9).astype(np.int32))
    frames, rows = np.array([7, 0, 3, 8, 4, 1]), np.array([2, 5, 1, 0, 4, 3])
    counts, noise = rng.poisson(20.0, (6, size, size)).astype(np.uint16), noise_of(likelihood, size, rng)

    def sums() -> visit.Sums:
        shapes = (2, high, high), (high, high), (bins, modes, 2, size, size), (size, size)
        return visit.Sums(*(np.zeros(shape, np.float32) for shape in shapes))

    waves = np.empty((6, modes, size, size), np.complex64)
    kernels.exit_waves(*placed[:4], frames, waves.view(np.float32))
    misfit, chi = the_long_way(waves, counts, rows, noise)
    wanted, normal_wanted = sums(), np.zeros((9, 5))
    kernels.accumulate(*placed[:4], frames, chi.view(np.float32), wanted.num, wanted.den, wanted.pnum, probe)
    if probe:
        kernels.probe_weights(obj, corners, frames, wanted.pden)
    if displaced:
        kernels.displacement(*placed[:4], frames, chi.view(np.float32), normal_wanted)

    found, normal = sums(), np.zeros((9, 5))
    total = visit.gradient(
        placed, frames, counts, rows, noise, visit.plan(size), bench(modes, size), found, probe=probe,
        normal=normal if displaced else None,
    )  # fmt: skip
    assert total == pytest.approx(misfit, rel=1e-5)
    for one, other in zip((*found, normal), (*wanted, normal_wanted), strict=True):
        close(one, other, rtol=1e-4)
    assert bool(np.any(found.pnum)) is probe and bool(np.any(normal)) is displaced
