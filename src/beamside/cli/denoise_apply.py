"""`beamside denoise apply`: micrographs through a model, from files or as they arrive."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.cli.denoise_jobs import Job, jobs_of, read_image, refuse_movie, refuse_same_files
from beamside.cli.durations import check_watching, duration_s
from beamside.compute.device import chosen
from beamside.errors import FormatError, InputError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from beamside.denoise.normalise import Scale
    from beamside.sources.settling import Signature

SETTLE_S = 3.0
_REFUSED = 2
Line = Callable[[str, int, int], None]
"""Told the name of a micrograph, the tiles that are done, and how many there are."""


def configure(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action with its options."""
    parser = actions.add_parser(
        "apply",
        help="denoise micrographs (MRC or TIFF sums, or half sums), at once or as they arrive",
        description="Denoise micrographs. Each becomes an MRC file of the same name in OUT, in the same units.",
    )
    add = parser.add_argument
    add("micrographs", nargs="+", type=Path, metavar="MICROGRAPHS", help="files, or folders of them")
    add("out", type=Path, metavar="OUT", help="folder for the denoised micrographs")
    add("--model", required=True, metavar="RUN|FILE|prior", help="a training run, a model file, or the one built in")
    add("--watch", action="store_true", help="go on with what arrives; what OUT holds already is left alone")
    add("--idle-close", type=duration_s, metavar="TIME", help="with --watch: end after this long without any (10m)")
    add("--settle", type=duration_s, metavar="TIME", help="with --watch: complete once unchanged for this long (3s)")
    add("--tile", type=int, metavar="PX", help="side of a tile; changes memory, not the result (what memory allows)")
    add("--keep-ice", action="store_true", help="keep fine detail also where it is everywhere alike, as in ice")
    add("--threads", type=int, metavar="N", help="processor threads (all available)")
    add("--device", default="auto", help="auto, cpu or cuda")


def run(args: argparse.Namespace) -> int:
    """Denoise; 0, or 2 when a micrograph had to be set aside.

    Raises:
        OptionError: options that contradict each other.
        InputError: an input is absent, files.distinct, or nothing to denoise.
    """
    check_watching(args, settle_s=SETTLE_S)
    for path in args.micrographs:
        if not path.exists():
            raise InputError("there is no such file or folder.", where=str(path), remedy="Check the spelling.")
    if args.out.exists() and not args.out.is_dir():
        raise InputError("is a file.", where=str(args.out), remedy="Give a folder for the denoised micrographs.")
    # Idle OpenMP threads that spin take the processor from others; this must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    worker = Worker(args)
    if args.watch:
        from beamside.cli.denoise_watch import Watch

        return Watch(args, worker).run()
    jobs, alone = jobs_of(args.micrographs, args.out)
    refuse_same_files(jobs)
    if len(jobs) == 1:
        worker.check(jobs[0])
    if not worker.model.refresh():
        raise InputError("has published no model yet.", where=args.model, remedy="Wait for one, or give --watch.")
    worker.set_aside |= alone
    return worker.all(jobs)


def use_threads(threads: int | None) -> None:
    """Give torch what --threads says, by default every processor that this process may use."""
    import torch

    from beamside.compute.lanes import available_threads

    if threads is not None and threads < 1:
        raise OptionError("--threads must be at least 1.", remedy="Leave it out for all processors.")
    torch.set_num_threads(available_threads(threads))


class Model:
    """The network that --model names; of a run, always the newest that it has published.

    awaited: the run may begin later, beside this process; its folder's folder must be there.
    """

    def __init__(self, named: str, device: str = "cpu", *, awaited: bool = False) -> None:
        from beamside.denoise.prior import PRIOR

        self._device = device
        self._path = PRIOR if named == "prior" else Path(named)
        self._awaited = awaited and not self._path.suffix and self._path.resolve().parent.is_dir()
        if not self._path.exists() and not self._awaited:
            raise InputError("there is no such model or run.", where=named, remedy="Name a run, a file, or 'prior'.")
        self._read: tuple[Path, Signature | None] | None = None
        self.network: Any = None
        self.card: Any = None

    def refresh(self) -> bool:
        """Read the model unless it is read already; False while a run has published none."""
        from beamside.denoise.export import find_model, read_model
        from beamside.denoise.model_file import require_same_answer
        from beamside.sources.settling import signature

        try:
            found = find_model(self._path)
        except InputError:
            if not (self._awaited or (self._path / "run.json").exists()):
                raise
            return False
        state = found, signature(found)
        if state != self._read:
            self.network, self.card = read_model(found)
            require_same_answer(self.network, self._device)
            self._read = state
        return True

    def own_units(self, scale: Scale) -> Scale:
        """The scale in the units of imported weights, which are not those of our own networks."""
        from beamside.denoise.ancestor import in_own_units

        return in_own_units(scale, self.card.provenance.get("input_units", (1.0, 0.0)))


