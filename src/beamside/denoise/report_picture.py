"""What a person looks at to judge a denoised micrograph: input, blur, output, truth, and what was taken away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST_PX = 1024
_SPREADS = 3.5


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
    figure.savefig(path)
