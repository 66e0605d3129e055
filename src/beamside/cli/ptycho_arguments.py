"""The arguments of `beamside ptycho`: what to do, and what the scan's file or stream does not say."""

from __future__ import annotations

import argparse
from pathlib import Path

from beamside.cli.durations import duration_s
from beamside.cli.numbers import accept_exponents

Dc = str | tuple[int, int]


def _capacity(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of frames nor 'auto'") from None


def _smooth(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None


def _dc(text: str) -> Dc:
    if text in ("corner", "centre", "auto"):
        return text
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is none of corner, centre, auto, or ROW,COLUMN") from None
    return row, column


def _mapping(text: str) -> tuple[str, str]:
    name, found, place = text.partition("=")
    if not found or not name or not place:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, such as frames=/entry/frames")
    return name, place


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do."""
    accept_exponents(parser)
    add = parser.add_argument
    add(
        "scan",
        metavar="SCAN",
        help="a scan (CXI, PtyPy .ptyd, HXN or NeXus HDF5, .npz), tcp://HOST:PORT of a detector's stream, the URL of "
        "a run on a Tiled server, or the word check-geometry before a scan",
    )
    add("run_dir", metavar="RUN", type=Path, help="run directory to create (after check-geometry: the scan)")
    add(
        "--positions",
        metavar="tcp://HOST:PORT",
        help="where positions come from, for a live detector (needed with tcp)",
    )
    add("--positions-socket", choices=("sub", "pull"), default=None, help="how positions are subscribed to (sub)")
    solvers = ("auto", "epie", "rpie", "dm", "raar", "ml", "lsqml")
    add("--solver", choices=solvers, default="auto", help="auto: minibatch likelihood with momentum (auto)")
    add("--modes", type=int, default=None, metavar="M", help="incoherent probe modes (as the start probe, else 1)")
    add("--probe", type=Path, metavar="FILE|RUN", help="start probe: .npy (modes, N, N), CXI, or a run; else found")
    add("--defocus", type=float, metavar="M", help="defocus of a start without --probe, metres (found by a sweep)")
    add("--refine-positions", action="store_true", help="let the scan positions move")
    add("--watch", action="store_true", help="SCAN is a file that grows while the instrument writes it")
    add("--idle-close", type=duration_s, metavar="TIME", help="live: close after this long without frames (30s)")
    add("--iterations-after-close", type=int, default=30, metavar="N", help="closing iterations (30)")
    add("--max-iterations", type=int, metavar="N", help="safety cap on all iterations (none)")
    add("--publish-every", type=duration_s, default=10.0, metavar="TIME", help="longest time between snapshots (10s)")
    add("--first-frames", type=int, default=200, metavar="N", help="frames before the first iteration (200)")
    add("--capacity", type=_capacity, default=None, metavar="N", help="frames held in memory (auto: half of it)")
    add("--noise", choices=("auto", "poisson", "gaussian"), default="auto", help="noise of the counts (auto)")
    add("--smooth", type=_smooth, default=None, metavar="S", help="smoothness prior of the object, 0 for none (auto)")
    add("--probe-start", type=int, default=0, metavar="N", help="first iteration that updates the probe (0)")
    add("--amplitude-limit", type=float, metavar="A", help="largest amplitude of the object (none)")
    add("--phase-limit", type=float, metavar="RAD", help="largest phase of the object, either way (none)")
    add("--no-geometry-check", action="store_true", help="do not compare orientations on the first frames")
    add("--seed", type=int, default=0, metavar="N", help="seed of every random choice (0)")
    add("--device", default="auto", help="auto, cpu or cuda (auto)")
    add("--threads", type=int, default=None, metavar="N", help="processor threads (all available)")
    add("--quiet", action="store_true", help="print findings and the last line only")


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    """What the file or the stream does not say, or says wrongly."""
    add = parser.add_argument_group("the scan, where its file or stream is silent or wrong").add_argument
    add("--orientation", type=int, default=0, choices=range(8), help="how the detector is mounted (0)")
    add("--dc", type=_dc, metavar="PLACE", help="zero frequency in stored frames: corner, centre, auto, or ROW,COLUMN")
    add("--crop", type=int, metavar="PX", help="side of the square around the zero frequency that is used")
    add("--reverse-y", action="store_true", help="turn the scan's y axis round")
    add("--reverse-x", action="store_true", help="turn the scan's x axis round")
    add("--swap-axes", action="store_true", help="the stored y is x")
    add("--position-unit", type=float, metavar="M", help="metres in a stored unit of position")
    add("--energy", type=float, metavar="KEV", help="photon energy")
    add("--distance", type=float, metavar="M", help="sample to detector")
    add("--detector-pixel", type=float, metavar="M", help="pixel of the detector")
    add("--saturation", type=float, metavar="COUNTS", help="counts from which a pixel is unknown")
    for name in ("mask", "dark", "flat", "background"):
        add(f"--{name}", metavar="FILE", help=f"{name} of the detector, .npy of its shape")
    add("--propagation", choices=("far", "near"), default="far", help="far field or near field (far)")
    add("--source-distance", type=float, metavar="M", help="near field: from the focus to the sample")
    add(
        "--lost-frames",
        choices=("refuse", "leave-out"),
        default="refuse",
        help="a file in whose middle frames were never written: refuse it, or leave them out and go on (refuse)",
    )
    add(
        "--map",
        type=_mapping,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where a part of the scan (frames, positions, y, x, numbers, mask, ...) lies in an HDF5 or .npz file of "
        "unknown layout; may be repeated",
    )
