"""The compiled loops against plain numpy in double precision, and the gradients against finite differences."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from beamside.ptycho import directions, kernels
from beamside.ptycho.canvas import Canvas
from beamside.ptycho.frames import FrameStore
from beamside.ptycho.workshop import Detector, Likelihood, Workshop
from beamside.run.engine import Batch

SIZE, MODES, BINS = 8, 2, 16
H, W = 21, 24
POISSON, GAUSSIAN = Likelihood(True, 0.05), Likelihood(False, 1e-9)
NOISES = pytest.mark.parametrize("noise", [POISSON, GAUSSIAN], ids=["poisson", "gaussian"])


def wave(rng: np.random.Generator, *shape: int) -> NDArray[np.complex64]:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


class Bench:
    """Random inputs of every kernel."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.obj, self.bank = wave(rng, H, W), wave(rng, BINS, MODES, SIZE, SIZE)
        high = [H - SIZE, W - SIZE]
        self.corners = rng.integers(1, high, (6, 2)).astype(np.int32)
        self.bins = rng.integers(0, BINS, 6).astype(np.int32)
        self.frames = np.array([4, 0, 5, 2])
        self.chi = wave(rng, 4, MODES, SIZE, SIZE)

    @property
    def planes(self) -> tuple[NDArray[np.float32], NDArray[np.float32], Any, Any, Any]:
        """As the loops of every iteration take them."""
        return planes_of(self.obj, -3), split(self.bank), *self.places[2:]

    @property
    def places(self) -> tuple[NDArray[np.complex64], NDArray[np.complex64], Any, Any, Any]:
        return self.obj, self.bank, self.corners, self.bins, self.frames

    def window(self, image: NDArray[Any], j: int, dy: int = 0, dx: int = 0) -> NDArray[Any]:
        row, col = self.corners[j] + np.array([dy, dx])
        return image[row : row + SIZE, col : col + SIZE].astype(np.complex128)

    def probe(self, j: int) -> NDArray[np.complex128]:
        return self.bank[self.bins[j]].astype(np.complex128)


def planes_of(values: NDArray[np.complex64], axis: int) -> NDArray[np.float32]:
    """Real and imaginary part along a new axis."""
    return np.ascontiguousarray(np.stack([values.real, values.imag], axis))


def whole(planes: NDArray[np.float32], axis: int) -> NDArray[np.complex64]:
    """Complex values again."""
    re, im = np.moveaxis(planes, axis, 0)
    return np.asarray(re + 1j * im)


def split(bank: NDArray[np.complex64]) -> NDArray[np.float32]:
    planes = np.empty((*bank.shape[:2], 2, *bank.shape[2:]), np.float32)
    for k, shifted in enumerate(bank):
        for m, mode in enumerate(shifted):
            kernels.split_mode(mode, planes[k, m])
    return planes


def close(found: Any, wanted: Any, rtol: float = 3e-5) -> None:
    scale = float(np.abs(wanted).max()) or 1.0
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * scale)


def test_exit_waves() -> None:
    b = Bench()
    out = np.empty((4, MODES, SIZE, SIZE), np.complex64)
    kernels.exit_waves(*b.planes, out.view(np.float32))
    close(out, np.stack([b.probe(j) * b.window(b.obj, j) for j in b.frames]))


