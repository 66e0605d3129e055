"""The tensor form of the sums against the compiled loops, and on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beamside.errors import OptionError
from beamside.ptycho.canvas import Canvas
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.solvers import ON_GPU, Pass, solver
from beamside.ptycho.torch_workshop import TorchWorkshop, require_same_sums
from beamside.ptycho.workshop import Detector, Likelihood, Workshop
from beamside.run.engine import Batch

N, FRAMES = 32, 24


def devices() -> list[object]:
    return ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def prepared(make: str, *, near: bool = False) -> Workshop:
    rng = np.random.default_rng(3)
    counts = rng.poisson(4.0, (FRAMES, N, N)).astype(np.uint16)
    at = rng.uniform(0, 30, (FRAMES, 2))
    store = FrameStore(N, FRAMES)
    store.append(Batch(tuple(map(str, range(FRAMES))), {"position_m": at}, lambda rows: counts[rows]))
    canvas = Canvas()
    canvas.cover(at, N)
    canvas.object[:] += 0.1 * (rng.standard_normal(canvas.shape) + 1j * rng.standard_normal(canvas.shape))
    valid = (rng.uniform(size=(N, N)) > 0.05).astype(np.float32)
    transfer = np.exp(1j * np.linspace(0, 6, N * N)).reshape(N, N).astype(np.complex64) if near else None
    detector = Detector(valid, 12.0, transfer)
    shop = Workshop(store, canvas, detector, 1) if make == "loops" else TorchWorkshop(store, canvas, detector, make)
    shop.set_probe((rng.standard_normal((2, N, N)) + 1j * rng.standard_normal((2, N, N))).astype(np.complex64))
    shop.place(canvas.inside(at, N))
    return shop


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("poisson", [True, False])
@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("name", ON_GPU)
def test_an_iteration_is_that_of_the_loops(name: str, near: bool, poisson: bool, device: str) -> None:
    noise = Likelihood(poisson, 0.05 if poisson else 1e-9)
    task = Pass(np.arange(FRAMES), 2, 7, noise, gain=0.5, displacement=True, smooth=0.01)
    loops, tensors = prepared("loops", near=near), prepared(device, near=near)
    # The loops take every fourth frame for the probe's step lengths; the same frames in every place make them equal.
    misfits = []
    for shop in (loops, tensors):
        with shop.working():
            misfits.append(solver(name).iterate(shop, Pass(**{**vars(task), "probe": False})))
    assert misfits[0] == pytest.approx(misfits[1], rel=2e-4)
    scale = np.abs(loops.canvas.object - 1).max()
    np.testing.assert_allclose(tensors.canvas.object, loops.canvas.object, atol=2e-3 * scale)
    np.testing.assert_allclose(tensors.canvas.velocity, loops.canvas.velocity, atol=2e-3 * scale)
    np.testing.assert_allclose(tensors.normal, loops.normal, rtol=2e-2, atol=2e-3 * np.abs(loops.normal).max())


@pytest.mark.parametrize("device", devices())
def test_the_probe_moves_the_same_way(device: str) -> None:
    noise = Likelihood(True, 0.05)
    moved = []
    for make in ("loops", device):
        shop = prepared(make)
        before = shop.probe.copy()
        with shop.working():
            shop.gradient(np.arange(FRAMES), noise, probe=True)
            shop.update_probe(0.5, 0.3)
        moved.append(shop.probe - before)
    turn = np.vdot(moved[0], moved[1]) / (np.linalg.norm(moved[0]) * np.linalg.norm(moved[1]))
    assert turn.real > 0.99, "step lengths differ a little, because the loops sample them; directions do not"
    assert np.linalg.norm(moved[1]) == pytest.approx(np.linalg.norm(moved[0]), rel=0.1)


def test_a_device_that_sums_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_same_sums("cpu")
    right, calls = TorchWorkshop._residual, iter(range(2))

    def wrong_the_second_time(*operands: Any) -> float:
        misfit = right(*operands)
        operands[1].mul_(1.0 + 0.1 * next(calls))
        return misfit

    monkeypatch.setattr(TorchWorkshop, "_residual", wrong_the_second_time)
    with pytest.raises(OptionError, match=r"a test iteration gives values that are 0\.\d+ apart"):
        require_same_sums("cpu")


@pytest.mark.gpu
def test_this_gpu_sums_the_same() -> None:
    require_same_sums("cuda")


@pytest.mark.parametrize("device", devices())
def test_what_long_waves_need_is_that_of_the_loops(device: str) -> None:
    """Force on the phase, exit waves and a turned object (`longwave`)."""
    phase = np.random.default_rng(1).standard_normal(prepared("loops").canvas.shape).astype(np.float32)
    found = []
    for shop in (prepared("loops"), prepared(device)):
        with shop.working():
            shop.gradient(np.arange(FRAMES), Likelihood(True, 0.05), probe=False)
            shop.update_object(0.5, 0.1, 0.0, gather=True)
            shop.gradient(np.arange(5), Likelihood(True, 0.05), probe=False)
            shop.update_object(0.5, 0.1, 0.8)
            force = shop.take_force()
            assert not shop.take_force().any(), "it is forgotten"
            shop.turn(phase)
            wave = shop.exit_wave(3)
        found.append((force, wave, shop.canvas.object.copy(), shop.canvas.velocity.copy()))
    for loops, tensors in zip(*found, strict=True):
        np.testing.assert_allclose(tensors, loops, atol=1e-4 * np.abs(loops).max())
