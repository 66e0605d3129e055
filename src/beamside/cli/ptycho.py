"""`beamside ptycho`: the complex object and the probe of a scan, from a file or live."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beamside.cli import process
from beamside.cli.ptycho_arguments import add_run_arguments, add_scan_arguments
from beamside.cli.stream_input import add_stream_arguments, curve_files, motor_options, require_live
from beamside.errors import InputError, OptionError

if TYPE_CHECKING:
    from beamside.ptycho.options import PtychoOptions, StartProbe
    from beamside.run.engine import Engine, Header, Snapshot
    from beamside.run.source import Record, Source
    from beamside.sources.scan_options import ScanOptions

HELP = "the complex object and the probe of a ptychographic scan, from a file or live"
CHECK = "check-geometry"
_SCHEME, _SERVERS = "tcp://", ("http://", "https://")
_POLL_S = 0.1


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    add_run_arguments(parser)
    add_scan_arguments(parser)
    add_stream_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Begin a run, or print the table of geometries.

    Raises:
        OptionError: options that contradict each other.
        InputError: the scan cannot be used.
    """
    process.prepare()
    scan_options = _scan_options(args)
    if args.scan == CHECK:
        from beamside.cli.ptycho_geometry import check

        scan, args.run_dir = args.run_dir, None
        return check(scan, scan_options, _options(args))
    live = args.scan.startswith(_SCHEME)
    remote = live or args.scan.startswith(_SERVERS)
    _require_consistent(args, live=live, remote=remote)
    from beamside.run import session, store
    from beamside.run.start import Fresh

    options = _options(args)
    inputs = [Path(name) for name in ([] if remote else [args.scan]) + ([args.probe] if args.probe else [])]
    curve = curve_files(args)
    values = options.to_json() | {
        "scan": args.scan if remote else str(Path(args.scan).resolve()),
        "positions": args.positions,
        "positions_socket": args.positions_socket or "sub",
        "motors": dataclasses.asdict(motor_options(args)),
        "curve": None if curve is None else [str(curve.server.resolve()), str(curve.client_secret.resolve())],
        "scan_options": scan_options.to_json(),
        "probe": None if args.probe is None else str(args.probe.resolve()),
        "watch": args.watch,
        "idle_close_s": (args.idle_close or 30.0) if live or args.watch else None,
        "publish_every_s": args.publish_every,
        "quiet": args.quiet,
    }
    files = [path for path in inputs if path.exists()]
    manifest = store.manifest("ptycho", values, seed=args.seed, inputs=files)
    with process.loading():
        from beamside.ptycho.engine import Ptychography

    with session.new_run(args.run_dir, manifest) as held:
        return _go(Fresh(Ptychography, options), held, values, None, args.run_dir)


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


def engine_of(values: Mapping[str, Any]) -> tuple[type[Engine], PtychoOptions]:
    """The engine and its options from what run.json holds."""
    process.prepare()
    with process.loading():
        from beamside.ptycho.engine import Ptychography
    from beamside.ptycho.options import PtychoOptions

    probe = None if values["probe"] is None else read_start_probe(Path(values["probe"]))
    return Ptychography, PtychoOptions.from_json(values, probe)


def _go(start: Any, held: Any, values: dict[str, Any], header: Header | None, run_dir: Path) -> int:
    from beamside.cli.progress import TerminalProgress
    from beamside.run import loop

    if _is_live(values):
        from beamside.ptycho.rehearsal import rehearse

        rehearse(start.options)
        source = _live_source(values, run_dir)
    else:
        source = source_of(values, header)
    reporter = TerminalProgress(quiet=values["quiet"], unit="frames")
    try:
        outcome = loop.run(
            start,
            source,
            held.ledger,
            held.store,
            exporter=export,
            pictures=write_pictures,
            reporter=reporter,
            idle_close_s=values["idle_close_s"],
            publish_every_s=values["publish_every_s"],
            poll_s=_POLL_S,
        )
    finally:
        reporter.close()
        close = getattr(source, "close", None)
        if close is not None:
            close()
    print(outcome.sentence)
    if outcome.exit_code == 0:
        print(f"Object and probe: {run_dir / 'result' / 'ptycho.png'}")
        if twin := _notes(outcome.snapshot).get("twin"):
            print(twin)
    return outcome.exit_code


def _notes(snapshot: Path | None) -> dict[str, Any]:
    import json

    return {} if snapshot is None else dict(json.loads((snapshot / "snapshot.json").read_bytes())["notes"])


