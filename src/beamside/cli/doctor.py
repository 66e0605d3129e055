"""`beamside doctor`: is this installation sound?"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

HELP = "versions, device, disk, and a self-check of every engine against known truth"


def configure(parser: argparse.ArgumentParser) -> None:
    """What to look at."""
    parser.add_argument("--folder", metavar="DIR", type=Path, default=Path(), help="whose disk is looked at (here)")
    parser.add_argument(
        "--no-check", action="store_true", help="leave out the self-check, which takes up to two minutes"
    )
    parser.add_argument(
        "--guards", action="store_true", help="print the catalogue of guards as Markdown, and nothing else"
    )


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 when a check fails or the disk is nearly full.

    Raises:
        InputError: the folder is absent.
    """
    # Idle OpenMP threads that spin take the processor from the checks; this must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    from beamside.doctor import machine
    from beamside.errors import InputError

    if args.guards:
        from beamside.doctor.catalogue import page

        print(page(), end="")
        return 0
    if not args.folder.is_dir():
        raise InputError("there is no such folder.", where=str(args.folder), remedy="Check the spelling.")
    for name, version in machine.versions().items():
        print(f"{name:<12} {version}")
    print(f"{'device':<12} {machine.device()}")
    free = machine.free_bytes(args.folder)
    short = free < machine.LEAST_FREE_BYTES
    print(f"{'free disk':<12} {free / 1e9:,.1f} GB under {args.folder.absolute()}{': too little' if short else ''}")
    failed = [] if args.no_check else _self_check()
    if failed:
        print(
            f"NOT SOUND: do not use {' or '.join(failed)} here. Install beamside into a new environment and look "
            "again; if it fails there too, report this page."
        )
    elif short:
        print("The disk is nearly full: a run would end early. Free some space, or name another --folder.")
    elif not args.no_check:
        print("Sound: every engine finds the truth that it was given.")
    return 1 if failed or short else 0


def _self_check() -> list[str]:
    """Engines that failed."""
    from beamside.doctor.selfcheck import self_check

    failed = []
    for outcome in self_check():
        failed += [] if outcome.passed else [outcome.engine]
        print(f"{outcome.engine:<12} {'passed' if outcome.passed else 'FAILED'}: {outcome.sentence} "
              f"({outcome.seconds:.0f} s)", flush=True)  # fmt: skip
    return failed
