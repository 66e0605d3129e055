"""Which micrographs a command is about: files and folders as jobs, halves found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beamside.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUM_NAMES = ("", "_full", "_sum")
"""What a sum may be called beside its halves NAME_even and NAME_odd."""


@dataclass(frozen=True)
class Job:
    """One micrograph: a sum, or two halves to be added; and where it goes."""

    inputs: tuple[Path, ...]
    output: Path


def jobs_of(inputs: Sequence[Path], out: Path) -> tuple[list[Job], dict[Path, str]]:
    """What there is to do, and the halves that lie alone. Halves beside their sum are left to it; without it added.

    Raises:
        InputError: two micrographs of one name.
    """
    from beamside.sources import pairing
    from beamside.sources.settling import walk

    paths: dict[Path, Path] = {}
    for given in inputs:
        found = walk(given, pairing.IMAGE_SUFFIXES, lambda names: "run.json" in names) if given.is_dir() else [given]
        base = given if given.is_dir() else given.parent
        paths |= {path: base for path in found if not (_inside(out, base) and _inside(path, out))}
    jobs: dict[Path, Job] = {}
    alone: dict[Path, str] = {}
    for candidate in pairing.pair_up(paths):
        # A half that was named itself, without the other, is denoised as any image.
        first = candidate.first
        relative = first.relative_to(paths[first])
        name = pair_name(first) if candidate.second is not None else relative.stem
        if _sum_of(first) is not None and first not in inputs:
            continue
        if candidate.missing and first not in inputs:
            alone[first] = f"{first}: {candidate.missing} is missing. Give it, or name this file itself."
            continue
        output = out / relative.parent / f"{name}.mrc"
        if output in jobs:
            raise InputError(
                f"and {jobs[output].inputs[0]} would both become {output}.",
                where=str(first),
                remedy="Denoise them into two folders.",
            )
        jobs[output] = Job(candidate.files, output)
    return list(jobs.values()), alone


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def pair_name(half: Path) -> str:
    """NAME of NAME_even.mrc."""
    from beamside.sources.pairing import half_of

    named = half_of(half)
    return half.stem if named is None else Path(named[0]).stem


def _sum_of(half: Path) -> Path | None:
    """The sum that lies beside a half."""
    from beamside.sources.pairing import half_of

    if half_of(half) is None:
        return None
    beside = (half.with_name(f"{pair_name(half)}{ending}{half.suffix}") for ending in _SUM_NAMES)
    return next((path for path in beside if path.exists()), None)


def refuse_same_files(jobs: Sequence[Job]) -> None:
    """files.distinct: no output is an input, by whatever name.

    Raises:
        InputError: the same path, a symbolic or a hard link.
    """
    inputs = {}
    for job in jobs:
        for path in job.inputs:
            there = path.stat()
            inputs[there.st_dev, there.st_ino] = path
    for job in jobs:
        if job.output.exists():
            there = job.output.stat()
            same = inputs.get((there.st_dev, there.st_ino))
            if same is not None:
                raise InputError(
                    f"files.distinct: is the same file as {same}; writing it would destroy the input.",
                    where=str(job.output),
                    remedy="Give another folder for the denoised micrographs.",
                )


def read_image(path: Path) -> NDArray[np.float32]:
    """The one image of an MRC or TIFF file, (H, W) float32."""
    from beamside.sources.movies import read_frames

    return next(iter(read_frames(path)))


def refuse_movie(path: Path) -> None:
    """InputError for a file of several images."""
    from beamside.sources.movies import image_info

    info = image_info(path)
    if info.frames != 1:
        raise InputError(
            f"holds {info.frames} images of {info.width_px} x {info.height_px} px: it is a movie, stack or volume.",
            where=str(path),
            remedy="Denoise the sum of a movie, one image a file.",
        )
