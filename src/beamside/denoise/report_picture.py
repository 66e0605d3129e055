"""What a person looks at to judge a denoised micrograph: input, blur, output, truth, and what was taken away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beamside.optics.units import round_length

_LARGEST_PX = 1024
_SPREADS = 3.5
_OF_HALVES = (
    "between two halves that were denoised apart, what a network adds to both counts too: "
    "a curve that rises again towards its end is no signal"
)


def write_pictures(
    path: Path, panels: Mapping[str, NDArray[Any]], curves: Mapping[str, NDArray[np.float64]], pixel_size_A: float
) -> None:
    """One PNG: `panels` (title -> (H, W)) side by side, each on its own grey scale, and FRC `curves` under them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 8.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, len(panels), height_ratios=(5, 2.6))
    for number, (title, image) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[0, number])
        shown = np.asarray(image)[:_LARGEST_PX, :_LARGEST_PX]
        middle, spread = float(np.median(shown)), float(shown.std()) or 1.0
        axes.imshow(shown, cmap="gray", vmin=middle - _SPREADS * spread, vmax=middle + _SPREADS * spread)
        axes.set_title(title)
        axes.set_axis_off()
        if number == 0:
            _bar(axes, shown.shape[0], shown.shape[1], pixel_size_A)
    figure.suptitle(_heading(path.stem, panels, pixel_size_A), x=0.01, ha="left", weight="bold")
    axes = figure.add_subplot(grid[1, :])
    for title, curve in curves.items():
        frequency = (np.arange(curve.size) + 0.5) / curve.size / 2 / (pixel_size_A or 1.0)
        axes.plot(frequency, curve, label=title, linewidth=1.2)
    axes.set_xlabel("spatial frequency, 1/A" if pixel_size_A else "spatial frequency, cycles a pixel")
    axes.set_ylabel("FRC")
    axes.set_ylim(-0.1, 1.02)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
        axes.set_title(_OF_HALVES, fontsize=9, loc="left")
    figure.savefig(path)


def _heading(name: str, panels: Mapping[str, NDArray[Any]], pixel_size_A: float) -> str:
    height, width = np.asarray(next(iter(panels.values()))).shape
    cut = f", its first {_LARGEST_PX} px" if max(height, width) > _LARGEST_PX else ""
    pixel = f"{pixel_size_A:g} A a pixel" if pixel_size_A else "pixel of unknown size"
    return f"{name}: {width} x {height} px{cut}, {pixel}"


def _bar(axes: Any, height: int, width: int, pixel_size_A: float) -> None:
    """A round length in the lower left corner, at most a quarter of the image."""
    length = round_length(width / 4 * (pixel_size_A or 1.0))
    long_px, y = length / (pixel_size_A or 1.0), 0.95 * height
    axes.plot([0.05 * width, 0.05 * width + long_px], [y, y], color="white", linewidth=6, solid_capstyle="butt")
    axes.plot([0.05 * width, 0.05 * width + long_px], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8}
    text = f"{length:g} {'A' if pixel_size_A else 'px'}"
    axes.text(0.05 * width, 0.925 * height, text, va="bottom", fontsize=9, bbox=box)
