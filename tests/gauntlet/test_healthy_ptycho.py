"""Thirteen healthy scans of many kinds: not one guard stops them or calls them suspect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.simulate.scan import Scan
from tests.gauntlet.ptycho_drive import Pieces, run_pieces
from tests.ptycho import scene

Recipe = dict[str, Any]
NEAR: Recipe = {"propagation": "near", "defocus_m": None, "distance_m": 0.2, "detector_pixel_m": 1e-6, "step_px": 5.0}


def pieces(count: int, how: str) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "whole": [np.arange(count)],
        "in order": np.array_split(np.arange(count), 4),
        "backwards": np.array_split(np.arange(count)[::-1], 3),
        "shuffled": np.array_split(rng.permutation(count), 5),
    }[how]


HEALTHY: dict[str, tuple[Recipe, str, bool, Recipe]] = {
    "warm": ({"seed": 11}, "whole", True, {}),
    "cold": ({"seed": 12}, "whole", False, {}),
    "cold, the other side of the focus": ({"seed": 13, "defocus_m": -1.5e-3}, "whole", False, {}),
    "raster, backwards": ({"seed": 14, "pattern": "raster"}, "backwards", True, {}),
    "spiral, shuffled": ({"seed": 15, "pattern": "spiral"}, "shuffled", True, {}),
    "low dose": ({"seed": 16, "photons": 2e3, "step_px": 2.0}, "in order", True, {}),
    "high dose": ({"seed": 17, "photons": 2e6}, "in order", True, {}),
    "two modes": ({"seed": 18, "modes": 2}, "in order", True, {"modes": 2}),
    "positions off": ({"seed": 19, "position_error_px": 0.7}, "shuffled", True, {"refine_positions": True}),
    "small frames": ({"seed": 20, "frame_px": 48}, "in order", True, {}),
    "near field": ({**NEAR, "seed": 21}, "in order", True, {}),
    "RAAR": ({"seed": 22}, "in order", True, {"solver": "raar"}),
    "conjugate gradients": ({"seed": 23}, "in order", True, {"solver": "ml"}),
}


SLOW = ("cold, the other side of the focus", "RAAR", "positions off")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in HEALTHY])
def test_a_healthy_scan_trips_nothing(name: str, tmp_path: Path) -> None:
    recipe, how, warm, more = HEALTHY[name]
    made: Scan = scene.scan(160, **recipe)
    probe = scene.start_probe(made, off=1.0) if warm else None
    chosen = scene.options(check_geometry=True, first_frames=40, probe=probe, **more)
    outcome, found = run_pieces(tmp_path / "run", Pieces(made, pieces(160, how)), chosen)
    assert outcome.exit_code == 0 and found == []
    assert outcome.verdict == "trusted"