class Worker:
    """Denoises jobs one after the other and says how far it is.

    set_aside: output -> why it was not written.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        use_threads(args.threads)
        self.device = chosen(args.device)
        self.tile_px, self.keep_ice = args.tile, args.keep_ice
        self.model = Model(args.model, self.device, awaited=args.watch)
        self.set_aside: dict[Path, str] = {}
        self.done = 0
        self._warned: set[str] = set()

    def check(self, job: Job) -> None:
        """Raises FormatError or InputError for what cannot be denoised."""
        for path in job.inputs:
            refuse_movie(path)

    def all(self, jobs: Sequence[Job]) -> int:
        """Every job; the exit status."""
        if not jobs:
            raise InputError("hold no micrographs.", where="MICROGRAPHS", remedy="Give MRC or TIFF images.")
        begun = time.monotonic()
        for number, job in enumerate(jobs):
            self.one(job, MovingLine(number, len(jobs), begun))
        return self.summary()

    def summary(self) -> int:
        """Print the last line; 2 when something was set aside."""
        for text in self.set_aside.values():
            print(f"beamside: {text}", file=sys.stderr)
        print(f"{self.done} micrographs denoised, {len(self.set_aside)} set aside")
        return _REFUSED if self.set_aside else 0

    def one(self, job: Job, line: Line) -> None:
        """One micrograph; what cannot be read is set aside."""
        try:
            result = self.make(job, line)
        except (FormatError, InputError) as error:
            self.set_aside[job.output] = error.paragraph()
            return
        self.keep(job, result)

    def make(self, job: Job, line: Line) -> NDArray[np.float32]:
        """The denoised micrograph, not yet written.

        Raises:
            FormatError: a file that is damaged or not complete.
            InputError: what cannot be denoised.
        """
        self.check(job)
        image, scale = self._read(job)
        self._warn_pixel_size(job.inputs[0])
        from beamside.denoise.ice import remove_ice
        from beamside.denoise.tiling import denoise
        from beamside.sources.movies import image_info

        result = denoise(
            self.model.network,
            image,
            scale=scale,
            tile_px=self.tile_px,
            device=self.device,
            on_tile=lambda done, count: line(job.inputs[0].name, done, count),
        )
        del image
        if not self.keep_ice:
            remove_ice(result, image_info(job.inputs[0]).pixel_size_A)
        return result

    def keep(self, job: Job, result: NDArray[np.float32]) -> None:
        """Write what `make` gave."""
        self.set_aside.pop(job.output, None)
        job.output.parent.mkdir(parents=True, exist_ok=True)
        _write(job.output, result, job.inputs[0])
        self.done += 1

    def _read(self, job: Job) -> tuple[NDArray[np.float32], Scale]:
        """The sum and its scale; pixels that are not finite are named."""
        import numpy as np

        from beamside.denoise.tiling import halves_scale, sum_scale

        images = [read_image(path) for path in job.inputs]
        where, pairs = str(job.inputs[0]), self.model.card.pairs
        if len({image.shape for image in images}) > 1:
            raise InputError(
                f"pairs.match: is {images[0].shape[1]} x {images[0].shape[0]} px, {job.inputs[1].name} "
                f"{images[1].shape[1]} x {images[1].shape[0]}.",
                where=where,
                remedy="Export this pair again.",
            )
        image = images[0] if len(images) == 1 else images[0] + images[1]
        by_halves = len(images) == 2 and pairs != "single"
        scale = halves_scale(*images, where=where) if by_halves else sum_scale(image, pairs, where=where)
        scale = self.model.own_units(scale)
        missing = image.size - int(np.count_nonzero(np.isfinite(image)))
        if missing:
            print(
                f"beamside: input.finite: {where}: {missing} pixels are not finite; they count as the mean.",
                file=sys.stderr,
            )
        return image, scale

    def _warn_pixel_size(self, path: Path) -> None:
        """Say once when a model was trained at a magnification far from this one."""
        from beamside.sources.movies import image_info

        trained_A, here_A = self.model.card.pixel_size_A, image_info(path).pixel_size_A
        if not trained_A or not here_A or 0.8 < here_A / trained_A < 1.25:
            return
        text = f"beamside: the model was trained at {trained_A:g} A a pixel; {path.name} has {here_A:g} A."
        if text not in self._warned:
            self._warned.add(text)
            print(f"{text} Its result may be worse than it could be.", file=sys.stderr)


class MovingLine:
    """How far the work is, on one moving line of a terminal, or a line for each micrograph in a log."""

    def __init__(self, number: int, count: int, begun: float) -> None:
        self.number, self.count, self.begun = number, count, begun

    def __call__(self, name: str, done: int, tiles: int) -> None:
        """So many tiles of this micrograph are done."""
        share = (self.number + done / tiles) / self.count
        left = round((time.monotonic() - self.begun) * (1 - share) / share)
        text = f"{self.number + 1} of {self.count}  {name}  {100 * share:.0f} %, ETA {left // 60}:{left % 60:02d}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="\n" if share == 1 else "", file=sys.stderr, flush=True)
        elif done == tiles:
            print(text, file=sys.stderr, flush=True)


def _write(output: Path, image: NDArray[np.float32], source: Path) -> None:
    """With the header of an MRC source, or with the pixel size of a TIFF."""
    from beamside.formats.mrc import write_stack
    from beamside.formats.mrc_like import write_like
    from beamside.sources.movies import image_info

    if source.suffix in (".mrc", ".mrcs"):
        write_like(output, image, source, "beamside denoise")
    else:
        write_stack(output, image[None], image_info(source).pixel_size_A)
