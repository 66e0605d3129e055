"""`beamside denoise`: train a denoiser on pairs as they arrive; apply, evaluate, import and export models."""

from __future__ import annotations

import argparse
import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.cli import process
from beamside.cli.durations import check_watching, duration_s
from beamside.errors import InputError, OptionError

if TYPE_CHECKING:
    from beamside.denoise.options import DenoiseOptions
    from beamside.run.engine import Engine, Header, Snapshot
    from beamside.run.source import Record, Source

HELP = "train a denoiser on the halves as they arrive; apply, evaluate, import, export"
NETWORKS = ("fast", "quality", "seed3", "deep12")
PAIRS = ("auto", "halves", "frames", "single")
_ELSEWHERE = {
    "apply": "denoise_apply",
    "evaluate": "denoise_evaluate",
    "import-weights": "denoise_weights",
    "export": "denoise_weights",
}
"""Sub-verb -> the module of this package that does it."""
_DEFAULT_MINUTES = 20.0
_IDLE_CLOSE_S = 600.0
_UNITS = {"kb": 2**10, "mb": 2**20, "gb": 2**30}


def memory_bytes(text: str) -> int:
    """ "256MB", "1GB"; argparse's error otherwise."""
    unit = _UNITS.get(text[-2:].lower())
    try:
        if unit is None:
            raise ValueError
        return round(float(text[:-2]) * unit)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; write 256MB or 1GB") from None


def _minutes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of minutes")
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb and its sub-verbs."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_train(actions.add_parser("train", help="learn from pairs with independent noise"))
    for name in sorted(set(_ELSEWHERE.values())):
        importlib.import_module(f"beamside.cli.{name}").configure(actions)