def source_of(values: Mapping[str, Any], header: Header | None) -> Source:
    """The source of the items, from what run.json holds.

    Of a live run it is what the run has received: `values["run_dir"]` leads to the spool, and nothing is listened to.
    """
    from beamside.sources.scan_options import ScanOptions

    options = ScanOptions.from_json(values["scan_options"])
    if _is_live(values):
        from beamside.sources.spooled_scan import SpooledScan

        return SpooledScan(Path(values["run_dir"]) / "spool", options, header)
    if values["scan"].startswith(_SERVERS):
        from beamside.sources.tiled_scan import TiledScan

        return TiledScan(values["scan"], options, watch=values["watch"], header=header)
    from beamside.sources.scans import ScanFile

    return ScanFile(Path(values["scan"]), options, watch=values["watch"], header=header)


def _is_live(values: Mapping[str, Any]) -> bool:
    return str(values["scan"]).startswith(_SCHEME)


def _live_source(values: Mapping[str, Any], run_dir: Path) -> Source:
    from beamside.sources.live_scan import LiveScan
    from beamside.sources.motors import MotorOptions
    from beamside.sources.scan_options import ScanOptions
    from beamside.sources.sockets import CurveFiles

    curve = None if values["curve"] is None else CurveFiles(*(Path(name) for name in values["curve"]))
    return LiveScan(
        values["scan"],
        values["positions"],
        run_dir / "spool",
        ScanOptions.from_json(values["scan_options"]),
        MotorOptions(**values["motors"]),
        positions_socket=values["positions_socket"],
        curve=curve,
    )


def _require_consistent(args: argparse.Namespace, *, live: bool, remote: bool) -> None:
    require_live(args, live=live)
    if live and not args.positions:
        raise OptionError(
            "a detector's stream carries no positions.", remedy="Name their stream: --positions tcp://HOST:PORT."
        )
    if not live and (args.positions or args.positions_socket):
        raise OptionError("--positions and --positions-socket are for a tcp:// detector.", remedy="Drop them.")
    if live and args.watch:
        raise OptionError("--watch is for files; a stream is live by itself.", remedy="Drop --watch.")
    if args.idle_close is not None and not (live or args.watch):
        raise OptionError("--idle-close does nothing for a finished file.", remedy="Add --watch, or drop it.")
    for path in ([] if remote or args.watch else [Path(args.scan)]) + ([args.probe] if args.probe else []):
        if not path.exists():
            raise InputError("there is no such file or folder.", where=str(path), remedy="Check the spelling.")


def _options(args: argparse.Namespace) -> PtychoOptions:
    from beamside.ptycho.options import PtychoOptions

    return PtychoOptions(
        solver=args.solver,
        modes=args.modes,
        refine_positions=args.refine_positions,
        iterations_after_close=args.iterations_after_close,
        max_iterations=args.max_iterations,
        capacity=args.capacity,
        first_frames=args.first_frames,
        noise=args.noise,
        smooth=args.smooth,
        probe_start=args.probe_start,
        amplitude_limit=args.amplitude_limit,
        phase_limit_rad=args.phase_limit,
        defocus_m=args.defocus,
        check_geometry=not args.no_geometry_check,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
        probe=None if args.probe is None else read_start_probe(args.probe),
    )


def _scan_options(args: argparse.Namespace) -> ScanOptions:
    from beamside.sources.scan_options import ScanOptions

    return ScanOptions(
        orientation=args.orientation,
        dc=args.dc,
        crop_px=args.crop,
        y_sign=-1 if args.reverse_y else 1,
        x_sign=-1 if args.reverse_x else 1,
        swap_axes=args.swap_axes,
        position_unit_m=args.position_unit,
        energy_keV=args.energy,
        distance_m=args.distance,
        detector_pixel_m=args.detector_pixel,
        saturation=args.saturation,
        mask=args.mask,
        dark=args.dark,
        flat=args.flat,
        background=args.background,
        propagation=args.propagation,
        defocus_m=args.source_distance,
        lost_frames=args.lost_frames,
        mapping=dict(args.map),
    )


def read_start_probe(path: Path) -> StartProbe:
    """A probe from .npy, CXI, or an earlier run."""
    from beamside.ptycho.options import StartProbe
    from beamside.sources.probe_file import load_probe

    found = load_probe(path)
    return StartProbe(found.modes, str(path), found.pixel_m, found.wavelength_m)


def export(snapshot: Snapshot, records: Sequence[Record], folder: Path) -> None:
    """result/ in the forms that others open, with its picture."""
    from beamside.ptycho.export import write_result

    write_result(folder, snapshot, [record.key for record in records])


def write_pictures(snapshot: Snapshot, folder: Path) -> None:
    """The picture of a snapshot, under the verdict that lies beside it."""
    import json

    from beamside.ptycho.picture import write_picture

    judged = folder / "snapshot.json"
    write_picture(folder / "ptycho.png", snapshot, json.loads(judged.read_bytes()) if judged.exists() else {})
