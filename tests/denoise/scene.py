"""Small pairs of micrographs with a known truth, as a source gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beamside.denoise.options import DenoiseOptions
from beamside.formats.mrc import write_stack

SIDE, PIXEL_A = 192, 2.0


def truth(seed: int, side: int = SIDE) -> NDArray[np.float32]:
    """Dark discs of radius 6 on a flat ground, about unit contrast."""
    rng = np.random.default_rng([seed, 0])
    y, x = np.mgrid[0:side, 0:side]
    image = np.zeros((side, side))
    for cy, cx in rng.uniform(0, side, (side * side // 900, 2)):
        image -= np.clip(6.5 - np.hypot(y - cy, x - cx), 0, 1)
    return image.astype(np.float32)


def halves(seed: int, side: int = SIDE, noise: float = 1.0) -> NDArray[np.float32]:
    """(2, side, side): the truth twice, each with white noise of its own, in counts round 100."""
    rng = np.random.default_rng([seed, 1])
    return (100 + 5 * (truth(seed, side) + noise * rng.standard_normal((2, side, side)))).astype(np.float32)


def write_pair(folder: Path, name: str, pair: NDArray[np.float32]) -> None:
    """NAME_EVN.mrc and NAME_ODD.mrc."""
    folder.mkdir(parents=True, exist_ok=True)
    for half, suffix in zip(pair, ("EVN", "ODD"), strict=True):
        write_stack(folder / f"{name}_{suffix}.mrc", half[None], PIXEL_A)


def write_session(folder: Path, count: int = 6, **kwargs: float) -> Path:
    """`count` pairs."""
    for number in range(count):
        write_pair(folder, f"mic{number:03d}", halves(number, **kwargs))  # type: ignore[arg-type]
    return folder


def options(**changed: object) -> DenoiseOptions:
    """Quick ones: a tiny network on small crops, one thread."""
    quick = {"network": "seed3", "steps": 60, "crop_px": 64, "batch": 4, "learning_rate": 1e-2, "warm_up_steps": 10}
    quick |= {"first_round_steps": 30, "round_growth": 1.0, "threads": 1}
    return DenoiseOptions(**{**quick, **changed})  # type: ignore[arg-type]