def _configure_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "inputs",
        metavar="INPUTS",
        type=Path,
        nargs="+",
        help="folders or files: halves (NAME_EVN.mrc, NAME_ODD.mrc), movies, patches, a STAR or CSV list of pairs",
    )
    add(
        "run_dir",
        metavar="RUN",
        type=Path,
        help="run directory to create: progress, snapshots, result/model.safetensors",
    )
    add("--pairs", choices=PAIRS, default="auto", help="what makes a pair: given halves, or a movie's frames (auto)")
    add("--gain", metavar="FILE", type=Path, default=None, help="gain reference of the movies")
    add("--patch-size", metavar="PX", type=int, default=64, help="side of headerless patches (64)")
    add("--network", choices=NETWORKS, default="fast", help="fast (default), quality, or the ancestors' layers")
    add("--watch", action="store_true", help="the folders grow: train on what arrives")
    add(
        "--settle",
        type=duration_s,
        default=None,
        metavar="TIME",
        help="with --watch: unchanged that long is complete (5s)",
    )
    add(
        "--idle-close",
        type=duration_s,
        default=None,
        metavar="TIME",
        help="with --watch: close after this long without micrographs (10m)",
    )
    add(
        "--max-minutes",
        type=_minutes,
        default=None,
        metavar="N",
        help="end after about this long (20; with --watch: when the session ends)",
    )
    add("--steps", type=int, default=None, metavar="N", help="train for exactly N optimiser steps instead")
    add(
        "--memory",
        type=memory_bytes,
        default=256 * 2**20,
        metavar="SIZE",
        help="for pixels, beside the network (256MB)",
    )
    add(
        "--init",
        default=None,
        metavar="MODEL|prior|none",
        help="begin with a model of this network, or quality with one of fast (prior, for these two)",
    )
    add("--learning-rate", type=float, default=None, metavar="R", help="of AdamW after warm-up (set by --init)")
    add("--crop", type=int, default=128, metavar="PX", help="side of training crops (128)")
    add("--batch", type=int, default=8, metavar="N", help="crops of an optimiser step (8)")
    add("--detail", type=float, default=4.0, metavar="W", help="weight of detail under 16 px in the loss; 0: plain (4)")
    add("--seed", type=int, default=0, metavar="N", help="seed of every random choice (0)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, default=None, metavar="N", help="processor threads (all available)")
    add("--quiet", action="store_true", help="print findings and the last line only")


def run(args: argparse.Namespace) -> int:
    """Do what the sub-verb says."""
    if args.action != "train":
        module = importlib.import_module(f"beamside.cli.{_ELSEWHERE[args.action]}")
        status: int = module.run(args)
        return status
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    """Begin a run.

    Raises:
        OptionError: options that contradict each other.
        InputError: the micrographs cannot be used.
    """
    check_watching(args, settle_s=5.0)
    if args.steps is not None and args.max_minutes is not None:
        raise OptionError("--steps and --max-minutes exclude each other.", remedy="Give one of them.")
    if args.watch and not any(path.is_dir() for path in args.inputs):
        raise InputError("--watch needs a folder.", where=str(args.inputs[0]), remedy="Name the folder that grows.")
    if args.gain is not None and not args.gain.is_file():
        raise InputError("there is no such file.", where=str(args.gain), remedy="Check the spelling.")
    with _checked():
        return _begin(args)


def _begin(args: argparse.Namespace) -> int:
    from beamside.denoise.engine import Denoiser
    from beamside.run import session, store
    from beamside.run.start import Fresh

    initial = first_model(args.init, args.network)
    options = _options(args, initial)
    minutes = args.max_minutes
    if minutes is None and args.steps is None and not args.watch:
        minutes = _DEFAULT_MINUTES
    values = options.to_json() | {
        "inputs": [str(path.resolve()) for path in args.inputs],
        "pairs": args.pairs,
        "gain": None if args.gain is None else str(args.gain.resolve()),
        "patch_px": args.patch_size,
        "watch": args.watch,
        "settle_s": args.settle or 5.0,
        "idle_close_s": (args.idle_close or _IDLE_CLOSE_S) if args.watch else None,
        "max_minutes": minutes,
        "init": None if initial is None else str(initial.resolve()),
        "quiet": args.quiet,
    }
    described = [*args.inputs, *(path for path in (args.gain, initial) if path is not None)]
    manifest = store.manifest("denoise", values, seed=args.seed, inputs=described)
    with session.new_run(args.run_dir, manifest) as held:
        return _go(Fresh(Denoiser, options), held, values, None, args.run_dir, 0.0)


def resume(run_dir: Path) -> int:
    """Go on with a run that `denoise train` began."""
    from beamside.run import session
    from beamside.run.origin import readable
    from beamside.run.start import Resume

    with _checked(), session.existing_run(run_dir) as held:
        values = held.store.manifest["options"]
        with readable(held.store.manifest, run_dir):
            start = Resume(*engine_of(values))
        return _go(start, held, values, held.ledger.header(), run_dir, _used_s(held))


@contextmanager
def _checked() -> Iterator[None]:
    """With a process at hand that will read the models to come and knows nothing of the run."""
    # numpy's own threads, of which there is no use here, would forbid to fork one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    process.prepare()
    from beamside.denoise import witness

    with witness.kept():
        yield


def engine_of(values: Mapping[str, Any]) -> tuple[type[Engine], DenoiseOptions]:
    """The engine and its options from what run.json holds.

    InputError when the model that the run began with is gone, FormatError when it is damaged.
    """
    process.prepare()
    from beamside.denoise.engine import Denoiser
    from beamside.denoise.options import DenoiseOptions

    initial = first_model(values["init"] or "none", values["network"])
    return Denoiser, DenoiseOptions.from_json(values, None if initial is None else initial.read_bytes())


def _go(start: Any, held: Any, values: dict[str, Any], header: Header | None, run_dir: Path, used_s: float) -> int:
    from beamside.cli.progress import TerminalProgress
    from beamside.cli.timed_source import TimedSource
    from beamside.denoise.export import MODEL, write_models
    from beamside.denoise.training import COOL_SHARE
    from beamside.run import loop

    source, share = source_of(values, header), None
    if values["max_minutes"] is not None:
        source = timed = TimedSource(source, values["max_minutes"] * 60, 1 - COOL_SHARE, used_s)
        share = timed.share
    reporter = TerminalProgress(quiet=values["quiet"], unit="micrographs", share=share)
    try:
        outcome = loop.run(
            start,
            source,
            held.ledger,
            held.store,
            exporter=_export,
            pictures=write_models,
            reporter=reporter,
            idle_close_s=values["idle_close_s"],
        )
    finally:
        reporter.close()
    print(outcome.sentence)
    model = run_dir / "result" / MODEL
    if outcome.exit_code == 0:
        print(f"Model: {model}" if model.is_file() else "No model has passed the gate; see the findings above.")
    return outcome.exit_code


def _export(snapshot: Snapshot, records: Sequence[Record], folder: Path) -> None:
    from beamside.denoise.export import write_models

    write_models(snapshot, folder)


def source_of(values: Mapping[str, Any], header: Header | None) -> Source:
    """The source of the items, from what run.json holds."""
    from beamside.sources.micrographs import MicrographSource

    return MicrographSource(
        [Path(path) for path in values["inputs"]],
        pairs=values["pairs"],
        watch=values["watch"],
        gain=None if values["gain"] is None else Path(values["gain"]),
        patch_px=values["patch_px"],
        settle_s=values["settle_s"],
        header=header,
    )


def _used_s(held: Any) -> float:
    """How long the run has been at work; without end where its source has closed, so that work alone is left."""
    from beamside.cli.timed_source import worked_s

    events = held.ledger.events()
    if any(event.kind == "closed" for event in events):
        return math.inf
    return worked_s(events, [path.stat().st_mtime for path in held.store.checkpoints.glob("*")])


def first_model(named: str | None, network: str) -> Path | None:
    """The model that --init names; by default the shipped prior, where this network can begin with it.

    It is read here, so that what is wrong with it is said of this file, and before there is a run directory.

    Raises:
        InputError: the model is absent, or the prior is of no use to this network.
        FormatError: the file is damaged or no model.
        OptionError: it is a model of a network that this one cannot begin as.
    """
    from beamside.denoise.export import find_model, read_model
    from beamside.denoise.prior import PRIOR
    from beamside.denoise.widen import can_begin

    if named == "none":
        return None
    shipped = named in (None, "prior")
    path = PRIOR if shipped else find_model(Path(str(named)))
    given = read_model(path)[0]
    if can_begin(given, network):
        return path
    if named is None:
        return None
    if shipped:
        raise InputError(
            f"no prior of the network {network} ships with this version.",
            where="--init prior",
            remedy="Give --init none, or another network.",
        )
    raise OptionError(
        f"--init {path} is a model of the network {given.name}, but {network} is to be trained.",
        remedy=f"Give --network {given.name}, or another model.",
    )


def _options(args: argparse.Namespace, initial: Path | None) -> DenoiseOptions:
    from beamside.denoise.options import DenoiseOptions, default_rate

    rate = args.learning_rate
    return DenoiseOptions(
        network=args.network,
        steps=args.steps,
        memory_bytes=args.memory,
        crop_px=args.crop,
        batch=args.batch,
        detail=args.detail,
        learning_rate=default_rate(args.network, warm=initial is not None) if rate is None else rate,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
        initial=None if initial is None else initial.read_bytes(),
    )
