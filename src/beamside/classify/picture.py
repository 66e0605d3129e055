"""The gallery: class averages by occupancy, each with its number, particles and resolution, under the run's verdict."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.optics.units import round_length
from beamside.run.engine import Snapshot
from beamside.run.guard import Verdict

_TILE_PX, _GAP_PX, _CAPTION_PX, _HEAD_PX, _LINE_PX = 140, 8, 40, 62, 17
_DPI = 110
_LEAST_WIDTH_PX = 660
_CHARACTER_PX = 6.2
_MOST_FINDINGS = 4
_BANNER = {Verdict.TRUSTED: "#d9ead3", Verdict.PROVISIONAL: "#fff2cc", Verdict.SUSPECT: "#f4cccc"}


def write_gallery(path: Path, snapshot: Snapshot, judgement: Mapping[str, Any] | None = None) -> None:
    """Write a PNG of the snapshot's class averages, the most occupied first.

    judgement: `verdict` and `findings` (each with `severity`, `saw` and `remedy`) as snapshot.json holds them; without
    it the banner says only whether the snapshot is provisional.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from PIL import Image

    classes, images = snapshot.tables["classes"], snapshot.arrays["class_averages"]
    order = np.argsort(-classes["particles"], kind="stable").tolist()
    across = columns(len(order))
    width = max(_LEAST_WIDTH_PX, across * (_TILE_PX + _GAP_PX) + _GAP_PX)
    verdict, lines = banner(snapshot, judgement or {}, math.floor((width - 3 * _GAP_PX) / _CHARACTER_PX))
    head = _HEAD_PX + _LINE_PX * len(lines) + (_GAP_PX if lines else 0)
    height = head + math.ceil(len(order) / across) * (_TILE_PX + _CAPTION_PX)
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    corners = []
    for place, k in enumerate(order):
        row, at = divmod(place, across)
        top, left = head + row * (_TILE_PX + _CAPTION_PX), _GAP_PX + at * (_TILE_PX + _GAP_PX)
        corners.append((top, left))
        axes.text(left + _TILE_PX / 2, top + _TILE_PX + 3, caption(snapshot, k), fontsize=7, ha="center", va="top")
    axes.text(_GAP_PX, 20, headline(snapshot), fontsize=10, va="center", weight="bold")
    axes.text(_GAP_PX, 42, subline(snapshot), fontsize=8, va="center", color="0.3")
    if lines:
        box = (_GAP_PX / 2, _HEAD_PX - 7)
        axes.add_patch(Rectangle(box, width - _GAP_PX, _LINE_PX * len(lines) + 4, color=_BANNER[verdict], zorder=2))
    for number, line in enumerate(lines):
        weight = "bold" if number == 0 else "normal"
        axes.text(_GAP_PX, _HEAD_PX + 3 + _LINE_PX * number, line, fontsize=8, va="center", weight=weight, zorder=3)
    canvas.draw()  # type: ignore[no-untyped-call]
    sheet = np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    # The tiles are laid on the drawn text: as images of the figure they would take longer than all the rest.
    tiles = enlarged(np.asarray(images))
    for k, (top, left) in zip(order, corners, strict=True):
        grey = np.rint(255 * tile(tiles[k])).astype(np.uint8)
        sheet[top : top + _TILE_PX, left : left + _TILE_PX] = grey[:, :, None]
    if corners:
        (top, left), long_px = corners[0], round(bar_A(snapshot) / extent_A(snapshot) * _TILE_PX)
        sheet[top + _TILE_PX - 10 : top + _TILE_PX - 6, left + 8 : left + 8 + long_px] = 255
    Image.fromarray(sheet).save(path, dpi=(_DPI, _DPI), compress_level=3)


def banner(snapshot: Snapshot, judgement: Mapping[str, Any], width: int) -> tuple[Verdict, list[str]]:
    """The verdict, and what the banner says in lines of `width` characters; none where there is nothing to say."""
    given = judgement.get("verdict")
    if given is None and not snapshot.provisional:
        return Verdict.TRUSTED, []
    verdict = Verdict(given) if given else Verdict.PROVISIONAL
    first = str(verdict).upper() + (f": {snapshot.provisional}" if snapshot.provisional else "")
    texts = [first.rstrip(".")]
    findings = [f for f in judgement.get("findings", ()) if f["severity"] != "note"]
    texts += [f"- {f['saw']} {f['remedy']}".rstrip() for f in findings[:_MOST_FINDINGS]]
    if len(findings) > _MOST_FINDINGS:
        texts.append(f"- and {len(findings) - _MOST_FINDINGS} more findings")
    wrapper = textwrap.TextWrapper(max(40, width), subsequent_indent="  ", break_on_hyphens=False)
    return verdict, [line for text in texts for line in wrapper.wrap(text)]


def enlarged(images: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Images (K, n, n) at the size of a tile: linear between their pixels, or the mean of these where they are larger.

    All at once: a small product for each image waits longer for its threads than it computes.
    """
    count, n = images.shape[:2]
    step = n / _TILE_PX
    centres = (np.arange(_TILE_PX) + 0.5) * step - 0.5
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(n)[None, :]) / max(1.0, step), 0, None)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    wide = images.astype(np.float32).reshape(-1, n) @ weights.T
    high = wide.reshape(count, n, _TILE_PX).swapaxes(1, 2).reshape(-1, n) @ weights.T
    return np.asarray(high.reshape(count, _TILE_PX, _TILE_PX).swapaxes(1, 2))


def extent_A(snapshot: Snapshot) -> float:
    """Side of the box."""
    return float(np.asarray(snapshot.arrays["class_averages"]).shape[-1] * snapshot.notes["pixel_size_A"])


def bar_A(snapshot: Snapshot) -> float:
    """A round length, the longest that takes no more than half of the box."""
    return round_length(extent_A(snapshot) / 2)


def columns(count: int) -> int:
    """Tiles a row, so that the sheet is somewhat wider than high."""
    return max(1, min(20, math.ceil(math.sqrt(1.5 * count))))


def tile(image: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Grey values 0 to 1 between the 0.5th and 99.5th percentile of the image; mid grey where it is flat."""
    pixels = image.astype(np.float64)
    low, high = np.percentile(pixels, [0.5, 99.5])
    if high <= low:
        return np.full(pixels.shape, 0.5)
    grey: NDArray[np.float64] = np.clip((pixels - low) / (high - low), 0, 1)
    return grey


def caption(snapshot: Snapshot, k: int) -> str:
    """Class number, particles, share, and the resolution where it is known."""
    classes = snapshot.tables["classes"]
    text = f"{classes['class_number'][k]}: {classes['particles'][k]} ({100 * classes['share'][k]:.1f} %)"
    if "resolution_A" in classes and np.isfinite(classes["resolution_A"][k]):
        text += f"\n{classes['resolution_A'][k]:.1f} A"
    return text


def headline(snapshot: Snapshot) -> str:
    """How many classes and particles."""
    classes = snapshot.tables["classes"]
    used = int((classes["particles"] > 0).sum())
    return f"{used} of {len(classes['particles'])} classes, {int(classes['particles'].sum()):,} particles"


def subline(snapshot: Snapshot) -> str:
    """Round, passes, mask and pixel."""
    notes = snapshot.notes
    return (
        f"round {notes['round']}, {notes['passes']} passes; mask {notes['mask_diameter_A']:.0f} A; "
        f"pixel {notes['pixel_size_A']:g} A, bar {bar_A(snapshot):g} A; number: particles (share), resolution"
    )
