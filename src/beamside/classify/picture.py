"""The gallery: class averages by occupancy, each with its number, particles and resolution."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.run.engine import Snapshot

_TILE_INCH, _CAPTION_INCH, _HEAD_INCH = 1.35, 0.34, 0.62


def write_gallery(path: Path, snapshot: Snapshot) -> None:
    """Write a PNG of the snapshot's class averages, the most occupied first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes, images = snapshot.tables["classes"], snapshot.arrays["class_averages"]
    order = np.argsort(-classes["particles"], kind="stable")
    across = columns(len(order))
    down = math.ceil(len(order) / across)
    width, height = across * _TILE_INCH, down * (_TILE_INCH + _CAPTION_INCH) + _HEAD_INCH
    figure = Figure(figsize=(max(width, 6.0), height), facecolor="white", dpi=110)
    FigureCanvasAgg(figure)
    figure.text(0.01, 1 - 0.2 / height, headline(snapshot), fontsize=10, va="center", weight="bold")
    figure.text(0.01, 1 - 0.43 / height, subline(snapshot), fontsize=8, va="center", color="0.3")
    wide = max(width, 6.0)
    for place, k in enumerate(order.tolist()):
        row, at = divmod(place, across)
        top = _HEAD_INCH + row * (_TILE_INCH + _CAPTION_INCH)
        box = (
            (at * _TILE_INCH + 0.04) / wide,
            1 - (top + _TILE_INCH) / height,
            (_TILE_INCH - 0.08) / wide,
            (_TILE_INCH - 0.04) / height,
        )
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.imshow(tile(images[k]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        left = (at + 0.5) * _TILE_INCH / wide
        figure.text(left, 1 - (top + _TILE_INCH + 0.16) / height, caption(snapshot, k), fontsize=7, ha="center")
    figure.savefig(path)


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
