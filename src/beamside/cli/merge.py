"""`beamside merge`: particle sets of several sessions as one."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "join particle sets of several sessions; results of earlier searches stay behind"


def configure(parser: argparse.ArgumentParser) -> None:
    """The new file, and what it is made of."""
    parser.add_argument("out", metavar="OUT", type=Path, help="STAR file to write; must not exist")
    parser.add_argument("inputs", metavar="IN", type=Path, nargs="+", help="particle files: STAR 3.0, 3.1, or .simple")


def run(args: argparse.Namespace) -> int:
    """Write the joined set and say what became of each input."""
    from beamside.doctor.merge import merge

    merged = merge(args.out, args.inputs)
    for path, count in merged.inputs.items():
        print(f"{path}: {count:,} particles taken")
    if merged.repeated:
        rows = "1 row names" if merged.repeated == 1 else f"{merged.repeated:,} rows name"
        print(f"input.repeated: {rows} a particle again; each is written once.")
    if merged.dropped:
        print(f"merge.data-only: left behind: {', '.join(sorted(merged.dropped))}.")
    print(
        f"{args.out}: {merged.particles:,} particles of {merged.stacks:,} stacks; optics groups: "
        f"{merged.optics_groups}."
    )
    if merged.trust is not None:
        print(f"Its stacks lie elsewhere: classify it with --trust {merged.trust}")
    return 0
