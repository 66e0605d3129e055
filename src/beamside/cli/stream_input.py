"""What the user says about a live scan's streams: how position messages are read, and CurveZMQ keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from beamside.errors import OptionError

if TYPE_CHECKING:
    from beamside.sources.motors import MotorOptions
    from beamside.sources.sockets import CurveFiles

_MOTORS = ("motor_unit", "motor_y", "motor_x", "motor_samples")


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; all of them are for a tcp:// detector."""
    add = parser.add_argument_group("the streams of a live scan").add_argument
    add("--motor-unit", metavar="UNIT", help="of encoder values: m, mm, um, nm (um)")
    add("--motor-y", metavar="NAME", help="data set of y in an encoder box's messages (y)")
    add("--motor-x", metavar="NAME", help="data set of x (x)")
    add("--motor-samples", type=int, metavar="N", help="encoder samples that are averaged for each frame (1)")
    add("--curve-server", type=Path, metavar="FILE", help="CurveZMQ: certificate with the server's public key")
    add("--curve-secret", type=Path, metavar="FILE", help="CurveZMQ: the client's own *.key_secret")


def require_live(args: argparse.Namespace, *, live: bool) -> None:
    """Refuse arguments of streams for a scan in a file.

    Raises:
        OptionError: one was given.
    """
    given = [name for name in (*_MOTORS, "curve_server", "curve_secret") if getattr(args, name) is not None]
    if given and not live:
        option = given[0].replace("_", "-")
        raise OptionError(
            f"--{option} does nothing for a scan in a file.", remedy="Drop it, or name a tcp:// detector."
        )


def motor_options(args: argparse.Namespace) -> MotorOptions:
    """How position messages are read; what was not given keeps its default."""
    from beamside.sources.motors import MotorOptions

    names = dict(zip(_MOTORS, ("unit", "y_dataset", "x_dataset", "samples_per_frame"), strict=True))
    return MotorOptions(**{names[name]: value for name in _MOTORS if (value := getattr(args, name)) is not None})


def curve_files(args: argparse.Namespace) -> CurveFiles | None:
    """The certificates, or None for a stream that is not encrypted.

    Raises:
        OptionError: only one of the two was given.
    """
    if args.curve_server is None and args.curve_secret is None:
        return None
    if args.curve_server is None or args.curve_secret is None:
        raise OptionError("CurveZMQ needs both certificates.", remedy="Give --curve-server and --curve-secret.")
    from beamside.sources.sockets import CurveFiles

    return CurveFiles(args.curve_server, args.curve_secret)
