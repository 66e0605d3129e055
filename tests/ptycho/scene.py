"""Small scans with a known truth, in memory; a forward model and an aligner written for the tests alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from beamside.ptycho.engine import Ptychography
from beamside.ptycho.options import PtychoOptions, StartProbe
from beamside.run.engine import Batch, Header, Progress
from beamside.simulate.scan import Scan, ScanRecipe

N, FRAMES = 64, 200
Complex = NDArray[np.complexfloating[Any, Any]]


@lru_cache(maxsize=16)
def scan(frames: int = FRAMES, **changed: Any) -> Scan:
    """A small far-field scan of a strong object, its frames overlapping well."""
    standard: dict[str, Any] = {"frame_px": N, "step_px": 3.0, "photons": 1e5, "defocus_m": 1e-3, "seed": 1}
    return Scan(ScanRecipe(frames=frames, **(standard | changed)))


@lru_cache(maxsize=16)
def counts(made: Scan) -> NDArray[np.uint16]:
    """All frames of a scan, DC at the corner (an image stays as it is); not to be changed."""
    frames = made.frames(np.arange(made.recipe.frames))
    found = frames if made.recipe.propagation == "near" else np.fft.ifftshift(frames, axes=(1, 2))
    found.setflags(write=False)
    return found


def header(made: Scan, **changed: Any) -> Header:
    """What a source would declare."""
    recipe = made.recipe
    fields = {
        "frame_px": recipe.frame_px, "wavelength_m": recipe.wavelength_m, "distance_m": recipe.distance_m,
        "detector_pixel_m": recipe.detector_pixel_m, "detector_mask": None, "saturation": None, "count": recipe.frames,
        "propagation": recipe.propagation, "defocus_m": recipe.source_m, "sample": None, "scan_uid": None,
    }  # fmt: skip
    return Header("frames", fields | changed)


def batch(
    made: Scan, rows: Sequence[int] | NDArray[np.int64] | None = None, pixels: NDArray[Any] | None = None
) -> Batch:
    """Those frames (all without `rows`); `pixels` (of the whole scan) replaces the counts."""
    chosen = np.arange(made.recipe.frames) if rows is None else np.asarray(rows)
    source = counts(made) if pixels is None else pixels
    position_m = made.recorded_px[chosen] * made.recipe.pixel_m
    keys = tuple(f"frame {row}" for row in chosen.tolist())
    return Batch(keys, {"position_m": position_m, "frame": chosen}, lambda wanted: source[chosen[wanted]])


def start_probe(made: Scan, off: float = 1.3, noise: float = 0.0, seed: int = 0) -> StartProbe:
    """The beam as someone who knows the instrument would guess it: `off` times the true defocus, no aberration."""
    recipe = made.recipe
    if recipe.propagation == "near":
        return StartProbe(np.abs(made.probe).astype(np.complex64), "guess", recipe.pixel_m, recipe.wavelength_m)
    angle = (np.arange(recipe.frame_px) - recipe.frame_px // 2) * recipe.detector_pixel_m / recipe.distance_m
    square = angle[:, None] ** 2 + angle[None, :] ** 2
    lens = np.fft.fftshift(np.abs(np.fft.fft2(made.probe[0])))
    wave = lens * np.exp(1j * np.pi / recipe.wavelength_m * square * (recipe.defocus_m or 0.6e-3) * off)
    guess = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave)))
    rng = np.random.default_rng(seed)
    guess = guess * (1 + noise * rng.standard_normal(guess.shape))
    return StartProbe(guess[None].astype(np.complex64), "guess", recipe.pixel_m, recipe.wavelength_m)


def options(made: Scan | None = None, **changed: Any) -> PtychoOptions:
    """One thread, no look at the geometry, few closing iterations; a start probe when a scan is given."""
    standard: dict[str, Any] = {"threads": 1, "check_geometry": False, "iterations_after_close": 10, "first_frames": 50}
    if made is not None:
        standard["probe"] = start_probe(made)
    return PtychoOptions(**(standard | changed))


def settle(engine: Ptychography, watch: Callable[[Ptychography], None] | None = None) -> Progress:
    """Step until there is nothing left to do."""
    while True:
        progress = engine.step()
        if watch is not None:
            watch(engine)
        if progress.finished or progress.idle:
            return progress


def run(
    made: Scan, chosen: PtychoOptions, *, pixels: NDArray[Any] | None = None, head: Header | None = None
) -> Ptychography:
    """All frames at once, to the end."""
    engine = Ptychography.fresh(chosen, head or header(made))
    engine.ingest(batch(made, pixels=pixels))
    engine.close()
    settle(engine)
    engine.shop.shut()
    return engine


def stream(made: Scan, chosen: PtychoOptions, parts: Sequence[NDArray[np.int64]], steps: int) -> Ptychography:
    """Frames in `parts`, `steps` steps after each, then to the end."""
    engine = Ptychography.fresh(chosen, header(made))
    for part in parts:
        engine.ingest(batch(made, part))
        for _ in range(steps):
            engine.step()
    engine.close()
    settle(engine)
    engine.shop.shut()
    return engine


# ---- an independent forward model: one frame at a time, plain numpy in double precision


def expected_counts(
    obj: Complex, probe: Complex, at_px: NDArray[np.float64], kernel: Complex | None = None
) -> NDArray[np.float64]:
    """(N, N) mean counts of the window whose first pixel is at `at_px` (row, col) of `obj`, DC at the corner."""
    size = probe.shape[-1]
    row, col = (int(v) for v in np.floor(at_px))
    y, x = at_px - np.floor(at_px)
    k = np.fft.fftfreq(size)
    turn = np.exp(-2j * np.pi * (k[:, None] * y + k[None] * x))
    found = np.zeros((size, size))
    for mode in probe.astype(np.complex128):
        psi = np.fft.ifft2(np.fft.fft2(mode) * turn) * obj[row : row + size, col : col + size]
        wave = np.fft.fft2(psi, norm="ortho")
        if kernel is not None:  # the beam stands still on the detector, wherever the sample goes
            wave = np.fft.ifft2(np.fft.fft2(psi) * kernel / turn)
        found += np.abs(wave) ** 2
    return found


# ---- the error of a reconstruction, less what no data can tell


def lit(made: Scan, share: float = 0.3) -> NDArray[np.bool_]:
    """(H, W) pixels of the truth on which the scan puts more than `share` of its median light, less a rim."""
    light = np.zeros(made.object.shape)
    intensity = (np.abs(made.probe) ** 2).sum(0)
    size = made.recipe.frame_px
    for row, col in np.round(made.positions_px).astype(int).tolist():
        light[row : row + size, col : col + size] += intensity
    strong = light > share * np.median(light[light > 1e-3 * light.max()])
    return np.asarray(ndimage.binary_erosion(strong, iterations=3))


def error(made: Scan, obj: Complex, offset_px: Sequence[int] | NDArray[Any], where: Any = None) -> float:
    """|aligned object - truth| / |truth| over the lit part, after the best complex factor, ramp and shift.

    Ramp and shift are found by least squares on cubic splines, the factor in closed form.
    """
    truth = made.object.astype(np.complex128)
    mask = lit(made) if where is None else where
    rows, cols = np.nonzero(mask)
    target = truth[rows, cols]
    parts = [ndimage.spline_filter(part.astype(np.float64), order=3) for part in (obj.real, obj.imag)]
    y, x = (v - v.mean() for v in (rows.astype(float), cols.astype(float)))
    place_y, place_x = rows - float(offset_px[0]), cols - float(offset_px[1])

    def aligned(p: NDArray[np.float64]) -> Complex:
        real, imag = (
            ndimage.map_coordinates(part, [place_y + p[2], place_x + p[3]], order=3, prefilter=False, mode="nearest")
            for part in parts
        )
        turned = (real + 1j * imag) * np.exp(1j * (p[0] * y + p[1] * x))
        return turned * (np.vdot(turned, target) / max(np.vdot(turned, turned).real, 1e-30))

    def residual(p: NDArray[np.float64]) -> NDArray[np.float64]:
        d = aligned(p) - target
        return np.concatenate([d.real, d.imag])

    begin = min(_starts(obj, truth, mask, offset_px), key=lambda p: float(np.sum(residual(p) ** 2)))
    found = optimize.least_squares(residual, begin, x_scale=[0.01, 0.01, 1, 1], diff_step=1e-4, max_nfev=30).x
    return float(np.linalg.norm(residual(found)) / np.linalg.norm(target))


def _starts(obj: Complex, truth: Complex, mask: NDArray[np.bool_], offset_px: Any) -> list[NDArray[np.float64]]:
    """Whole-pixel shifts near the given offset, each with the ramp that neighbouring pixels show."""
    height, width = truth.shape
    canvas = np.zeros((height + 32, width + 32), np.complex128)
    row, col = (int(v) + 16 for v in offset_px)
    r0, c0 = max(0, -row), max(0, -col)
    piece = obj[r0 : r0 + canvas.shape[0] - max(0, row), c0 : c0 + canvas.shape[1] - max(0, col)]
    canvas[max(0, row) : max(0, row) + piece.shape[0], max(0, col) : max(0, col) + piece.shape[1]] = piece
    found = []
    for dy in range(-4, 5, 2):
        for dx in range(-4, 5, 2):
            z = np.conj(canvas[16 + dy : 16 + dy + height, 16 + dx : 16 + dx + width]) * truth * mask
            ramp = [np.angle(np.vdot(z[:-1], z[1:])), np.angle(np.vdot(z[:, :-1], z[:, 1:]))]
            found.append(np.array([*ramp, dy, dx], dtype=float))
    return found


def run_error(made: Scan, engine: Ptychography) -> float:
    """Of a finished engine."""
    return error(made, engine.canvas.object, engine.canvas.origin)


def same_bits(one: Ptychography, two: Ptychography) -> bool:
    """Whether two engines show the same, to the bit."""
    first, second = one.snapshot(), two.snapshot()
    arrays = all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    return arrays and first.notes == second.notes and first.arrays.keys() == second.arrays.keys()
