"""One picture of a reconstruction: amplitude and phase with a scale bar and the coverage, under the run's verdict."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Snapshot
from beamside.run.guard import Verdict

_DPI, _WIDTH_PX, _HEAD_PX, _LINE_PX, _GAP_PX = 100, 1200, 52, 17, 12
_CHARACTER_PX = 6.2
_MOST_FINDINGS = 4
_MOST_PIXELS = 560
_BANNER = {Verdict.TRUSTED: "#d9ead3", Verdict.PROVISIONAL: "#fff2cc", Verdict.SUSPECT: "#f4cccc"}
_UNSEEN = (0.80, 0.84, 0.95)
_LIT_SHARE, _EDGE_SHARE = 0.01, 0.1
"""Hardly seen, drawn pale, no part of the grey scale: under 0.1 of the median of what has over 0.01 of the maximum."""
_MARGIN_SHARE = 0.03
"""Of the longer side, drawn around all that was seen; the canvas beyond is empty."""


def write_picture(path: Path, snapshot: Snapshot, judgement: Mapping[str, Any] | None = None) -> None:
    """Write a PNG of the object. What no photon has reached is drawn in blue, what hardly any has, in pale grey.

    judgement: `verdict` and `findings` as snapshot.json and verdict.json hold them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    verdict, lines = banner(snapshot, judgement or {})
    amplitude, phase, step = panels(snapshot)
    panel_px = (_WIDTH_PX - 3 * _GAP_PX) / 2
    tall_px = panel_px * amplitude.shape[0] / amplitude.shape[1]
    head_px = _HEAD_PX + _LINE_PX * len(lines) + 8
    height_px = head_px + tall_px + 36
    figure = Figure(figsize=(_WIDTH_PX / _DPI, height_px / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    page = figure.add_axes((0, 0, 1, 1))
    page.set_axis_off()
    page.set(xlim=(0, _WIDTH_PX), ylim=(height_px, 0))
    page.text(_GAP_PX, 16, headline(snapshot), fontsize=11, va="center", weight="bold")
    page.text(_GAP_PX, 36, subline(snapshot), fontsize=8, va="center", color="0.3")
    page.add_patch(
        Rectangle((_GAP_PX, _HEAD_PX - 6), _WIDTH_PX - 2 * _GAP_PX, _LINE_PX * len(lines) + 4, color=_BANNER[verdict])
    )
    for number, line in enumerate(lines):
        weight = "bold" if number == 0 else "normal"
        page.text(2 * _GAP_PX, _HEAD_PX + 4 + _LINE_PX * number, line, fontsize=8, va="center", weight=weight)
    for place, (image, title) in enumerate(((amplitude, "amplitude"), (phase, "phase (ramp removed)"))):
        left = _GAP_PX + place * (panel_px + _GAP_PX)
        box = (left / _WIDTH_PX, 28 / height_px, panel_px / _WIDTH_PX, tall_px / height_px)
        axes = figure.add_axes(box)
        axes.imshow(image, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        page.text(left, height_px - 14, title, fontsize=8, va="center")
    _draw_scale_bar(page, snapshot, amplitude.shape[1] * step, panel_px, height_px)
    figure.savefig(path, pil_kwargs={"compress_level": 3})


def _draw_scale_bar(page: Any, snapshot: Snapshot, width_px: int, panel_px: float, height_px: float) -> None:
    from matplotlib.patches import Rectangle

    field_m = width_px * float(snapshot.notes["pixel_size_m"][1])
    bar_m = scale_bar_m(field_m)
    length = panel_px * bar_m / field_m
    right = _GAP_PX + panel_px
    page.add_patch(Rectangle((right - length, height_px - 18), length, 5, color="black"))
    text = bar_text(snapshot, bar_m)
    page.text(right - length - 6, height_px - 14, text, fontsize=8, va="center", ha="right")


def panels(snapshot: Snapshot) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Amplitude and phase as pictures (h, w, 3), values 0 to 1, and of how many pixels each of theirs is the mean."""
    given, coverage = np.asarray(snapshot.arrays["object"]), np.asarray(snapshot.arrays["coverage"])
    window = seen_window(coverage)
    given, coverage = given[window], coverage[window]
    seen = coverage > 0
    lit = coverage > _LIT_SHARE * coverage.max(initial=0)
    bright = coverage > _EDGE_SHARE * np.median(coverage[lit]) if seen.any() else seen
    levelled = without_ramp(given, bright)
    step = max(1, math.ceil(max(given.shape) / _MOST_PIXELS))
    images = [_shrunk(_coloured(grey, seen, bright), step) for grey in (np.abs(levelled), np.angle(levelled))]
    return images[0], images[1], step


def seen_window(coverage: NDArray[Any]) -> tuple[slice, slice]:
    """Rows and columns around all that was seen, with a margin; all of the canvas where nothing was."""
    seen = coverage > 0
    if not seen.any():
        return slice(None), slice(None)
    margin = math.ceil(_MARGIN_SHARE * max(coverage.shape))
    ends = [np.flatnonzero(seen.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(max(0, int(end[0]) - margin), int(end[-1]) + 1 + margin) for end in ends)
    return rows, columns


def without_ramp(given: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """The object without its mean phase and its mean phase gradient over `where`, neither of which the data fix."""
    image = given.astype(np.complex128)
    if not where.any():
        return image
    for axis in (0, 1):
        ahead, behind = np.moveaxis(image, axis, 0)[1:], np.moveaxis(image, axis, 0)[:-1]
        both = np.moveaxis(where, axis, 0)
        slope = np.angle((ahead * behind.conj())[both[1:] & both[:-1]].sum())
        turn = np.exp(-1j * slope * np.arange(image.shape[axis]))
        image = image * (turn[:, None] if axis == 0 else turn[None, :])
    return np.asarray(image * np.exp(-1j * np.angle(image[where].sum())))


def _coloured(values: NDArray[Any], seen: NDArray[np.bool_], bright: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Grey between the 0.5th and 99.5th percentile of the well-lit part; unseen pixels blue, dim ones half washed."""
    low, high = np.percentile(values[bright], [0.5, 99.5]) if bright.any() else (0.0, 1.0)
    grey = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    dim = seen & ~bright
    picture[dim] = 0.5 + 0.35 * picture[dim]
    picture[~seen] = _UNSEEN
    return picture


def _shrunk(picture: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    rows, columns = (size // step * step for size in picture.shape[:2])
    blocks = picture[:rows, :columns].reshape(rows // step, step, columns // step, step, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


def banner(snapshot: Snapshot, judgement: Mapping[str, Any]) -> tuple[Verdict, list[str]]:
    """The verdict, and what the banner says, in lines."""
    verdict = Verdict(judgement.get("verdict") or ("provisional" if snapshot.provisional else "trusted"))
    first = str(verdict).upper() + (f": {snapshot.provisional}" if snapshot.provisional else "")
    findings = [f for f in judgement.get("findings", ()) if f["severity"] != "note"]
    texts = [first.rstrip(".")] + [f"- {f['saw']} {f['remedy']}".rstrip() for f in findings[:_MOST_FINDINGS]]
    if len(findings) > _MOST_FINDINGS:
        texts.append(f"- and {len(findings) - _MOST_FINDINGS} more findings")
    width = math.floor((_WIDTH_PX - 4 * _GAP_PX) / _CHARACTER_PX)
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_on_hyphens=False)
    return verdict, [line for text in texts for line in wrapper.wrap(text)]


def headline(snapshot: Snapshot) -> str:
    """Frames, probe modes and canvas."""
    arrays = snapshot.arrays
    modes, height, width = len(arrays["probe"]), *arrays["object"].shape
    noun = "mode" if modes == 1 else "modes"
    return f"{len(arrays['positions_px']):,} frames, {modes} probe {noun}, object {height} x {width} px"


def subline(snapshot: Snapshot) -> str:
    """Pixel, covered share, solver."""
    share = float((np.asarray(snapshot.arrays["coverage"]) > 0).mean())
    pixel = length_text(float(snapshot.notes["pixel_size_m"][0]))
    if snapshot.notes.get("nominal_lengths"):
        pixel = "of unknown size"
    text = f"pixel {pixel}; {share:.0%} of the canvas seen (rest: blue)"
    further = [snapshot.notes.get("solver"), "sign of the phase not known" if snapshot.notes.get("twin") else ""]
    return "; ".join([text, *(str(part) for part in further if part)])


def bar_text(snapshot: Snapshot, bar_m: float) -> str:
    """The scale bar's length; in pixels where the scan does not say what a pixel is."""
    if snapshot.notes.get("nominal_lengths"):
        return f"{bar_m / float(snapshot.notes['pixel_size_m'][1]):.3g} px"
    return length_text(bar_m)


def scale_bar_m(field_m: float) -> float:
    """The longest of 1, 2, 5 times a power of ten that is at most a quarter of the field."""
    power = 10.0 ** math.floor(math.log10(field_m / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= field_m / 4 * (1 + 1e-9))


def length_text(length_m: float) -> str:
    """A length with three digits, in the unit that suits it."""
    for unit, size in (("m", 1.0), ("mm", 1e-3), ("um", 1e-6), ("nm", 1e-9)):
        if length_m >= 0.9995 * size:
            return f"{length_m / size:.3g} {unit}"
    return f"{length_m / 1e-12:.3g} pm"
