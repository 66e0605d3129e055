"""`beamside classify`: 2D classes of cryo-EM particles, from a file or live from a folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.cli import process
from beamside.cli.durations import check_watching, duration_s
from beamside.errors import InputError

if TYPE_CHECKING:
    from beamside.classify.options import ClassifyOptions, References
    from beamside.run.engine import Engine, Header, Snapshot
    from beamside.run.source import Record, Source

HELP = "2D classes of cryo-EM particles, from a file or live from a folder"


def _count_or_auto(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor 'auto'") from None


def _sigma(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels nor 'auto'") from None


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    _of_the_input(parser)
    _of_the_classes(parser)
    _of_the_stream(parser)
    _of_the_images(parser)
    _of_the_search(parser)
    _of_the_run(parser)


def _of_the_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "particles",
        metavar="PARTICLES",
        type=Path,
        help="a particle STAR file (RELION 3.0 or 3.1), a folder of them, or a SIMPLE project (.simple)",
    )
    parser.add_argument(
        "run_dir", metavar="RUN", type=Path, help="run directory to create: progress, snapshots and result/ live there"
    )
    parser.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="stacks may lie in this folder too, outside of that of PARTICLES; may be repeated",
    )


def _of_the_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode", choices=("create", "update"), default="create", help="create classes, or keep those of --references"
    )
    parser.add_argument(
        "--references",
        metavar="FILE|RUN",
        type=Path,
        help="class averages for --mode update: .mrcs, model STAR, or a run",
    )
    parser.add_argument("--classes", type=int, default=50, metavar="K", help="number of classes to create (50)")


def _of_the_stream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="PARTICLES is a folder that grows: classify what arrives")
    parser.add_argument(
        "--idle-close",
        type=duration_s,
        default=None,
        metavar="TIME",
        help="with --watch: close after this long without particles (10m)",
    )
    parser.add_argument(
        "--settle",
        type=duration_s,
        default=None,
        metavar="TIME",
        help="with --watch: a file is complete once unchanged for this long (5s)",
    )
    parser.add_argument(
        "--batch-size",
        type=_count_or_auto,
        default=None,
        metavar="N",
        help="particles of each later round (auto: as the first)",
    )
    parser.add_argument(
        "--first-batch", type=int, default=5000, metavar="N", help="particles of the first round (5000)"
    )


def _of_the_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-resolution", type=float, default=8.0, metavar="A", help="finest resolution used, Angstrom (8)"
    )
    parser.add_argument(
        "--min-resolution",
        type=float,
        default=0.0,
        metavar="A",
        help="coarsest resolution used, Angstrom (0: no limit)",
    )
    mask = parser.add_mutually_exclusive_group()
    mask.add_argument(
        "--mask-diameter", type=float, metavar="A", help="soft circular mask, Angstrom (default: measured)"
    )
    mask.add_argument("--mask-sigma", type=_sigma, metavar="PX", help="Gaussian mask instead, pixels (auto: box/3)")
    parser.add_argument("--no-ctf", action="store_true", help="images carry no CTF, or it has been corrected")


def _of_the_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--iterations",
        type=_count_or_auto,
        default=None,
        metavar="N",
        help="passes of the first round and of the closing one (auto)",
    )
    parser.add_argument(
        "--start",
        choices=("auto", "volume", "classes"),
        default="auto",
        help="begin with one volume that all particles are views of, or with free classes (auto: the volume if it "
        "explains the particles better)",
    )
    parser.add_argument(
        "--variance",
        type=float,
        default=0.85,
        metavar="SHARE",
        help="variance kept when particles are compressed (0.85)",
    )
    parser.add_argument(
        "--training-particles", type=int, default=2000, metavar="N", help="particles that train the compression (2000)"
    )
    parser.add_argument("--mirror", action="store_true", help="let mirror images share a class")


def _of_the_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of every random choice (0)")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu or cuda")
    parser.add_argument("--threads", type=int, default=None, metavar="N", help="processor threads (all available)")
    parser.add_argument("--quiet", action="store_true", help="print findings and the last line only")


def run(args: argparse.Namespace) -> int:
    """Begin a run.

    Raises:
        OptionError: options that contradict each other.
        InputError: the particles cannot be used.
    """
    check_watching(args, settle_s=5.0)
    for path in (args.particles, args.references, *args.trust):
        if path is not None and not path.exists():
            raise InputError("there is no such file or folder.", where=str(path), remedy="Check the spelling.")
    if args.watch and not args.particles.is_dir():
        raise InputError("--watch needs a folder.", where=str(args.particles), remedy="Name the folder that grows.")
    process.prepare()
    from beamside.run import session, store
    from beamside.run.start import Fresh

    options = _options(args)
    inputs = [args.particles] + ([] if args.references is None else reference_files(args.references))
    values = options.to_json() | {
        "particles": str(args.particles.resolve()),
        "references": None if args.references is None else str(args.references.resolve()),
        "trust": [str(path.resolve()) for path in args.trust],
        "watch": args.watch,
        "idle_close_s": (args.idle_close or 600.0) if args.watch else None,
        "settle_s": args.settle or 5.0,
        "quiet": args.quiet,
    }
    manifest = store.manifest("classify", values, seed=args.seed, inputs=inputs)
    from beamside.classify.engine import Classifier

    with session.new_run(args.run_dir, manifest) as held:
        return _go(Fresh(Classifier, options), held, values, None, args.run_dir)


def resume(run_dir: Path) -> int:
    """Go on with a run that this verb began."""
    from beamside.run import session
    from beamside.run.origin import readable
    from beamside.run.start import Resume

    with session.existing_run(run_dir) as held:
        values = held.store.manifest["options"]
        with readable(held.store.manifest, run_dir):
            start = Resume(*engine_of(values))
        return _go(start, held, values, held.ledger.header(), run_dir)


def engine_of(values: Mapping[str, Any]) -> tuple[type[Engine], ClassifyOptions]:
    """The engine and its options from what run.json holds."""
    process.prepare()
    from beamside.classify.engine import Classifier
    from beamside.classify.options import ClassifyOptions

    references = None if values["references"] is None else read_references(Path(values["references"]))
    return Classifier, ClassifyOptions.from_json(values, references)


def _go(start: Any, held: Any, values: dict[str, Any], header: Header | None, run_dir: Path) -> int:
    from beamside.cli.progress import TerminalProgress
    from beamside.run import loop

    source = source_of(values, header)
    reporter = TerminalProgress(quiet=values["quiet"], unit="particles")
    try:
        outcome = loop.run(
            start,
            source,
            held.ledger,
            held.store,
            exporter=Exporter(Path(values["particles"])),
            pictures=write_pictures,
            reporter=reporter,
            idle_close_s=values["idle_close_s"],
        )
    finally:
        reporter.close()
    print(outcome.sentence)
    if outcome.exit_code == 0:
        print(f"Class averages: {run_dir / 'result' / 'gallery.png'}")
    return outcome.exit_code


def source_of(values: Mapping[str, Any], header: Header | None) -> Source:
    """The source of the items, from what run.json holds."""
    from beamside.sources.particles import ParticleFile, ParticleFolder

    path = Path(values["particles"])
    trusted = [Path(folder) for folder in values.get("trust", ["/"])]  # a run of before the option read from anywhere
    if path.is_dir():
        return ParticleFolder(path, watch=values["watch"], settle_s=values["settle_s"], header=header, trusted=trusted)
    return ParticleFile(path, header=header, trusted=trusted)


def _options(args: argparse.Namespace) -> ClassifyOptions:
    from beamside.classify.options import ClassifyOptions

    references = None if args.references is None else read_references(args.references)
    return ClassifyOptions(
        mode=args.mode,
        classes=args.classes,
        first_batch=args.first_batch,
        batch_size=args.batch_size,
        max_resolution_A=args.max_resolution,
        min_resolution_A=args.min_resolution,
        mask_diameter_A=args.mask_diameter,
        mask_sigma_px=args.mask_sigma,
        ctf=not args.no_ctf,
        iterations=args.iterations,
        start=args.start,
        variance=args.variance,
        training_particles=args.training_particles,
        mirror=args.mirror,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
        references=references,
    )


def read_references(path: Path) -> References:
    """Class averages from a stack, a STAR model, or the result of a run."""
    from beamside.classify.options import References
    from beamside.formats import relion

    found = relion.read_references(_model_of(path) if path.is_dir() else path)
    return References(found.images, found.pixel_size_A, tuple(int(n) for n in found.numbers))


def reference_files(path: Path) -> list[Path]:
    """Every file that references are read from, for run.json to record with its checksum."""
    from beamside.formats import relion

    return list(relion.read_references(_model_of(path) if path.is_dir() else path).files)


def _model_of(run_dir: Path) -> Path:
    models = sorted((run_dir / "result").glob("run_it*_model.star"))
    if not models:
        raise InputError("holds no result/run_it*_model.star.", where=str(run_dir), remedy="Let that run finish first.")
    return models[-1]


class Exporter:
    """Writes result/ in RELION's form, with the gallery."""

    def __init__(self, particles: Path) -> None:
        self._root = particles if particles.is_dir() else particles.parent

    def __call__(self, snapshot: Snapshot, records: Sequence[Record], folder: Path) -> None:
        """Into `folder`, which is renamed into place afterwards."""
        from beamside.classify.export import write_result
        from beamside.sources.particle_export import particle_tables

        notes = snapshot.notes
        tables = particle_tables(records, root=self._root, box_px=notes["box_px"], pixel_size_A=notes["pixel_size_A"])
        write_result(folder, snapshot, *tables)
        write_pictures(snapshot, folder)


def write_pictures(snapshot: Snapshot, folder: Path) -> None:
    """The gallery of a snapshot or a result, under the verdict that lies beside it."""
    from beamside.classify.picture import write_gallery

    judged = next(folder / name for name in ("verdict.json", "snapshot.json") if (folder / name).exists())
    write_gallery(folder / "gallery.png", snapshot, json.loads(judged.read_bytes()))