@NOISES
@pytest.mark.parametrize("scale", [1.0, 1 / 64], ids=["near", "far"])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_residual_waves(noise: Likelihood, scale: float, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    waves = 3 * wave(rng, 3, MODES, SIZE, SIZE) / np.sqrt(np.float32(scale))
    counts = rng.poisson(20.0, (9, SIZE, SIZE)).astype(dtype)
    valid = (rng.random((SIZE, SIZE)) > 0.2).astype(np.float32)
    rows, saturation = np.array([8, 1, 3]), 24.0
    n = counts[rows].astype(float)
    intensity = (np.abs(waves.astype(np.complex128)) ** 2).sum(1) * scale + noise.floor
    keep = valid * (n < saturation)
    assert 0.1 < keep.mean() < 0.9
    factor = 0.5 * (n / intensity - 1) if noise.poisson else np.sqrt(n / intensity) - 1
    wanted = waves * (keep * factor * scale)[:, None]
    misfit = (keep * (np.sqrt(intensity) - np.sqrt(n)) ** 2).sum()
    view = waves.view(np.float32)
    total = kernels.residual_waves(
        view, counts, rows, valid, np.float32(saturation), np.float32(scale), noise.poisson, np.float32(noise.floor),
        np.empty((2, SIZE), np.float32),
    )  # fmt: skip
    close(waves, wanted)
    assert total == pytest.approx(misfit, rel=1e-5)
    assert (waves[np.broadcast_to((keep == 0)[:, None], waves.shape)] == 0).all(), "masked and saturated say nothing"


def sums() -> list[NDArray[Any]]:
    return [
        np.zeros((2, H, W), np.float32), np.zeros((H, W), np.float32),
        np.zeros((BINS, MODES, 2, SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32),
    ]  # fmt: skip


def test_planes() -> None:
    b = Bench()
    assert np.array_equal(split(b.bank), planes_of(b.bank, -3))
    obj = np.empty((2, H, W), np.float32)
    kernels.split_object(b.obj, obj)
    assert np.array_equal(obj, planes_of(b.obj, 0))


@pytest.mark.parametrize("lanes", [1, 3])
def test_joined_lanes(lanes: int) -> None:
    given = wave(np.random.default_rng(5), lanes, 4, 2, 5, 6)
    out = np.empty((5, 6), np.complex64)
    kernels.join(planes_of(given, -3), 3, 1, out)
    close(out, given[:, 3, 1].sum(0))


@pytest.mark.parametrize("with_probe", [True, False])
def test_accumulate(with_probe: bool) -> None:
    """pden is a sample: the first of four frames stands for all four."""
    b = Bench()
    held = sums()
    kernels.accumulate(*b.planes, b.chi.view(np.float32), *held[:3], with_probe)
    if with_probe:
        kernels.probe_weights(b.planes[0], b.corners, b.frames, held[3])
    found = [whole(held[0], 0), held[1], whole(held[2], 2), held[3]]
    wanted = [np.zeros(a.shape, np.complex128) for a in found]
    for at, j in enumerate(b.frames):
        chi, obj, row, col = b.chi[at].astype(np.complex128), b.window(b.obj, j), *b.corners[j]
        where = (slice(row, row + SIZE), slice(col, col + SIZE))
        wanted[0][where] += (b.probe(j).conj() * chi).sum(0)
        wanted[1][where] += (np.abs(b.probe(j)) ** 2).sum(0)
        if with_probe:
            wanted[2][b.bins[j]] += obj.conj() * chi
            wanted[3] += 4 * np.abs(obj) ** 2 if at == 0 else 0
    for one, two in zip(found, wanted, strict=True):
        close(one, two)


def test_accumulate_probe() -> None:
    b = Bench()
    pnum, pden = sums()[2:]
    obj, _, *places = b.planes
    kernels.accumulate_probe(obj, *places, b.chi.view(np.float32), pnum, pden)
    wanted = np.zeros(b.bank.shape, np.complex128)
    for at, j in enumerate(b.frames):
        wanted[b.bins[j]] += b.window(b.obj, j).conj() * b.chi[at]
    close(whole(pnum, 2), wanted)
    close(pden, sum(np.abs(b.window(b.obj, j)) ** 2 for j in b.frames))


def test_displacement_normal_equations() -> None:
    b = Bench()
    out = np.zeros((6, 5))
    kernels.displacement(*b.planes, b.chi.view(np.float32), out)
    for at, j in enumerate(b.frames):
        gradient_y = (b.window(b.obj, j, 1, 0) - b.window(b.obj, j, -1, 0)) / 2
        gradient_x = (b.window(b.obj, j, 0, 1) - b.window(b.obj, j, 0, -1)) / 2
        wy, wx, chi = b.probe(j) * gradient_y, b.probe(j) * gradient_x, b.chi[at]
        dots = [np.vdot(wy, chi), np.vdot(wx, chi), np.vdot(wy, wy), np.vdot(wx, wx), np.vdot(wy, wx)]
        close(out[j], np.real(dots))
    assert (out[[1, 3]] == 0).all(), "frames outside of the block stay as they were"


def test_step_lengths() -> None:
    b = Bench()
    d_obj, d_bank, out = wave(b.rng, H, W), wave(b.rng, BINS, MODES, SIZE, SIZE), np.ones(5)
    kernels.step_lengths(*b.places, b.chi, d_obj, d_bank, out)
    wanted = np.ones(5)
    for at, j in enumerate(b.frames):
        u, v = b.window(d_obj, j) * b.probe(j), d_bank[b.bins[j]] * b.window(b.obj, j)
        chi = b.chi[at]
        wanted += np.real([np.vdot(u, chi), np.vdot(v, chi), np.vdot(u, u), np.vdot(v, v), np.vdot(u, v)])
    close(out, wanted)


def test_direction_waves_are_the_derivative_of_exit_waves() -> None:
    b = Bench()
    d_obj, d_bank = wave(b.rng, H, W), wave(b.rng, BINS, MODES, SIZE, SIZE)
    out = np.empty((4, MODES, SIZE, SIZE), np.complex64)
    kernels.direction_waves(*b.places, d_obj, d_bank, out)
    wanted = [
        b.probe(j) * b.window(d_obj, j) + d_bank[b.bins[j]].astype(np.complex128) * b.window(b.obj, j) for j in b.frames
    ]
    close(out, np.stack(wanted))


def log_loss(intensity: NDArray[np.float64], n: NDArray[np.float64], noise: Likelihood) -> NDArray[np.float64]:
    """Negative log-likelihood of every pixel, up to a constant; the amplitudes' weighed as their variance 1/4 says."""
    if noise.poisson:
        return np.asarray(intensity - n * np.log(intensity))
    return np.asarray(2 * (np.sqrt(intensity) - np.sqrt(n)) ** 2)


@NOISES
def test_line_terms_against_finite_differences(noise: Likelihood) -> None:
    rng = np.random.default_rng(2)
    waves, along = 3 * wave(rng, 3, MODES, SIZE, SIZE), wave(rng, 3, MODES, SIZE, SIZE)
    counts = rng.poisson(20.0, (3, SIZE, SIZE)).astype(np.uint16)
    valid = (rng.random((SIZE, SIZE)) > 0.2).astype(np.float32)
    saturation, scale = 26.0, 0.7

    def loss(t: float) -> float:
        a = waves.astype(np.complex128) + t * along
        intensity = (np.abs(a) ** 2).sum(1) * scale + noise.floor
        return float((valid * (counts < saturation) * log_loss(intensity, counts.astype(float), noise)).sum())

    first, second = kernels.line_terms(
        waves.view(np.float32), along.view(np.float32), counts, np.arange(3), valid, np.float32(saturation),
        np.float32(scale), noise.poisson, np.float32(noise.floor),
    )  # fmt: skip
    h = 1e-4
    assert first == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-4, abs=1e-2)
    assert second == pytest.approx((loss(h) - 2 * loss(0) + loss(-h)) / h**2, rel=1e-3)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_update_object(lanes: int, smooth: float, gather: bool) -> None:
    b = Bench()
    velocity = wave(b.rng, H, W)
    num, den = wave(b.rng, lanes, H, W), b.rng.random((lanes, H, W)).astype(np.float32)
    den[:, :3] = 0
    num[:, :3] = 0
    step, damping, momentum = 0.4, 0.02, 0.8
    total, weight = num.sum(0).astype(np.complex128), den.sum(0).astype(float)
    peak = weight.max()
    padded = np.pad(b.obj.astype(np.complex128), 1, mode="edge")
    bent = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * b.obj
    total = total + smooth * bent * (weight > 0)
    move = momentum * velocity + step * total / ((1 - damping) * weight + damping * peak + 8 * smooth + 1e-9)
    wanted = b.obj + move
    f, force, pull = np.float32, np.ones(b.obj.shape, np.float32), (b.obj.conj() * num.sum(0)).imag
    parts = planes_of(num, 1)
    numbers = (f(step), f(damping), f(momentum), f(peak), f(smooth))
    most = [float(kernels.merge(parts, den, first, last)) for first, last in ((0, 5), (5, H))]
    assert max(most) == pytest.approx(peak, rel=1e-6)
    ends = b.obj[[0, 5]], b.obj[[4, H - 1]]
    for (first, last), rows in zip(((0, 5), (5, H)), ends, strict=True):
        kernels.update_object(b.obj, velocity, parts[0], den[0], *numbers, force, gather, first, last, rows)
    close(force, 1 + pull * gather)
    close(velocity, move)
    close(b.obj, wanted)
    assert (parts == 0).all() and (den == 0).all(), "the sums are cleared for the next batch"


# ---- the same numbers through the workshop


def workshop(lanes: int, *, near: bool = False, seed: int = 3, count: int = 30) -> Workshop:
    """A random object and probe at random places, counts of their own with some noise, a mask."""
    rng = np.random.default_rng(seed)
    size = 16
    pixels = rng.poisson(30.0, (count, size, size)).astype(np.uint16)
    store = FrameStore(size, count)
    keys = tuple(str(i) for i in range(count))
    store.append(Batch(keys, {"position_m": np.zeros((count, 2))}, lambda rows: pixels[rows]))
    canvas = Canvas()
    places = rng.uniform(0, 12, (count, 2))
    canvas.cover(places, size)
    canvas.object = (1 + 0.4 * wave(rng, *canvas.shape)).astype(np.complex64)
    transfer = None
    if near:
        k = np.fft.fftfreq(size)
        transfer = np.exp(-9j * (k[:, None] ** 2 + k[None] ** 2)).astype(np.complex64)
    valid = (rng.random((size, size)) > 0.1).astype(np.float32)
    shop = Workshop(store, canvas, Detector(valid, 45.0, transfer), lanes)
    shop.set_probe(4 * wave(rng, 2, size, size))
    shop.place(places)
    return shop


def expected(shop: Workshop, obj: NDArray[Any], probe: NDArray[Any]) -> NDArray[np.float64]:
    """Intensities of all frames in double precision; positions are those of the bank, a quarter of a pixel apart."""
    size, n = shop.size, len(shop.corners)
    out = np.zeros((n, size, size))
    k = np.fft.fftfreq(size)
    for j in range(n):
        shift = np.array(divmod(int(shop.bins[j]), 4)) / 4
        turn = np.exp(-2j * np.pi * (k[:, None] * shift[0] + k[None] * shift[1]))
        row, col = shop.corners[j]
        for mode in probe:
            psi = np.fft.ifft2(np.fft.fft2(mode) * turn) * obj[row : row + size, col : col + size]
            far = np.fft.fft2(psi, norm="ortho")
            if shop.detector.transfer is not None:
                transfer = shop.detector.transfer.astype(np.complex128)
                far = np.fft.ifft2(np.fft.fft2(psi) * transfer / turn)
            out[j] += np.abs(far) ** 2
    return out


def loss_of(shop: Workshop, obj: NDArray[Any], probe: NDArray[Any], noise: Likelihood) -> float:
    n = shop.frames.counts[: len(shop.corners)].astype(float)
    keep = shop.detector.valid * (n < shop.detector.saturation)
    return float((keep * log_loss(expected(shop, obj, probe) + noise.floor, n, noise)).sum())


def slope(loss: Any, h: float = 1e-4) -> float:
    return float((loss(h) - loss(-h)) / (2 * h))


@NOISES
@pytest.mark.parametrize("near", [False, True], ids=["far", "near"])
def test_gradient_is_the_likelihoods(noise: Likelihood, near: bool) -> None:
    """With E = -log L / 2 a pixel, the sums are -dE/d conj(O) and -dE/d conj(P): d(-log L) = -4 Re<sum, change>."""
    shop = workshop(1, near=near)
    shop.gradient(np.arange(30), noise, probe=True)
    rng = np.random.default_rng(7)
    obj, probe = shop.canvas.object.astype(np.complex128), shop.probe.astype(np.complex128)
    d_obj, d_probe = wave(rng, *obj.shape), wave(rng, *probe.shape)
    along_obj = slope(lambda t: loss_of(shop, obj + t * d_obj, probe, noise))
    along_probe = slope(lambda t: loss_of(shop, obj, probe + t * d_probe, noise))
    assert along_obj == pytest.approx(-4 * np.vdot(shop.object_sums()[0], d_obj).real, rel=1e-3)
    assert along_probe == pytest.approx(-4 * np.vdot(shop.probe_sums()[0], d_probe).real, rel=1e-3)


@NOISES
def test_displacement_is_the_likelihoods_slope(noise: Likelihood) -> None:
    """A window that moves by t over a smooth object sees O + t grad O: the slope of -log L is -4 g."""
    shop = workshop(1)
    rows, cols = np.mgrid[: shop.canvas.shape[0], : shop.canvas.shape[1]]
    shop.canvas.object = np.exp(0.3j * np.sin(0.2 * rows) + 0.2 * np.cos(0.15 * cols)).astype(np.complex64)
    shop.gradient(np.arange(30), noise, probe=False, displacement=True)
    obj, probe = shop.canvas.object.astype(np.complex128), shop.probe.astype(np.complex128)
    for axis in (0, 1):
        moved = np.gradient(obj, axis=axis)
        along = slope(partial(lambda t, moved: loss_of(shop, obj + t * moved, probe, noise), moved=moved))
        assert along == pytest.approx(-4 * shop.normal[:, axis].sum(), rel=2e-3)


@NOISES
def test_misfit_is_that_of_the_amplitudes(noise: Likelihood) -> None:
    shop = workshop(2)
    n = shop.frames.counts[:30].astype(float)
    keep = shop.detector.valid * (n < 45)
    model = expected(shop, shop.canvas.object.astype(np.complex128), shop.probe.astype(np.complex128)) + noise.floor
    wanted = float((keep * (np.sqrt(model) - np.sqrt(n)) ** 2).sum())
    assert shop.gradient(np.arange(30), noise, probe=True) == pytest.approx(wanted, rel=1e-5)
    shop.shut()


@NOISES
@pytest.mark.parametrize("which", ["object", "probe"])
def test_line_search_is_newtons_step(noise: Likelihood, which: str) -> None:
    """Along one of the two alone the waves are linear in the length, and the expansion is exact."""
    shop = workshop(1)
    shop.gradient(np.arange(30), noise, probe=True)
    d_obj, d_probe = directions.directions(shop, 0.02, 0.0, probe=which == "probe")
    d_obj = d_obj if which == "object" else np.zeros_like(d_obj)
    length = directions.line_search(shop, np.arange(30), noise, d_obj, d_probe, 0.0)
    obj, probe = shop.canvas.object.astype(np.complex128), shop.probe.astype(np.complex128)

    def loss(t: float) -> float:
        return loss_of(shop, obj + t * d_obj, probe + t * d_probe, noise)

    newton = -slope(loss, 1e-3) / ((loss(1e-2) - 2 * loss(0) + loss(-1e-2)) / 1e-4)
    assert loss(length) < loss(0) and length == pytest.approx(min(newton, 4.0), rel=0.02)


# ---- lanes and batches


def numbers(shop: Workshop) -> list[NDArray[Any]]:
    return [*shop.object_sums(), shop.probe_sums()[0], shop.normal.copy()]


def test_lanes_agree() -> None:
    found = []
    for lanes in (1, 2, 3):
        shop = workshop(lanes)
        misfit = shop.gradient(np.arange(30), POISSON, probe=True, displacement=True)
        found.append([np.array(misfit), *numbers(shop)])
        shop.shut()
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            close(two, one)


def test_the_sum_over_batches_is_the_sum_of_one() -> None:
    """Gauntlet row 22, `accumulate.oracle`: no batch reads other points' data."""
    whole = workshop(2)
    whole.gradient(np.arange(30), POISSON, probe=True, displacement=True)
    order = np.random.default_rng(1).permutation(30)
    for parts in (2, 7, 30):
        shop = workshop(2)
        for part in np.array_split(order, parts):
            shop.gradient(part, POISSON, probe=True, displacement=True)
        for one, two in zip(numbers(shop), numbers(whole), strict=True):
            close(one, two)
        shop.shut()
    whole.shut()


def test_an_update_does_not_depend_on_lanes() -> None:
    objects = []
    for lanes in (1, 2):
        shop = workshop(lanes)
        shop.gradient(np.arange(30), POISSON, probe=True)
        shop.update_object(0.4, 0.02, 0.8, 0.01)
        shop.update_probe(0.5, 0.5)
        assert (shop.num == 0).all() and (shop.pnum == 0).all() and (shop.den == 0).all() and (shop.pden == 0).all()
        objects += [shop.canvas.object, shop.probe]
        shop.shut()
    close(objects[2], objects[0])
    close(objects[3], objects[1], 0.1)  # its step is scaled by a sample of the frames
