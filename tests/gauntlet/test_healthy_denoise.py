"""Healthy trainings trip no guard: halves, movies, patches, sums alone, few and late micrographs, gold and carbon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamside.formats.mrc import write_stack
from beamside.simulate.micrograph_files import movie_folder, write_micrographs
from beamside.simulate.micrographs import Recipe, Session
from tests.denoise.scene import PIXEL_A, halves, truth, write_pair, write_session
from tests.gauntlet.denoise_drive import train
from tests.gauntlet.drive import verdict

Put = Callable[[Path], Path]


def pairs(count: int, **kwargs: float) -> Put:
    """Halves of discs."""
    return lambda folder: write_session(folder, count, **kwargs)


def unequal(folder: Path) -> Path:
    """Micrographs of several sizes."""
    for number, side in enumerate((192, 256, 224, 192)):
        write_pair(folder, f"mic{number}", halves(number, side))
    return folder


def patches(folder: Path) -> Path:
    """Headerless patches, one file of inputs and one of targets."""
    folder.mkdir()
    cut = [
        np.concatenate(np.split(halves(n)[:, :192, :192].reshape(2, 3, 64, 192), 3, axis=3), axis=1) for n in range(8)
    ]
    every = np.concatenate(cut, axis=1).reshape(2, -1, 64, 64).astype("<f4")
    for half, name in zip(every, ("input", "target"), strict=True):
        half.tofile(folder / f"p_{name}.bin")
    return folder


def movies(folder: Path) -> Path:
    """Frames of eight counts a pixel."""
    folder.mkdir()
    for number in range(4):
        mean = 8 * (1 + 0.3 * truth(number))
        frames = np.random.default_rng(number).poisson(np.clip(mean, 0.1, None), (8, *mean.shape)).astype(np.uint16)
        write_stack(folder / f"movie{number}.mrcs", frames, PIXEL_A)
    return folder


def sums(folder: Path) -> Path:
    """One image a micrograph; with more noise a blind spot gains nothing over a blur in so few steps."""
    folder.mkdir()
    for number in range(4):
        write_stack(folder / f"sum{number}.mrc", halves(number, noise=0.3)[:1], PIXEL_A)
    return folder


def simulated(**recipe: Any) -> Put:
    """Molecules in ice under a CTF."""

    def put(folder: Path) -> Path:
        standard = {"size_px": 192, "pixel_size_A": 5.0, "count": 4, "contrast": 1.2}
        write_micrographs(folder, Session(Recipe(**{**standard, **recipe})))
        return movie_folder(folder) if recipe.get("frames") else folder

    return put


@dataclass(frozen=True)
class Healthy:
    """What is put into the folder, and what is asked for."""

    put: Put
    options: tuple[object, ...] = ()


RUNS = {
    "halves": Healthy(pairs(6)),
    "little noise": Healthy(pairs(4, noise=0.3)),
    "much noise": Healthy(pairs(6, noise=2.0), ("--steps", "300")),
    "one micrograph": Healthy(pairs(1, side=320)),
    "several sizes": Healthy(unequal),
    "movies": Healthy(movies),
    "patches": Healthy(patches, ("--patch-size", "64")),
    "sums alone": Healthy(sums, ("--pairs", "single", "--steps", "300")),
    "molecules in ice": Healthy(simulated()),
    "gold and carbon": Healthy(simulated(gold=2, carbon=True, seed=4)),
}


DEFAULT = ("movies", "sums alone", "molecules in ice", "gold and carbon")
"""The others under `slow`."""


@pytest.mark.parametrize(
    "name", [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_nothing_stops_and_nothing_is_suspect(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = RUNS[name]
    ran = train(capsys, healthy.put(tmp_path / "in"), tmp_path / "run", *healthy.options)
    assert ran.status == 0, ran.said
    assert [found for found in ran.findings if found[1] != "note"] == []
    assert verdict(ran.folder) == "trusted"


@pytest.mark.parametrize("order", [pytest.param((0, 1, 2, 3, 4), marks=pytest.mark.slow), (4, 3, 0, 2, 1)])
def test_micrographs_that_come_while_it_trains(
    order: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write_pair(folder, f"mic{order[0]}", halves(order[0]))

    def microscope() -> None:
        for number in order[1:]:
            time.sleep(0.3)
            write_pair(folder, f"mic{number}", halves(number))

    writer = threading.Thread(target=microscope)
    writer.start()
    ran = train(capsys, folder, tmp_path / "run", "--watch", "--settle", "0.3s", "--idle-close", "2s", "--steps", None)
    writer.join()
    assert ran.status == 0, ran.said
    assert [found for found in ran.findings if found[1] != "note"] == []
    assert verdict(ran.folder) == "trusted"
