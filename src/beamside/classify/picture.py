"""The gallery: class averages by occupancy, each with its number, particles and resolution."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Snapshot

_TILE_PX, _GAP_PX, _CAPTION_PX, _HEAD_PX = 140, 8, 40, 62
_DPI = 110
_LEAST_WIDTH_PX = 660


def write_gallery(path: Path, snapshot: Snapshot) -> None:
    """Write a PNG of the snapshot's class averages, the most occupied first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes, images = snapshot.tables["classes"], snapshot.arrays["class_averages"]
    order = np.argsort(-classes["particles"], kind="stable").tolist()
    across = columns(len(order))
    down = math.ceil(len(order) / across)
    width = max(_LEAST_WIDTH_PX, across * (_TILE_PX + _GAP_PX) + _GAP_PX)
    height = _HEAD_PX + down * (_TILE_PX + _CAPTION_PX)
    # One picture for all tiles: an axes for each would take seconds.
    sheet = np.ones((height, width))
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, k in enumerate(order):
        row, at = divmod(place, across)
        top, left = _HEAD_PX + row * (_TILE_PX + _CAPTION_PX), _GAP_PX + at * (_TILE_PX + _GAP_PX)
        sheet[top : top + _TILE_PX, left : left + _TILE_PX] = enlarged(tile(images[k]))
        axes.text(left + _TILE_PX / 2, top + _TILE_PX + 3, caption(snapshot, k), fontsize=7, ha="center", va="top")
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.text(_GAP_PX, 20, headline(snapshot), fontsize=10, va="center", weight="bold")
    axes.text(_GAP_PX, 42, subline(snapshot), fontsize=8, va="center", color="0.3")
    figure.savefig(path)


def enlarged(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image at the size of a tile, nearest neighbour."""
    index = np.arange(_TILE_PX) * image.shape[0] // _TILE_PX
    return image[np.ix_(index, index)]


def columns(count: int) -> int:
    """Tiles a row, so that the sheet is somewhat wider than high."""
    return max(1, min(20, math.ceil(math.sqrt(1.5 * count))))


def tile(image: NDArray[np.float32]) -> NDArray[np.float64]:
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
    """Classes, particles, and whether they may be believed yet."""
    classes = snapshot.tables["classes"]
    used = int((classes["particles"] > 0).sum())
    text = f"{used} of {len(classes['particles'])} classes, {int(classes['particles'].sum()):,} particles"
    return text + (f" - PROVISIONAL: {snapshot.provisional}" if snapshot.provisional else "")


def subline(snapshot: Snapshot) -> str:
    """Round, band and mask."""
    notes = snapshot.notes
    return (
        f"round {notes['round']}, {notes['passes']} passes; mask {notes['mask_diameter_A']:.0f} A; "
        f"pixel {notes['pixel_size_A']:g} A; sorted by occupancy"
    )
