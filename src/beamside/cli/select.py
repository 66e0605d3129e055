"""`beamside select`: the particles of chosen classes."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the particles of chosen classes, for a next run or another program"


def _classes(text: str) -> list[int]:
    """ "3,8,12-14" as numbers; argparse's error otherwise."""
    found: list[int] = []
    for piece in text.split(","):
        first, dash, last = piece.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(piece) > 20:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of classes; write 3,8,12 or 3-5,8")
        begin, end = int(first), int(last) if dash else int(first)
        if not 1 <= begin <= end <= 1_000_000:
            raise argparse.ArgumentTypeError(f"{piece!r} is no range of classes, which are counted from 1")
        found += range(begin, end + 1)
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """The run, the classes, and the file."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="directory of a classification")
    parser.add_argument("out", metavar="OUT", type=Path, help="STAR file to write; must not exist")
    parser.add_argument("--classes", metavar="LIST", type=_classes, required=True, help="for example 3,8,12-14")
    parser.add_argument("--reject", action="store_true", help="take the particles of all other classes")


def run(args: argparse.Namespace) -> int:
    """Write the particles and say how many."""
    from beamside.doctor.select import select

    chosen = select(args.run_dir, args.classes, args.out, reject=args.reject)
    state = "" if chosen.finished else " The run has not finished: these are the classes of its newest snapshot."
    print(f"{args.out}: {chosen.particles:,} of {chosen.of:,} particles.{state}")
    if chosen.trust is not None:
        print(f"Its stacks lie elsewhere: classify it with --trust {chosen.trust}")
    return 0
