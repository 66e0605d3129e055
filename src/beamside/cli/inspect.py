"""`beamside inspect`: a particle set or a run, before anyone builds on it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "what is odd about a particle set or a run, and what a new run would make of it"


def configure(parser: argparse.ArgumentParser) -> None:
    """The file or run, and the form of the answer."""
    parser.add_argument("path", metavar="FILE", type=Path, help=".star (3.0, 3.1), .cs, .simple, or a run directory")
    parser.add_argument("--json", action="store_true", help="for programs: the same as JSON")
    parser.add_argument("--images", action="store_true", help="look at the pixels of every image, not of a sample")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 when something would stop a run.

    Raises:
        BeamsideError: the file cannot be read at all.
    """
    from beamside.doctor.inspect import inspect, table
    from beamside.run.encode import public_json

    found = inspect(args.path, all_images=args.images)
    print(json.dumps(json.loads(public_json(found.to_json())), indent=1) if args.json else table(found))
    return 1 if found.stops else 0
