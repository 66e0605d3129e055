"""Simulated micrographs as files: at once, or one after the other as a session that grows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from beamside.errors import InputError
from beamside.formats.mrc import write_stack
from beamside.simulate.micrographs import Micrograph, Session


def truth_folder(out: Path) -> Path:
    """Where the truth of the micrographs in `out` lies."""
    return out.with_name(f"{out.name}_truth")


def movie_folder(out: Path) -> Path:
    """Where the movies of the micrographs in `out` lie."""
    return out.with_name(f"{out.name}_movies")


def write_micrographs(
    out: Path,
    session: Session,
    *,
    every_s: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Each micrograph as NAME_even.mrc, NAME_odd.mrc and NAME_full.mrc in `out`, whole when it appears.

    The truth goes beside `out`, before the micrograph: NAME_clean.mrc, NAME_signal.mrc, NAME_mask.mrc and NAME.json
    in `out`_truth, the recipe in `out`.json; movies as NAME.mrcs in `out`_movies. every_s: the least time between
    two micrographs; what is written does not depend on it.

    Raises:
        InputError: one of the folders exists and is not empty.
    """
    recipe = session.recipe
    folders = [out, truth_folder(out)] + ([movie_folder(out)] if recipe.frames else [])
    for folder in folders:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError("exists and is not empty.", where=str(folder), remedy="Give a folder that is not there.")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    out.with_name(f"{out.name}.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    begun = clock()
    for number in range(recipe.count):
        made = session.micrograph(number)
        if number and every_s > 0:
            sleep(max(0.0, begun + number * every_s - clock()))
        name = f"mic{number:04d}"
        _write_truth(truth_folder(out), name, made, recipe.pixel_size_A)
        if recipe.frames:
            write_stack(movie_folder(out) / f"{name}.mrcs", made.movie, recipe.pixel_size_A)
        for kind, image in (("even", made.even), ("odd", made.odd), ("full", made.full)):
            write_stack(out / f"{name}_{kind}.mrc", image[None], recipe.pixel_size_A)
        say(f"{name}: {len(made.facts['particles'])} particles, {number + 1} of {recipe.count}")


def _write_truth(folder: Path, name: str, made: Micrograph, pixel_size_A: float) -> None:
    for kind, image in (("clean", made.clean), ("signal", made.signal), ("mask", made.mask.astype(np.int8))):
        write_stack(folder / f"{name}_{kind}.mrc", image[None], pixel_size_A)
    (folder / f"{name}.json").write_text(json.dumps(made.facts, indent=1) + "\n")
