"""The picture of a denoised micrograph: its bar is a round length, and it is drawn whatever is known of the scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beamside.denoise.report_picture import write_pictures
from beamside.optics.units import round_length


@pytest.mark.parametrize(("most", "length"), [(100.0, 100.0), (99.0, 50.0), (499.0, 200.0), (7.0, 5.0), (0.3, 0.2)])
def test_a_round_length(most: float, length: float) -> None:
    assert round_length(most) == pytest.approx(length)


@pytest.mark.parametrize("pixel_size_A", [1.3, 0.0])
def test_a_picture(pixel_size_A: float, tmp_path: Path) -> None:
    panels = {"input": np.random.default_rng(0).normal(size=(60, 80)), "model": np.zeros((60, 80))}
    write_pictures(tmp_path / "m.png", panels, {"halves": np.linspace(1, 0, 30)}, pixel_size_A)
    assert (tmp_path / "m.png").stat().st_size > 10_000
